"""Reader of Mega-NeRF's data: `coordinates.pt`, `train/` and `val/`.

`metadata/NAME.pt` holds `H`, `W`, `intrinsics` (fx, fy, cx, cy in pixels) and
`c2w` [3, 4] of `rgbs/NAME.jpg`: camera axes right, up, back; world axes down,
right, back, shifted by `origin_drb` and divided by `pose_scale_factor`. The
photos are undistorted already, whatever `distortion` says. The scene is right,
forward, up in metres.
"""

import pathlib

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_models, photo_files, validate
from infnerf_jax.scene.importers import drafting, torch_files

FILE = 'coordinates.pt'
_PARTS = ('train', 'val')
_TO_UP = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
_OPENGL_TO_OURS = np.diag([1.0, -1.0, -1.0])


def read(folder: pathlib.Path) -> validate.Draft:
  """Reads a data set's folder.

  Args:
    folder: with `coordinates.pt`.

  Returns:
    Draft; photos are named `train/NAME.jpg` and `val/NAME.jpg`.

  Raises:
    InputError: missing fields, damaged files, files that hold code.
  """
  source = folder / FILE
  content = torch_files.load(source)
  origin = _array(content, 'origin_drb', (3,), source)
  scale = _array(content, 'pose_scale_factor', (), source)
  if not scale > 0:
    raise errors.InputError(
        f'{source}: pose_scale_factor: got {scale}, expected above 0'
    )
  views, counts = [], {}
  for part in _PARTS:
    paths = sorted((folder / part / 'metadata').glob('*.pt'))
    counts[part] = len(paths)
    views += [_view(folder, part, path, float(scale)) for path in paths]
  points, report = drafting.points_beside(folder)
  report['notes'] = [
      f'val/ holds {counts["val"]} of the {len(views)} photos: data.test_list'
      ' names test photos (without it every 8th photo is one)'
  ]
  frame = {
      'coordinate_system': 'unknown (metres down, right, back)',
      'offset': origin.tolist(),
      'rotation': _TO_UP.tolist(),
  }
  return drafting.draft(
      'mega_nerf', source, views, pose_field='c2w', points=points, frame=frame,
      report=report,
  )  # fmt: skip


def _array(content, field: str, shape, where) -> np.ndarray:
  """A finite float64 array of a shape."""
  if not isinstance(content, dict) or field not in content:
    raise errors.InputError(
        f'{where}: {field}: got nothing, expected this field'
    )
  value = content[field]
  value = value.tolist() if isinstance(value, np.ndarray) else value
  if shape == () and isinstance(value, list) and len(value) == 1:
    value = value[0]
  array = validate.matrix(value, [shape], where=f'{where}: {field}')
  if not np.isfinite(array).all():
    raise errors.InputError(
        f'{where}: {field}: got {array.tolist()}, expected finite numbers'
    )
  return array


def _view(folder, part: str, path: pathlib.Path, scale: float):
  content = torch_files.load(path)
  fx, fy, cx, cy = _array(content, 'intrinsics', (4,), path)
  height, width = (
      validate.size(float(_array(content, n, (), path)), where=f'{path}: {n}')
      for n in ('H', 'W')
  )
  pose = _array(content, 'c2w', (3, 4), path)
  # float32 rotations are orthonormal to 1e-7, which the checks allow.
  rotation = _TO_UP @ pose[:, :3] @ _OPENGL_TO_OURS
  center = _TO_UP @ pose[:, 3] * scale
  photo = photo_files.with_extension(folder / part / 'rgbs' / path.stem)
  if not photo.is_file():
    photo = photo.with_name(f'{path.stem}.jpg')
  lens = camera_models.Lens(
      cameras_lib.PERSPECTIVE,
      np.array([fx, fy, cx, cy]),
      np.zeros(cameras_lib.NUM_DISTORTION),
  )
  return drafting.View(
      f'{part}/{photo.name}', photo, lens, (width, height),
      np.concatenate([rotation, center[:, None]], axis=1),
  )  # fmt: skip
