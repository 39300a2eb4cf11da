"""Which nodes may go because nothing is in them: policy, no parameters.

A sample of a node that is gone goes to its deepest ancestor that stays. So a
node may go where it is empty and that ancestor is empty there too; nodes with a
child that stays, stay, and so does what nobody has looked at.
"""

from typing import Callable, NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib


class Shares(NamedTuple):
  """What nodes give to the rays that pass through them; N nodes.

  Attributes:
    own: [N] float64 the largest share of a ray's colour that a node gives.
    stand_in: [N] float64 that its parent would give there in its place.
    seen: [N] bool whether any ray has a sample there.
  """

  own: np.ndarray
  stand_in: np.ndarray
  seen: np.ndarray


class Pruned(NamedTuple):
  """What may go.

  Attributes:
    gone: [N] bool.
    shares: as they were when each node was looked at, NaN: it was not.
  """

  gone: np.ndarray
  shares: Shares


def empty_nodes(
    octree: tree_lib.Octree,
    measure: Callable[[np.ndarray], Shares],
    *,
    max_share: float,
    candidates: np.ndarray | None = None,
) -> Pruned:
  """Empty nodes, from the deepest level up.

  Args:
    octree: tree.
    measure: [N] bool nodes that are gone to Shares without them.
    max_share: a node that gives less to every ray is empty.
    candidates: [N] bool nodes that have a field of their own, None: all.

  Returns:
    Pruned; the root stays.
  """
  num_nodes = octree.num_nodes
  gone = np.zeros(num_nodes, bool)
  found = Shares(
      np.full(num_nodes, np.nan),
      np.full(num_nodes, np.nan),
      np.zeros(num_nodes, bool),
  )
  if candidates is None:
    candidates = np.ones(num_nodes, bool)
  for level in range(octree.num_levels - 1, 0, -1):
    rows = np.flatnonzero((octree.level == level) & candidates)
    children = octree.children[rows]
    stays = (children >= 0) & ~gone[children] & candidates[children]
    rows = rows[~stays.any(axis=1)]
    if not len(rows):
      continue
    shares = measure(gone)
    for kept, new in zip(found, shares, strict=True):
      kept[rows] = new[rows]
    empty = np.maximum(found.own[rows], found.stand_in[rows]) < max_share
    gone[rows] = empty & found.seen[rows]
  return Pruned(gone, found)
