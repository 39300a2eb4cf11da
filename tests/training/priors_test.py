"""Points of the priors lie where they should."""

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.training import priors

_GRID = 32


def _tree():
  cells = [
      np.zeros((1, 3), int),
      np.array([[0, 0, 0], [1, 0, 1]]),
      np.array([[2, 1, 3]]),
  ]
  return tree_lib.from_coords(
      cells, center=np.zeros(3), side=2.0, grid_size=_GRID
  )


def _world(octree, node, position):
  """Root-unit points of positions in a node's own box, in NumPy."""
  if node == 0:
    return (np.asarray(position) * 4 - 2 + 1) / 2
  side = 0.5 ** octree.level[node]
  return (octree.coord[node] + np.asarray(position)) * side


def test_inner_nodes():
  octree = _tree()
  assert priors.inner_nodes(octree).tolist() == [
      i for i in range(octree.num_nodes) if (octree.children[i] >= 0).any()
  ]


def test_parent_and_child_points_are_the_same_place():
  octree = _tree()
  slots = np.arange(octree.num_nodes, dtype=np.int32)
  arrays = scene_model.tree_arrays(octree, slots)
  inner = jnp.asarray(priors.inner_nodes(octree))
  points = priors.consistency_points(
      jax.random.key(3),
      arrays,
      inner,
      num_nodes=6,
      num_points=5,
      grid_size=_GRID,
  )
  num = 6 * 8 * 5
  position = np.asarray(points.position)
  slot = np.asarray(points.slot)
  parents, children, valid = priors.split_consistency(
      jnp.arange(len(slot)), points
  )
  assert children.shape == (num, 7) and valid.shape == (num,)
  seen = 0
  for k in np.flatnonzero(np.asarray(valid)):
    parent = slot[int(parents[k])]
    rows = np.asarray(children[k])
    child = slot[rows[0]]
    assert octree.parent[child] == parent
    center = _world(octree, child, position[rows[0]])
    np.testing.assert_allclose(
        center, _world(octree, parent, position[int(parents[k])]), atol=1e-6
    )
    # Neighbours lie one node_gsd of the child away (side 2 m: metres / 2).
    gsd = octree.node_gsd(octree.level[child]) / octree.side
    for row in rows[1:]:
      assert slot[row] == child
      step = np.abs(_world(octree, child, position[row]) - center)
      np.testing.assert_allclose(np.sort(step), [0, 0, gsd], atol=1e-6)
      assert np.all(position[row] >= -1e-6) and np.all(
          position[row] <= 1 + 1e-6
      )
    seen += 1
  assert seen > 0
  # Absent children: nothing is evaluated.
  absent = ~np.asarray(valid)
  assert np.all(slot[np.asarray(parents)[absent]] == -1)
  assert np.all(slot[np.asarray(children)[absent]] == -1)


def test_absent_slots_are_left_out():
  octree = _tree()
  slots = np.array([0, 1, -1, -1], np.int32)
  arrays = scene_model.tree_arrays(octree, slots)
  inner = jnp.asarray(priors.inner_nodes(octree))
  points = priors.consistency_points(
      jax.random.key(0),
      arrays,
      inner,
      num_nodes=8,
      num_points=2,
      grid_size=_GRID,
  )
  assert set(np.unique(points.slot)) <= {-1, 0, 1}


def test_transparency_points_lie_in_their_boxes():
  octree = _tree()
  slots = np.arange(octree.num_nodes, dtype=np.int32)
  arrays = scene_model.tree_arrays(octree, slots)
  points = priors.transparency_points(
      jax.random.key(1), arrays, num_nodes=16, num_points=50
  )
  position, slot = np.asarray(points.position), np.asarray(points.slot)
  assert position.shape == (800, 3) and set(slot) == set(range(4))
  # The root's own box is the inner half of its contracted cube.
  root = position[slot == 0]
  assert root.min() >= 0.25 and root.max() <= 0.75
  assert position[slot > 0].min() < 0.05 and position[slot > 0].max() > 0.95
