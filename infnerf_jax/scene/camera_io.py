"""The camera table on disk: `cameras.npz` of a workdir."""

import numpy as np

from infnerf_jax import npz_files
from infnerf_jax.geometry import cameras as cameras_lib

_FIELDS = ('names',) + cameras_lib.Cameras._fields


def save_cameras(path, names, cameras: cameras_lib.Cameras) -> None:
  """Writes a camera table with the names of its photos, in one step.

  Args:
    path: file.
    names: N names, row by row.
    cameras: table [N].
  """
  if len(names) != len(cameras.width):
    raise ValueError(f'got {len(names)} names, {len(cameras.width)} cameras')
  arrays = {'names': np.array(list(names), dtype=np.str_), **cameras._asdict()}
  npz_files.write_npz_atomic(path, arrays)


def load_cameras(path) -> tuple[tuple[str, ...], cameras_lib.Cameras]:
  """Reads what `save_cameras` wrote.

  Args:
    path: file.

  Returns:
    (N names, Cameras [N]).

  Raises:
    InputError: absent, unreadable or inconsistent file.
  """
  arrays = npz_files.read_npz(
      path, _FIELDS, what='the cameras of a trained run'
  )
  count = arrays['names'].size
  shapes = {
      'names': (count,),
      'projection': (count,),
      'intrinsics': (count, 4),
      'distortion': (count, cameras_lib.NUM_DISTORTION),
      'cam_to_world': (count, 3, 4),
      'width': (count,),
      'height': (count,),
  }
  npz_files.check_shapes(path, arrays, shapes)
  names = tuple(str(name) for name in arrays.pop('names'))
  return names, cameras_lib.Cameras(**arrays)
