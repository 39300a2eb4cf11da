"""The camera table on disk: `cameras.npz` of a workdir."""

import os
import pathlib
import zipfile

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib

_FIELDS = ('names',) + cameras_lib.Cameras._fields


def save_cameras(path, names, cameras: cameras_lib.Cameras) -> None:
  """Writes a camera table with the names of its photos, in one step.

  Args:
    path: file.
    names: N names, row by row.
    cameras: table [N].
  """
  path = pathlib.Path(path)
  if len(names) != len(cameras.width):
    raise ValueError(f'got {len(names)} names, {len(cameras.width)} cameras')
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as file:
    # A fixed-width text array needs no pickle, so it is safe to load.
    np.savez_compressed(
        file, names=np.array(list(names), dtype=np.str_), **cameras._asdict()
    )
  os.replace(temporary, path)


def load_cameras(path) -> tuple[tuple[str, ...], cameras_lib.Cameras]:
  """Reads what `save_cameras` wrote.

  Args:
    path: file.

  Returns:
    (N names, Cameras [N]).

  Raises:
    InputError: absent, unreadable or inconsistent file.
  """
  path = pathlib.Path(path)
  try:
    # NumPy leaves a path's file open where the archive is broken.
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in _FIELDS}
  except FileNotFoundError:
    raise errors.InputError(
        f'{path}: no such file, expected the cameras of a trained run'
    ) from None
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as e:
    raise errors.InputError(
        f'{path}: cannot be read ({str(e).splitlines()[0]}), expected the'
        f' arrays {", ".join(_FIELDS)}'
    ) from None
  names = tuple(str(name) for name in arrays.pop('names'))
  cameras = cameras_lib.Cameras(**arrays)
  if any(np.ndim(x) < 1 or len(x) != len(names) for x in cameras):
    raise errors.InputError(
        f'{path}: rows of {", ".join(cameras._fields)}: got'
        f' {[np.shape(x) for x in cameras]}, expected {len(names)} each'
    )
  return names, cameras
