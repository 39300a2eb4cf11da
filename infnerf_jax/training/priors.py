"""Points of the priors: random nodes, random places in them.

The priors look at a fixed number of nodes a step, so that their cost does not
grow with the tree.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib

_OCTANT_BITS = np.array(
    [[o >> 2 & 1, o >> 1 & 1, o & 1] for o in range(8)], np.float32
)
# The point itself and its neighbours along the axes.
_STENCIL = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]).astype(
    np.float32
)


class PriorPoints(NamedTuple):
  """Places at which priors ask for density, flat over K = sum of the parts.

  Attributes:
    position: [K, 3] in each node's own box.
    slot: [K] int32, -1 for absent nodes.
    num_children: static layout of the parts, see `split_parts`.
  """

  position: jax.Array
  slot: jax.Array


def inner_nodes(octree: tree_lib.Octree) -> np.ndarray:
  """[M] int32 rows of nodes that have children."""
  return np.flatnonzero((octree.children >= 0).any(axis=1)).astype(np.int32)


def _own_box(unit, slot):
  """Positions for evaluation: the root's box is its contraction's centre."""
  return jnp.where((slot == 0)[..., None], 0.25 + 0.5 * unit, unit)


def consistency_points(
    key,
    tree: scene_model.TreeArrays,
    inner,
    *,
    num_nodes,
    num_points,
    grid_size,
) -> PriorPoints:
  """Points of level consistency.

  Args:
    key: PRNG key.
    tree: node arrays.
    inner: [M] int32 nodes with children, M > 0.
    num_nodes: parents drawn.
    num_points: points in each child.
    grid_size: cells along a node's side; a child's node_gsd is half a cell.

  Returns:
    PriorPoints of `num_nodes * 8 * num_points * 8`: parents [n, 8, P] first,
    then children [n, 8, P, 7].
  """
  node_key, point_key = jax.random.split(key)
  pick = jax.random.randint(node_key, (num_nodes,), 0, inner.shape[0])
  parent = inner[pick]  # [n]
  child = tree.children[parent]  # [n, 8]
  slot_of = lambda node: jnp.where(
      node >= 0, tree.slot_of_node[jnp.maximum(node, 0)], -1
  )
  child_slot, parent_slot = slot_of(child), slot_of(parent)
  # Both must be resident, else there is nothing to compare.
  present = (child_slot >= 0) & (parent_slot >= 0)[:, None]  # [n, 8]
  gsd = 0.5 / grid_size
  unit = jax.random.uniform(
      point_key, (num_nodes, 8, num_points, 3), minval=gsd, maxval=1 - gsd
  )
  in_parent = 0.5 * (unit + _OCTANT_BITS[:, None])  # [n, 8, P, 3]
  around = unit[..., None, :] + gsd * _STENCIL  # [n, 8, P, 7, 3]
  shape = (num_nodes, 8, num_points)
  parent_slots = jnp.where(present, parent_slot[:, None], -1)
  parent_slots = jnp.broadcast_to(parent_slots[..., None], shape)
  child_slots = jnp.where(present, child_slot, -1)
  child_slots = jnp.broadcast_to(child_slots[..., None, None], shape + (7,))
  return PriorPoints(
      position=jnp.concatenate(
          [
              _own_box(in_parent, parent_slots).reshape(-1, 3),
              around.reshape(-1, 3),
          ]
      ),
      slot=jnp.concatenate([parent_slots.reshape(-1), child_slots.reshape(-1)]),
  )


def split_consistency(values, points: PriorPoints):
  """Splits values at `consistency_points` into parents and children.

  Args:
    values: [K * 8].
    points: as `consistency_points` made them.

  Returns:
    ([K] parents, [K, 7] children, [K] bool both exist).
  """
  num = values.shape[0] // 8
  return values[:num], values[num:].reshape(num, 7), points.slot[:num] >= 0


def transparency_points(
    key, tree: scene_model.TreeArrays, among=None, *, num_nodes, num_points
) -> PriorPoints:
  """Points of the prior towards empty space: [n * P] in random nodes.

  Args:
    key: PRNG key.
    tree: node arrays.
    among: [K] int32 nodes to draw from, None: all.
    num_nodes: n.
    num_points: P.
  """
  node_key, point_key = jax.random.split(key)
  total = (tree.slot_of_node if among is None else among).shape[0]
  node = jax.random.randint(node_key, (num_nodes,), 0, total)
  if among is not None:
    node = among[node]
  shape = (num_nodes, num_points)
  slot = jnp.broadcast_to(tree.slot_of_node[node][:, None], shape).reshape(-1)
  unit = jax.random.uniform(point_key, (num_nodes * num_points, 3))
  return PriorPoints(position=_own_box(unit, slot), slot=slot)
