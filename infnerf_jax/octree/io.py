"""The octree on disk: `octree.npz` of a workdir."""

import os
import pathlib
import zipfile

import numpy as np

from infnerf_jax import errors
from infnerf_jax.octree import tree as tree_lib

_FIELDS = tree_lib.Octree._fields + ('sample_aabb',)


def save_octree(path, octree: tree_lib.Octree, sample_aabb) -> None:
  """Writes a tree and the box that bounds its rays; replaces in one step.

  Args:
    path: file.
    octree: tree.
    sample_aabb: [2, 3] metres.
  """
  path = pathlib.Path(path)
  arrays = octree._asdict()
  arrays['sample_aabb'] = np.asarray(sample_aabb, np.float64)
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as file:
    np.savez_compressed(file, **arrays)
  os.replace(temporary, path)


def load_octree(path) -> tuple[tree_lib.Octree, np.ndarray]:
  """Reads what `save_octree` wrote.

  Args:
    path: file.

  Returns:
    (Octree, [2, 3] float64 sample_aabb in metres).

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
        f'{path}: no such file, expected the octree of a trained run'
    ) from None
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as e:
    raise errors.InputError(
        f'{path}: cannot be read ({str(e).splitlines()[0]}), expected the'
        f' arrays {", ".join(_FIELDS)}'
    ) from None
  num_nodes = len(arrays['level'])
  expected = {
      'coord': (num_nodes, 3),
      'parent': (num_nodes,),
      'children': (num_nodes, 8),
      'center': (3,),
      'sample_aabb': (2, 3),
  }
  for name, shape in expected.items():
    if arrays[name].shape != shape:
      raise errors.InputError(
          f'{path}: {name}: got shape {arrays[name].shape}, expected {shape}'
      )
  aabb = arrays.pop('sample_aabb')
  arrays['side'] = float(arrays['side'])
  arrays['grid_size'] = int(arrays['grid_size'])
  return tree_lib.Octree(**arrays), aabb
