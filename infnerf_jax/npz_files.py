"""Archives of arrays (`.npz`) of a run's folder."""

import os
import pathlib
from typing import Iterable, Mapping

import numpy as np

from infnerf_jax import errors


def write_npz_atomic(path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays; the file is the old one or the new one, never half.

  Args:
    path: file.
    arrays: by name; text is of fixed width, which needs no pickle.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as file:
    np.savez_compressed(file, **arrays)
  os.replace(temporary, path)


def read_npz(
    path, names: Iterable[str], *, what: str, optional: Iterable[str] = ()
) -> dict[str, np.ndarray]:
  """Reads arrays that `write_npz_atomic` wrote.

  Args:
    path: file.
    names: of the arrays; others are left alone.
    what: what the file should be, for the error's line.
    optional: names of arrays that are read where they exist.

  Returns:
    {name: array}.

  Raises:
    InputError: the file or an array is absent or damaged.
  """
  path = pathlib.Path(path)
  try:
    # NumPy leaves a path's file open where the archive is broken.
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as stored:
      absent = [name for name in names if name not in stored.files]
      wanted = [n for n in (*names, *optional) if n in stored.files]
      arrays = {name: stored[name] for name in wanted}
  except FileNotFoundError:
    raise errors.InputError(f'{path}: no such file, expected {what}') from None
  # Damaged archives raise what zipfile, zlib, NumPy and its header's parser
  # have, of which there is no list.
  except Exception as error:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise errors.InputError(
        f'{path}: cannot be read ({reason}), expected {what}'
    ) from None
  if absent:
    raise errors.InputError(
        f'{path}: {", ".join(absent)}: got nothing, expected {what}'
    )
  return arrays


def check_shapes(path, arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Refuses arrays of other shapes than a file should hold.

  Args:
    path: file that they came from.
    arrays: by name.
    shapes: by name; arrays without one are not looked at.

  Raises:
    InputError: a shape differs.
  """
  for name, shape in shapes.items():
    if arrays[name].shape != tuple(shape):
      raise errors.InputError(
          f'{path}: {name}: got shape {arrays[name].shape}, expected {shape}'
      )
