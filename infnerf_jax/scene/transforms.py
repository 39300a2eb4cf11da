"""Reader of transforms.json: the nerfstudio and instant-ngp dialects.

Poses are camera to world with OpenGL axes (x right, y up, z backward); the
camera's y and z are turned round, the world stays the file's. nerfstudio's
`applied_transform` and `applied_scale` say how that world came from COLMAP's;
poses and points already contain them, so they are kept in `frame` and not
undone. instant-ngp's `scale`, `offset` and `aabb_scale` place the scene in its
own unit cube and mean nothing here. Its masks of what moves are found by
their names, `dynamic_mask_NAME.png` beside the photo.
"""

import math
import pathlib

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import (
    camera_models,
    decode,
    photo_files,
    ply,
    validate,
)

FILE = 'transforms.json'
_OPENGL_TO_OURS = np.diag([1.0, -1.0, -1.0, 1.0])
_FRAME_FIELDS = ('applied_transform', 'applied_scale')
_RATIONAL = ('k1', 'k2', 'p1', 'p2', 'k3', 'k4', 'k5', 'k6')
_FISHEYE = (
    'OPENCV_FISHEYE',
    'FISHEYE',
    'SIMPLE_FISHEYE',
    'SIMPLE_RADIAL_FISHEYE',
    'RADIAL_FISHEYE',
)


def read(source: pathlib.Path) -> validate.Draft:
  """Reads a transforms.json.

  Args:
    source: the file.

  Returns:
    Draft.

  Raises:
    InputError: missing fields, malformed files, paths that leave the folder.
  """
  folder = source.parent
  content = photo_files.read_json(source)
  frames = content.get('frames')
  if not isinstance(frames, list) or not frames:
    raise errors.InputError(
        f'{source}: frames: got {str(frames)[:60]!r}, expected a list of photos'
    )
  paths, masks = [], []
  for i, frame in enumerate(frames):
    if not isinstance(frame, dict) or 'file_path' not in frame:
      raise errors.InputError(
          f'{source}: frames[{i}]: file_path: got nothing, expected this field'
      )
    where = f'{source}: frames[{i}]: file_path'
    path = photo_files.inside(folder, frame['file_path'], where=where)
    paths.append(photo_files.with_extension(path))
    mask = frame.get('mask_path') or None
    where = f'{source}: frames[{i}]: mask_path'
    masks.append(
        photo_files.inside(folder, mask, where=where)
        if mask
        else _dynamic_mask(paths[-1])
    )
  names = _names(folder, paths)
  found = photo_files.find(names, paths)
  lenses, sizes, poses = [], [], []
  for row, photo_size in zip(found.rows, found.sizes, strict=True):
    where = f'{source}: photo {names[row]}'
    lens, size = _lens(content, frames[row], photo_size, where)
    lenses.append(lens)
    sizes.append(size)
    poses.append(_pose(frames[row], where))
  points, report = _points(folder, source, content)
  frame = validate.default_frame()
  frame.update({k: content[k] for k in _FRAME_FIELDS if k in content})
  return validate.Draft(
      format='transforms',
      source=source,
      pose_field='transform_matrix',
      names=names,
      paths=paths,
      mask_paths=masks,
      found=found,
      lenses=lenses,
      camera_sizes=sizes,
      poses=poses,
      points=points,
      visibility=None,
      frame=frame,
      report=report,
  )


def _dynamic_mask(photo: pathlib.Path) -> pathlib.Path | None:
  """instant-ngp's mask of what moves, where one lies beside the photo."""
  path = photo.with_name(f'{decode.DYNAMIC_MASK}{photo.stem}.png')
  return path if path.is_file() else None


def _names(folder: pathlib.Path, paths) -> list[str]:
  """Names relative to images/ where all photos lie there, else to the scene."""
  names = [path.relative_to(folder).as_posix() for path in paths]
  if all(name.startswith('images/') for name in names):
    return [name.removeprefix('images/') for name in names]
  return names


def _pose(frame, where) -> np.ndarray:
  if 'transform_matrix' not in frame:
    raise errors.InputError(
        f'{where}: transform_matrix: got nothing, expected this field'
    )
  field = f'{where}: transform_matrix'
  pose = validate.matrix(
      frame['transform_matrix'], [(4, 4), (3, 4)], where=field
  )
  return pose @ _OPENGL_TO_OURS


def _lens(content, frame, photo_size, where):
  """(lens, (width, height)) of a frame; its own fields go before the file's."""
  fields = {**content, **frame}
  get = lambda name, default: validate.number(
      fields.get(name, default), where=f'{where}: {name}'
  )
  size = tuple(
      validate.size(fields.get(name, int(pixels)), where=f'{where}: {name}')
      for name, pixels in zip('wh', photo_size, strict=True)
  )
  # A frame that states any focal length or angle leaves out the file's.
  focal = _focal(frame, size, where) or _focal(content, size, where)
  if focal is None:
    raise errors.InputError(
        f'{where}: fl_x: got nothing, expected fl_x or camera_angle_x'
    )
  center = (get('cx', size[0] / 2), get('cy', size[1] / 2))
  projection, names = _coefficients(fields, where)
  distortion = np.zeros(cameras_lib.NUM_DISTORTION)
  distortion[: len(names)] = [get(name, 0.0) for name in names]
  intrinsics = np.array([*focal, *center], np.float64)
  return camera_models.Lens(projection, intrinsics, distortion), size


def _focal(fields, size, where) -> tuple[float, float] | None:
  """(fx, fy) in pixels, one for both where the other is not given."""
  fx = _axis_focal(fields, 'x', size[0], where)
  fy = _axis_focal(fields, 'y', size[1], where)
  if fx is None and fy is None:
    return None
  return (fy if fx is None else fx), (fx if fy is None else fy)


def _axis_focal(fields, axis, pixels, where) -> float | None:
  if f'fl_{axis}' in fields:
    field = f'fl_{axis}'
    return validate.number(fields[field], where=f'{where}: {field}')
  for field, unit in (
      (f'camera_angle_{axis}', 1.0),
      (f'{axis}_fov', math.pi / 180),
  ):
    if field in fields:
      angle = unit * validate.number(fields[field], where=f'{where}: {field}')
      if not 0 < angle < math.pi:
        raise errors.InputError(
            f'{where}: {field}: got {fields[field]}, expected an angle of view '
            'between 0 and 180 degrees'
        )
      return pixels / 2 / math.tan(angle / 2)
  return None


def _coefficients(fields, where):
  """(projection, names of the coefficients in our table's order)."""
  model = str(fields.get('camera_model', 'OPENCV')).upper()
  if model in _FISHEYE or fields.get('is_fisheye') is True:
    return cameras_lib.FISHEYE, ('k1', 'k2', 'k3', 'k4')
  if model == 'FULL_OPENCV':
    return cameras_lib.PERSPECTIVE, _RATIONAL
  if model != 'PERSPECTIVE' and model not in camera_models.supported():
    raise errors.InputError(
        f'{where}: camera_model: got {model}, expected one of '
        f'{", ".join(camera_models.supported())}'
    )
  # Outside FULL_OPENCV a fourth coefficient means a term in r^8, which
  # OpenCV's models do not have.
  if fields.get('k4', 0.0) != 0:
    raise errors.InputError(
        f'{where}: k4: got {fields["k4"]}, expected 0 or camera_model '
        'FULL_OPENCV'
    )
  return cameras_lib.PERSPECTIVE, _RATIONAL[:5]


def _points(folder, source, content):
  """(points or None, report)."""
  listed = content.get('ply_file_path')
  if listed:
    where = f'{source}: ply_file_path'
    path = photo_files.inside(folder, listed, where=where)
    if not path.is_file():
      raise errors.InputError(
          f'{where}: got {listed}, which is absent, expected a PLY file'
      )
  else:
    path = folder / 'sparse_points.ply'
    if not path.is_file():
      return None, {}
  points, kept = ply.read(path)
  return points, {'num_points_dropped': int((~kept).sum())}
