"""Extended trees: same root, permanent keys, what cannot be added."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.octree import build, extend
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import readers
from tests.scene import builders


def _tree():
  cells = [
      np.zeros((1, 3), int),
      np.array([[0, 0, 0], [1, 0, 1]]),
      np.array([[0, 1, 0]]),
  ]
  return tree_lib.from_coords(
      cells, center=np.array([1.0, 2, 3]), side=8.0, grid_size=16
  )


def test_cells_are_added_and_keys_stay():
  tree = _tree()
  more = extend.with_cells(
      tree,
      [
          np.zeros((1, 3), int),
          np.array([[0, 1, 0], [0, 0, 0]]),
          np.array([[0, 2, 0]]),
          np.array([[1, 5, 1]]),
      ],
  )
  assert np.bincount(more.level).tolist() == [1, 3, 2, 1]
  assert (more.side, more.grid_size) == (tree.side, tree.grid_size)
  np.testing.assert_array_equal(more.center, tree.center)
  keys = tree_lib.node_key(tree.level, tree.coord)
  rows = extend.rows_of_keys(more, keys)
  np.testing.assert_array_equal(more.coord[rows], tree.coord)
  np.testing.assert_array_equal(more.level[rows], tree.level)
  # Rows are not what they were, and what is new was not there.
  assert rows.tolist() != list(range(tree.num_nodes))
  back = extend.rows_of_keys(tree, tree_lib.node_key(more.level, more.coord))
  assert (back < 0).sum() == 3
  parents = more.coord[more.parent[1:]]
  np.testing.assert_array_equal(parents, more.coord[1:] >> 1)


def _scene(folder, **options):
  builders.infnerf(folder, num_photos=6, **options)
  return readers.load_scene(folder)


def test_points_ask_for_nodes_and_strays_beyond_the_root_are_refused(tmp_path):
  options = build.BuildOptions(grid_size=16, max_depth=5, root_octaves=2)
  base = build.build_octree(_scene(tmp_path / 'a'), options)
  same, box = extend.extend_octree(
      base.octree,
      base.sample_aabb,
      _scene(tmp_path / 'b', center=(0.7, 0, 0)),
      options,
      pixel_size=1.0,
      name='b',
  )
  assert same.num_nodes > base.octree.num_nodes
  assert box[1, 0] > base.sample_aabb[1, 0]
  assert (box[0] <= base.sample_aabb[0]).all()
  with pytest.raises(errors.InputError, match='b: .*outside of the octree'):
    extend.extend_octree(
        base.octree,
        base.sample_aabb,
        _scene(tmp_path / 'c', center=(30.0, 0, 0)),
        options,
        pixel_size=1.0,
        name='b',
    )
  with pytest.raises(errors.InputError, match='b: sparse points: got none'):
    extend.extend_octree(
        base.octree,
        base.sample_aabb,
        _scene(tmp_path / 'c')._replace(points=None),
        options,
        pixel_size=1.0,
        name='b',
    )
