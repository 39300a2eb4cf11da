"""Reader of an OpenDroneMap project: `opensfm/reconstruction.json`, `images/`.

Poses and points are metres east, north, up about `reference_lla`. Focal
lengths and principal points are shares of the photo's longer side, measured
from its middle. `opensfm/tracks.csv` says which photos see each point.
"""

import pathlib

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry.colmap_library import pycolmap
from infnerf_jax.scene import camera_models, photo_files, scene, validate
from infnerf_jax.scene.importers import drafting

FILE = 'opensfm/reconstruction.json'
_TRACKS = 'tracks.csv'
_PERSPECTIVE = ('k1', 'k2', 'p1', 'p2', 'k3')
# projection_type: (projection, coefficients in our table's order).
_MODELS = {
    'perspective': (cameras_lib.PERSPECTIVE, ('k1', 'k2')),
    'simple_radial': (cameras_lib.PERSPECTIVE, ('k1',)),
    'radial': (cameras_lib.PERSPECTIVE, ('k1', 'k2')),
    'brown': (cameras_lib.PERSPECTIVE, _PERSPECTIVE),
    'fisheye': (cameras_lib.FISHEYE, ('k1', 'k2')),
    'fisheye_opencv': (cameras_lib.FISHEYE, ('k1', 'k2', 'k3', 'k4')),
}


def read(folder: pathlib.Path) -> validate.Draft:
  """Reads a project's folder.

  Args:
    folder: of the project.

  Returns:
    Draft of its largest reconstruction.

  Raises:
    InputError: malformed files, unknown camera models, unsafe names.
  """
  source = folder / FILE
  models = _read_list(source)
  sizes = [len(_table(m, 'shots', source)) for m in models]
  model = models[int(np.argmax(sizes))]
  lenses = {
      name: _lens(camera, f'{source}: camera {name}')
      for name, camera in _table(model, 'cameras', source).items()
  }
  views = [
      _view(name, shot, lenses, folder, source)
      for name, shot in sorted(_table(model, 'shots', source).items())
  ]
  points, visibility = _points(model, views, source)
  report = {}
  if len(models) > 1:
    report['notes'] = [
        f'{len(models)} reconstructions: took the largest ({max(sizes)} photos)'
    ]
  draft = drafting.draft(
      'open_drone_map', source, views, pose_field='rotation, translation',
      points=points, visibility=visibility,
      frame=_frame(model, source), report=report,
  )  # fmt: skip
  masks = [
      photo_files.inside(folder / 'masks', f'{v.name}.png', where=v.name)
      for v in views
  ]
  return draft._replace(
      mask_paths=[path if path.is_file() else None for path in masks]
  )


def _read_list(source: pathlib.Path) -> list:
  """The file's reconstructions; it is a list, where others are objects."""
  models = photo_files.read_any_json(source)
  if not isinstance(models, list) or not models:
    raise errors.InputError(
        f'{source}: got {str(models)[:40]!r}, expected a list of'
        ' reconstructions'
    )
  return models


def _table(model, field: str, source) -> dict:
  value = model.get(field) if isinstance(model, dict) else None
  if not isinstance(value, dict):
    raise errors.InputError(
        f'{source}: {field}: got {str(value)[:40]!r}, expected an object'
    )
  return value


def _lens(camera, where: str):
  """(lens, (width, height))."""
  kind = camera.get('projection_type')
  if kind not in _MODELS:
    raise errors.InputError(
        f'{where}: projection_type: got {kind!r}, expected one of'
        f' {", ".join(_MODELS)}'
    )
  size = tuple(
      validate.size(camera.get(n), where=f'{where}: {n}')
      for n in ('width', 'height')
  )
  number = lambda name, default: validate.number(
      camera.get(name, default), where=f'{where}: {name}'
  )
  longer = max(size)
  focal = camera.get('focal', camera.get('focal_x'))
  fx = validate.number(focal, where=f'{where}: focal') * longer
  fy = fx
  if 'focal_y' in camera:
    fy = number('focal_y', None) * longer
  elif 'focal_ratio' in camera:
    fy = fx * number('focal_ratio', None)
  center = [
      s / 2 + longer * number(n, 0.0) for s, n in zip(size, ('c_x', 'c_y'))
  ]
  projection, names = _MODELS[kind]
  distortion = np.zeros(cameras_lib.NUM_DISTORTION)
  distortion[: len(names)] = [number(n, 0.0) for n in names]
  intrinsics = np.array([fx, fy, *center])
  return camera_models.Lens(projection, intrinsics, distortion), size


def _view(name, shot, lenses, folder, source) -> drafting.View:
  where = f'{source}: photo {name}'
  camera = shot.get('camera') if isinstance(shot, dict) else None
  if camera not in lenses:
    raise errors.InputError(
        f'{where}: camera: got {camera!r}, expected one of'
        f' {", ".join(map(repr, lenses))}'
    )
  vectors = []
  for field in ('rotation', 'translation'):
    value = validate.matrix(shot.get(field), [(3,)], where=f'{where}: {field}')
    if not np.isfinite(value).all():
      raise errors.InputError(
          f'{where}: {field}: got {value.tolist()}, expected finite numbers'
      )
    vectors.append(value)
  world_to_cam = pycolmap.Rotation3d(vectors[0]).matrix()
  pose = np.concatenate(
      [world_to_cam.T, -(world_to_cam.T @ vectors[1])[:, None]], axis=1
  )
  path = photo_files.inside(folder / 'images', name, where=where)
  return drafting.View(name, path, *lenses[camera], pose)


def _frame(model, source) -> dict:
  """Where the project lies on Earth, as far as it says."""
  reference = model.get('reference_lla')
  if not isinstance(reference, dict):
    path = source.with_name('reference_lla.json')
    if not path.is_file():
      return validate.default_frame()
    reference = photo_files.read_json(path)
    source = path
  values = [
      validate.number(
          reference.get(name), where=f'{source}: reference_lla: {name}'
      )
      for name in ('latitude', 'longitude', 'altitude')
  ]
  return drafting.frame_on_earth(drafting.geocentric(*values))


def _points(model, views, source):
  """(points, visibility), each None where there is none."""
  table = model.get('points') or {}
  ids = sorted(table)
  if not ids:
    return None, None
  where = f'{source}: points'
  positions = validate.matrix(
      [table[i].get('coordinates') for i in ids], [(len(ids), 3)], where=where
  )
  colors = validate.matrix(
      [table[i].get('color', [128, 128, 128]) for i in ids],
      [(len(ids), 3)],
      where=f'{where}: color',
  )
  kept = np.isfinite(positions).all(axis=-1)
  ids = [name for name, keep in zip(ids, kept, strict=True) if keep]
  points = scene.Points(
      positions[kept],
      np.clip(np.nan_to_num(colors[kept]), 0, 255).astype(np.uint8),
  )
  path = source.with_name(_TRACKS)
  visibility = _visibility(path, ids, views) if path.is_file() else None
  return points, visibility


def _visibility(path, ids, views) -> scene.Visibility:
  """Photos of each point by the tracks' list: photo, track, feature, ..."""
  photo_of = {view.name: row for row, view in enumerate(views)}
  point_of = {name: row for row, name in enumerate(ids)}
  seen = set()
  with open(path, encoding='utf-8', errors='replace') as file:
    for line in file:
      fields = line.rstrip('\n').split('\t', 2)
      if len(fields) == 3 and fields[0] in photo_of and fields[1] in point_of:
        seen.add((point_of[fields[1]], photo_of[fields[0]]))
  pairs = np.array(sorted(seen), np.int64).reshape(-1, 2)
  counts = np.bincount(pairs[:, 0], minlength=len(ids))
  return scene.Visibility(
      np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
      pairs[:, 1].astype(np.int32),
  )
