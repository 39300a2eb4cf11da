"""Lines of nodes along a curve, and windows that slide along them.

Each level has a track of its own, as far as the slots go round; levels in which
more samples lie get wider windows. A node stands in line where most of the rays
end that bring its samples: that need not be its own place. Of several node
shards each has such lines of its own nodes.
"""

from typing import NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib

# Shifts of the curves, in sides of the root; thirds fall on no cell's face.
_SHIFTS = np.array([[0, 0, 0], [1, 1, 0], [2, 1, 0], [1, 2, 0]]) / 3
_CURVE_LEVELS = 20
# Of a level's line a window is at least that many times the part that the
# longest line's is: rays that end in levels above bring samples to few nodes,
# which cost little.
_LEAST_PART = 2.0


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
    octree: tree_lib.Octree,
    nodes: np.ndarray,
    variant: int = 0,
    beside: np.ndarray | None = None,
) -> np.ndarray:
  """Nodes along a Morton curve through centres.

  Args:
    octree: tree.
    nodes: [n] rows.
    variant: of the curve.
    beside: [N] the node at whose centre each stands, None: itself.

  Returns:
    [n] the same, sorted.
  """
  place = _along(octree, nodes, variant, beside)
  return nodes[np.argsort(place, kind='stable')]


def _along(octree, nodes, variant, beside):
  """[n] int64 places of nodes on a curve."""
  if beside is not None:
    nodes = beside[nodes]
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


def _share_slots(sizes, samples, num_slots) -> list[int] | None:
  """Slots of each track; None: some would have fewer than two.

  With windows of n nodes about 1 / sqrt(n) of their rays' samples lie outside:
  the least in all is lost with n in proportion to samples ** (2 / 3). But nodes
  learn by steps, whatever samples each brings: all would be resident as long
  with equal parts of their lines. Between the two lies the geometric mean.
  """
  sizes = np.asarray(sizes, np.float64)
  wish = (np.maximum(samples, 1e-9) ** (2 / 3) / sizes) ** 0.5
  wish /= wish.max()
  longest = int(np.argmax(sizes))

  def part(scale):
    """Of each line, if the neediest one had `scale` of its own."""
    share = np.minimum(scale * wish, 1)
    least = np.where(sizes < sizes[longest], _LEAST_PART, 1) * share[longest]
    return np.minimum(np.maximum(share, least), 1)

  low, high = 0.0, 1 / wish.min()
  for _ in range(60):
    middle = (low + high) / 2
    enough = part(middle) @ sizes > num_slots
    low, high = (low, middle) if enough else (middle, high)
  slots = np.floor(part(low) * sizes + 1e-6).astype(int)
  return slots.tolist() if (slots[slots < sizes] >= 2).all() else None


def deal_out(
    octree: tree_lib.Octree,
    nodes: np.ndarray,
    samples: np.ndarray,
    num_slots: int,
    variant: int,
    beside: np.ndarray | None = None,
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, int]]]:
  """Deals slots out to levels.

  Args:
    octree: tree.
    nodes: [n] that share the slots.
    samples: [N] in each node, any unit.
    num_slots: fewer than n.
    variant: of the curve.
    beside: see `tour`.

  Returns:
    (nodes of levels that are wholly resident, [(nodes in line, slots)] of the
    other tracks).
  """
  levels = np.unique(octree.level[nodes])
  groups = [nodes[octree.level[nodes] == level] for level in levels]
  while True:
    slots = _share_slots(
        [len(g) for g in groups], [samples[g].sum() for g in groups], num_slots
    )
    if slots is not None:
      break
    if len(groups) == 1:
      slots = [num_slots]
      break
    groups[-2:] = [np.concatenate(groups[-2:])]
  line = lambda nodes: tour(octree, nodes, variant, beside)
  parts = list(zip(groups, slots, strict=True))
  whole = [g for g, n in parts if n >= len(g)]
  return whole, [(line(g), n) for g, n in parts if n < len(g)]


def make_tracks(
    octree: tree_lib.Octree,
    moving: list[tuple[np.ndarray, int, int]],
    variant: int,
    beside: np.ndarray | None,
    exchange: float,
) -> tuple[Track, ...]:
  """Windows that are at the same place of the curve at the same time.

  A stage goes on along the curve until one of them has taken in as many nodes
  as it can.

  Args:
    octree: tree.
    moving: (nodes in line, slots, first slot) of each track.
    variant: of the curve.
    beside: see `tour`.
    exchange: share of a track's slots.

  Returns:
    Tracks with as many stages each.
  """
  most = [max(1, int(exchange * slots)) for _, slots, _ in moving]
  track = np.repeat(np.arange(len(moving)), [len(n) for n, _, _ in moving])
  nodes = np.concatenate([nodes for nodes, _, _ in moving])
  order = np.argsort(_along(octree, nodes, variant, beside), kind='stable')
  passed, taken = np.zeros(len(moving), np.int64), [0] * len(moving)
  stages = [passed.copy()]
  for t in track[order].tolist():
    if taken[t] == most[t]:
      passed += taken
      stages.append(passed.copy())
      taken = [0] * len(moving)
    taken[t] += 1
  return tuple(
      Track(nodes, slots - come, come, first, np.array(at))
      for (nodes, slots, first), come, at in zip(
          moving, most, np.stack(stages, axis=1), strict=True
      )
  )
