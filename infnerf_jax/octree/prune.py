"""Which nodes may go because nothing is in them: policy, no parameters.

A sample of a node that is gone goes to its deepest ancestor that stays. So a
node may go where it is empty and that ancestor is empty there too; nodes with a
child that stays, stay.
"""

from typing import Callable, NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib


class Pruned(NamedTuple):
  """What may go.

  Attributes:
    gone: [N] bool.
    opacity: [N] float64 of each node by its own field, NaN: not looked at.
    stand_in_opacity: [N] float64 of the ancestor that would stand in for it,
      in its box, NaN: not looked at.
  """

  gone: np.ndarray
  opacity: np.ndarray
  stand_in_opacity: np.ndarray


def empty_nodes(
    octree: tree_lib.Octree,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    max_opacity: float,
    candidates: np.ndarray | None = None,
) -> Pruned:
  """Empty nodes, from the deepest level up.

  Args:
    octree: tree.
    measure: ([K] nodes, [K] nodes or ancestors of theirs) to the [K] opacities
      of the boxes of the first by the fields of the second.
    max_opacity: below it a node is empty.
    candidates: [N] bool nodes that have a field of their own, None: all.

  Returns:
    Pruned; the root stays.
  """
  num_nodes = octree.num_nodes
  gone = np.zeros(num_nodes, bool)
  opacity = np.full(num_nodes, np.nan)
  stand_in_opacity = np.full(num_nodes, np.nan)
  if candidates is None:
    candidates = np.ones(num_nodes, bool)
  for level in range(octree.num_levels - 1, 0, -1):
    rows = np.flatnonzero((octree.level == level) & candidates)
    children = octree.children[rows]
    stays = (children >= 0) & ~gone[children] & candidates[children]
    rows = rows[~stays.any(axis=1)]
    if not len(rows):
      continue
    opacity[rows] = measure(rows, rows)
    rows = rows[opacity[rows] < max_opacity]
    if not len(rows):
      continue
    # What stood in for descendants that are gone would go with them: their
    # boxes are parts of this one, which the ancestor is asked for as a whole.
    stand_in_opacity[rows] = measure(rows, octree.parent[rows])
    gone[rows] = stand_in_opacity[rows] < max_opacity
  return Pruned(gone, opacity, stand_in_opacity)
