"""The octree on disk: `octree.npz` of a workdir."""

import numpy as np

from infnerf_jax import npz_files
from infnerf_jax.octree import tree as tree_lib

_FIELDS = tree_lib.Octree._fields + ('sample_aabb',)


def save_octree(path, octree: tree_lib.Octree, sample_aabb) -> None:
  """Writes a tree and the box that bounds its rays; replaces in one step.

  Args:
    path: file.
    octree: tree.
    sample_aabb: [2, 3] metres.
  """
  arrays = octree._asdict()
  arrays['sample_aabb'] = np.asarray(sample_aabb, np.float64)
  npz_files.write_npz_atomic(path, arrays)


def load_octree(path) -> tuple[tree_lib.Octree, np.ndarray]:
  """Reads what `save_octree` wrote.

  Args:
    path: file.

  Returns:
    (Octree, [2, 3] float64 sample_aabb in metres).

  Raises:
    InputError: absent, unreadable or inconsistent file.
  """
  arrays = npz_files.read_npz(path, _FIELDS, what='the octree of a trained run')
  num_nodes = arrays['level'].size
  shapes = {
      'level': (num_nodes,),
      'coord': (num_nodes, 3),
      'parent': (num_nodes,),
      'children': (num_nodes, 8),
      'center': (3,),
      'side': (),
      'grid_size': (),
      'sample_aabb': (2, 3),
  }
  npz_files.check_shapes(path, arrays, shapes)
  aabb = arrays.pop('sample_aabb')
  arrays['side'] = float(arrays['side'])
  arrays['grid_size'] = int(arrays['grid_size'])
  return tree_lib.Octree(**arrays), aabb
