"""Lines of nodes along a curve, and windows that slide along them.

Each level has a track of its own, as far as the slots go round; levels in which
more rays end get wider windows. Of several node shards each has such lines of
its own nodes.
"""

from typing import NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib

# Of a track's slots, for the exchange.
_EXCHANGE = 1 / 9
# Shifts of the curves, in sides of the root; thirds fall on no cell's face.
_SHIFTS = np.array([[0, 0, 0], [1, 1, 0], [2, 1, 0], [1, 2, 0]]) / 3
_CURVE_LEVELS = 20


class Track(NamedTuple):
  """Nodes along a curve, and the window that slides along them.

  Attributes:
    nodes: [n] in line.
    window: nodes that are resident at a time.
    exchange: most that a stage takes in.
    first_slot: of the window's `window + exchange`, a row of all shards'.
    passed: [S] nodes that the middle of each stage's window has passed.
  """

  nodes: np.ndarray
  window: int
  exchange: int
  first_slot: int
  passed: np.ndarray

  def start(self, stage: int) -> int:
    """Place at which a stage's window begins; places go on round the line."""
    return int(self.passed[stage]) - self.window // 2

  def rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """(slots, nodes) of places."""
    place = np.arange(first, last)
    slot = self.first_slot + place % (self.window + self.exchange)
    return slot, self.nodes[place % len(self.nodes)]


def tour(
    octree: tree_lib.Octree, nodes: np.ndarray, variant: int = 0
) -> np.ndarray:
  """Nodes along a Morton curve through their centres.

  Args:
    octree: tree.
    nodes: [n] rows.
    variant: of the curve.

  Returns:
    [n] the same, sorted.
  """
  return nodes[np.argsort(_along(octree, nodes, variant), kind='stable')]


def _along(octree, nodes, variant):
  """[n] int64 places of nodes' centres on a curve."""
  side = 0.5 ** octree.level[nodes].astype(np.float64)[:, None]
  center = (octree.coord[nodes] + 0.5) * side
  place = (center + _SHIFTS[variant % len(_SHIFTS)]) / 2  # room for the shift
  return tree_lib.morton_code((place * 2**_CURVE_LEVELS).astype(np.int64))


def owners(octree: tree_lib.Octree, num_shards: int) -> np.ndarray:
  """Which node shard has which nodes, whatever the step.

  Neighbours along a level's curve take turns. So at equal places in their lines
  the windows of all shards lie side by side, as one wide window, and each has
  its part of what ends there.

  Args:
    octree: tree.
    num_shards: D.

  Returns:
    [N] int32.
  """
  shard = np.zeros(octree.num_nodes, np.int32)
  turn = 0
  for level in np.unique(octree.level):
    nodes = tour(octree, np.flatnonzero(octree.level == level))
    shard[nodes] = (turn + np.arange(len(nodes))) % num_shards
    turn += len(nodes)
  return shard


def _share_slots(sizes, masses, num_slots) -> list[int] | None:
  """Slots of each track; None: some would have fewer than two.

  With windows of n nodes about 1 / sqrt(n) of their rays' samples lie outside:
  the least in all is lost with n in proportion to mass ** (2 / 3).
  """
  wish = np.maximum(masses, 1e-9) ** (2 / 3)
  # No track needs more than its nodes; what is left goes to the others.
  given, free = np.zeros(len(sizes)), np.ones(len(sizes), bool)
  while free.any():
    left = num_slots - given.sum()
    given[free] = left * wish[free] / wish[free].sum()
    over = free & (given >= sizes)
    if not over.any():
      break
    given[over], free[over] = np.asarray(sizes)[over], False
    given[free] = 0
  slots = np.floor(given).astype(int)
  moving = slots < sizes
  return slots.tolist() if (slots[moving] >= 2).all() else None


def deal_out(
    octree: tree_lib.Octree,
    nodes: np.ndarray,
    mass: np.ndarray,
    num_slots: int,
    variant: int,
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, int]]]:
  """Deals slots out to levels.

  Args:
    octree: tree.
    nodes: [n] that share the slots.
    mass: [N] share of the rays that end in each node.
    num_slots: fewer than n.
    variant: of the curve.

  Returns:
    (nodes of levels that are wholly resident, [(nodes in line, slots)] of the
    other tracks).
  """
  levels = np.unique(octree.level[nodes])
  groups = [nodes[octree.level[nodes] == level] for level in levels]
  while True:
    slots = _share_slots(
        [len(g) for g in groups], [mass[g].sum() for g in groups], num_slots
    )
    if slots is not None:
      break
    if len(groups) == 1:
      slots = [num_slots]
      break
    groups[-2:] = [np.concatenate(groups[-2:])]
  parts = list(zip(groups, slots, strict=True))
  whole = [g for g, n in parts if n >= len(g)]
  moving = [(tour(octree, g, variant), n) for g, n in parts if n < len(g)]
  return whole, moving


def make_tracks(
    octree: tree_lib.Octree,
    moving: list[tuple[np.ndarray, int, int]],
    variant: int,
) -> tuple[Track, ...]:
  """Windows that are at the same place of the curve at the same time.

  A stage goes on along the curve until one of them has taken in as many nodes
  as it can.

  Args:
    octree: tree.
    moving: (nodes in line, slots, first slot) of each track.
    variant: of the curve.

  Returns:
    Tracks with as many stages each.
  """
  exchange = [max(1, int(_EXCHANGE * slots)) for _, slots, _ in moving]
  track = np.repeat(np.arange(len(moving)), [len(n) for n, _, _ in moving])
  nodes = np.concatenate([nodes for nodes, _, _ in moving])
  order = np.argsort(_along(octree, nodes, variant), kind='stable')
  passed, taken = np.zeros(len(moving), np.int64), [0] * len(moving)
  stages = [passed.copy()]
  for t in track[order].tolist():
    if taken[t] == exchange[t]:
      passed += taken
      stages.append(passed.copy())
      taken = [0] * len(moving)
    taken[t] += 1
  return tuple(
      Track(nodes, slots - most, most, first, np.array(at))
      for (nodes, slots, first), most, at in zip(
          moving, exchange, np.stack(stages, axis=1), strict=True
      )
  )
