"""Reader of the InfNeRF format: images/, cameras.json, sparse_points.ply.

`cameras.json` maps a photo's name (relative to `images/`) to `intrinsic`
[3, 3], `extrinsic` [4, 4] (world to camera, x right, y down, z forward) and
optionally `width`, `height`, `distortion: {model, params}` (COLMAP's model
name and whole parameter vector, or its coefficients alone) and `mask` (path
relative to the scene folder). `visibility.npz` holds `offsets` [P + 1],
`photo_idx` [K] and `photo_names`; `scene.json` the frame.
"""

import pathlib

import numpy as np

from infnerf_jax import errors, npz_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame
from infnerf_jax.scene import camera_models, photo_files, ply, scene, validate

FILE = 'cameras.json'


def read(folder: pathlib.Path) -> validate.Draft:
  """Reads a folder in the InfNeRF format.

  Args:
    folder: of the scene.

  Returns:
    Draft.

  Raises:
    InputError: missing fields, malformed files, paths that leave the folder.
  """
  source = folder / FILE
  entries = photo_files.read_json(source)
  names = sorted(entries)
  paths, masks = [], []
  for name in names:
    where = f'{source}: photo {name}'
    if not isinstance(entries[name], dict):
      raise errors.InputError(
          f'{where}: got {str(entries[name])[:60]!r}, expected an object with '
          'intrinsic and extrinsic'
      )
    paths.append(photo_files.inside(folder / 'images', name, where=where))
    mask = entries[name].get('mask')
    masks.append(
        None
        if mask is None
        else photo_files.inside(folder, mask, where=f'{where}: mask')
    )
  found = photo_files.find(names, paths)
  lenses, sizes, poses = [], [], []
  for row, photo_size in zip(found.rows, found.sizes, strict=True):
    where = f'{source}: photo {names[row]}'
    lens, size = _lens(entries[names[row]], photo_size, where=where)
    lenses.append(lens)
    sizes.append(size)
    poses.append(_pose(entries[names[row]], where=where))
  frame, report = _frame(folder / 'scene.json')
  points, visibility = _points(folder, names, report)
  return validate.Draft(
      format='infnerf',
      source=source,
      pose_field='extrinsic',
      names=names,
      paths=paths,
      mask_paths=masks,
      found=found,
      lenses=lenses,
      camera_sizes=sizes,
      poses=poses,
      points=points,
      visibility=visibility,
      frame=frame,
      report=report,
  )


def _field(entry: dict, field: str, *, where: str):
  if field not in entry:
    raise errors.InputError(
        f'{where}: {field}: got nothing, expected this field'
    )
  return entry[field]


def _lens(entry: dict, photo_size, *, where: str):
  """(lens, (width, height)) of one entry; the size defaults to the photo's."""
  k = _field(entry, 'intrinsic', where=where)
  k = validate.matrix(k, [(3, 3)], where=f'{where}: intrinsic')
  bottom_ok = np.allclose(k[2], [0, 0, 1], atol=1e-9)
  if not bottom_ok or k[1, 0] != 0 or abs(k[0, 1]) > 1e-6 * abs(k[0, 0]):
    raise errors.InputError(
        f'{where}: intrinsic: got {k.tolist()}, expected [[fx, 0, cx], '
        '[0, fy, cy], [0, 0, 1]]'
    )
  size = tuple(
      validate.size(entry.get(field, int(default)), where=f'{where}: {field}')
      for field, default in zip(('width', 'height'), photo_size, strict=True)
  )
  intrinsics = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
  lens = camera_models.Lens(
      cameras_lib.PERSPECTIVE, intrinsics, np.zeros(cameras_lib.NUM_DISTORTION)
  )
  distortion = entry.get('distortion')
  if distortion is None:
    return lens, size
  if not isinstance(distortion, dict) or {'model', 'params'} - set(distortion):
    raise errors.InputError(
        f'{where}: distortion: got {str(distortion)[:60]!r}, expected an '
        'object with model and params'
    )
  validate.check_lens(lens, where=where)
  lens = camera_models.from_colmap(
      distortion['model'],
      distortion['params'],
      where=where,
      intrinsics=intrinsics,
  )
  return lens, size


def _pose(entry: dict, *, where: str) -> np.ndarray:
  """[3, 4] camera to world; checked here because it is inverted here."""
  field = f'{where}: extrinsic'
  value = _field(entry, 'extrinsic', where=where)
  pose = validate.matrix(value, [(4, 4), (3, 4)], where=field)
  world_to_cam = validate.check_pose(pose, where=field)
  rotation = world_to_cam[:, :3].T
  return np.concatenate([rotation, -rotation @ world_to_cam[:, 3:]], axis=1)


def _frame(path: pathlib.Path):
  """(frame, report) by scene.json, where there is one."""
  frame = validate.default_frame()
  if not path.exists():
    return frame, {}
  content = photo_files.read_json(path)
  for field, shape in (('offset', (3,)), ('rotation', (3, 3))):
    if content.get(field) is not None:
      where = f'{path}: {field}'
      value = validate.matrix(content[field], [shape], where=where)
      if not np.isfinite(value).all():
        raise errors.InputError(
            f'{where}: got {value.tolist()}, expected finite numbers'
        )
      frame[field] = value.tolist()
  map_frame.check_system(
      content.get('coordinate_system'), f'{path}: coordinate_system'
  )
  known = {'offset', 'rotation', 'report'}
  frame.update({k: v for k, v in content.items() if k not in known})
  report = {}
  if isinstance(content.get('report'), dict):
    report['source_report'] = content['report']
  return frame, report


def _points(folder: pathlib.Path, names, report):
  """(points, visibility), each None where its file is absent."""
  path = folder / 'sparse_points.ply'
  if not path.exists():
    return None, None
  points, kept = ply.read(path)
  report['num_points_dropped'] = int((~kept).sum())
  path = folder / 'visibility.npz'
  if not path.exists():
    return points, None
  return points, _visibility(path, names, kept)


def _visibility(path: pathlib.Path, names, kept) -> scene.Visibility:
  """Rows of `names` that see each kept point."""
  arrays = npz_files.read_npz(
      path,
      ('offsets', 'photo_idx'),
      optional=('photo_names',),
      what='arrays offsets and photo_idx, which photos see each point',
  )
  offsets, photo_idx = arrays['offsets'], arrays['photo_idx']
  for name, value in (('offsets', offsets), ('photo_idx', photo_idx)):
    if not np.issubdtype(value.dtype, np.integer):
      raise errors.InputError(
          f'{path}: {name}: got {value.dtype}, expected whole numbers'
      )
  listed = [str(name) for name in arrays.get('photo_names', names)]
  fits = (
      offsets.shape == (len(kept) + 1,)
      and photo_idx.ndim == 1
      and offsets[0] == 0
      and offsets[-1] == len(photo_idx)
      and bool((np.diff(offsets) >= 0).all())
  )
  if not fits:
    raise errors.InputError(
        f'{path}: offsets: got {offsets.shape} up to '
        f'{offsets[-1] if offsets.size else 0} for {photo_idx.size} views, '
        f'expected {len(kept) + 1} increasing numbers for {len(kept)} points'
    )
  if photo_idx.size and not 0 <= photo_idx.min() <= photo_idx.max() < len(
      listed
  ):
    raise errors.InputError(
        f'{path}: photo_idx: got {photo_idx.min()} to {photo_idx.max()}, '
        f'expected rows of {len(listed)} photos'
    )
  row_of = {name: row for row, name in enumerate(names)}
  rows = np.array([row_of.get(name, -1) for name in listed], np.int64)
  photo_idx = rows[photo_idx]
  counts = np.diff(offsets)
  use = (photo_idx >= 0) & np.repeat(kept, counts)
  total = np.concatenate([[0], np.cumsum(use)])[offsets]
  counts = np.diff(total)[kept]
  return scene.Visibility(
      offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
      photo_idx=photo_idx[use].astype(np.int32),
  )
