"""Tree arrays, permanent keys and boxes against slow oracles."""

import numpy as np
import pytest

from infnerf_jax.octree import tree


def _slow_key(level, coord):
  """Octants appended three bits a level behind a leading one."""
  key = 1
  for step in reversed(range(level)):
    x, y, z = (int(c) >> step & 1 for c in coord)
    key = key * 8 + 4 * x + 2 * y + z
  return key


def _cells(rng, depth=4, count=12):
  """Random leaves with all their ancestors, level by level."""
  leaves = rng.integers(0, 2**depth, (count, 3))
  return [
      np.unique(leaves >> (depth - level), axis=0) for level in range(depth + 1)
  ]


def test_keys_equal_the_slow_construction_and_invert():
  rng = np.random.default_rng(0)
  level = rng.integers(0, tree.MAX_LEVEL + 1, 300)
  coord = (rng.uniform(size=(300, 3)) * 2.0 ** level[:, None]).astype(np.int64)
  key = tree.node_key(level, coord)
  assert key.dtype == np.int64
  assert [int(k) for k in key] == [
      _slow_key(*pair) for pair in zip(level, coord)
  ]
  back_level, back_coord = tree.key_level_coord(key)
  np.testing.assert_array_equal(back_level, level)
  np.testing.assert_array_equal(back_coord, coord)
  corner = np.full(3, 2**tree.MAX_LEVEL - 1)
  last = tree.node_key(tree.MAX_LEVEL, corner)
  assert last == 2 ** (3 * tree.MAX_LEVEL + 1) - 1  # 61 bits: it fits
  with pytest.raises(ValueError, match='at most 20'):
    tree.node_key(21, corner)


def test_keys_are_unique_over_levels():
  keys = [
      int(tree.node_key(level, cell))
      for level in range(4)
      for cell in np.ndindex(*(2**level,) * 3)
  ]
  assert len(set(keys)) == len(keys) == 1 + 8 + 64 + 512


def test_octant_convention():
  """Bits x, y, z = 4, 2, 1, set for the upper half."""
  cells = [np.zeros((1, 3), int), np.array(list(np.ndindex(2, 2, 2)))]
  octree = tree.from_coords(cells, center=[0, 0, 0], side=2.0, grid_size=8)
  for octant in range(8):
    child = octree.children[0, octant]
    x, y, z = octant >> 2 & 1, octant >> 1 & 1, octant & 1
    assert octree.coord[child].tolist() == [x, y, z]
    expected = np.array([x - 1, y - 1, z - 1], float)
    np.testing.assert_array_equal(
        tree.node_aabb(octree)[child], [expected, expected + 1]
    )


@pytest.mark.parametrize('seed', range(3))
def test_links_are_mutual_and_rows_run_by_level(seed):
  cells = _cells(np.random.default_rng(seed))
  octree = tree.from_coords(cells, center=[5, -2, 1], side=8.0, grid_size=16)
  assert octree.num_nodes == sum(len(c) for c in cells)
  assert octree.num_levels == 5
  assert octree.parent[0] == -1 and np.all(np.diff(octree.level) >= 0)
  key = tree.node_key(octree.level, octree.coord)
  assert np.all(np.diff(key) > 0)  # level by level, Morton order within
  for node in range(1, octree.num_nodes):
    parent = octree.parent[node]
    assert octree.level[parent] == octree.level[node] - 1
    np.testing.assert_array_equal(octree.coord[parent], octree.coord[node] // 2)
    assert int(key[node]) >> 3 == int(key[parent])
    assert octree.children[parent, int(key[node]) & 7] == node
  assert np.sum(octree.children >= 0) == octree.num_nodes - 1


def test_boxes_nest_and_gsd_halves():
  cells = _cells(np.random.default_rng(5))
  octree = tree.from_coords(cells, center=[5, -2, 1], side=8.0, grid_size=16)
  assert octree.root_gsd == 0.25
  np.testing.assert_allclose(octree.node_gsd([0, 1, 3]), [0.25, 0.125, 0.03125])
  box = tree.node_aabb(octree)
  np.testing.assert_allclose(box[0], [[1, -6, -3], [9, 2, 5]])
  size = box[:, 1] - box[:, 0]
  np.testing.assert_allclose(
      size, np.repeat(8.0 / 2.0 ** octree.level[:, None], 3, 1)
  )
  parents = box[octree.parent[1:]]
  assert np.all(box[1:, 0] >= parents[:, 0])
  assert np.all(box[1:, 1] <= parents[:, 1])
