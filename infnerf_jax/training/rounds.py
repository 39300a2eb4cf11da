"""Rounds of a run that pages: what stays resident, and which lines move past.

Half of the pinned nodes are the top of the tree. The others are those of whose
samples the windows would lose most: rays that end all over the scene cross
them, and no window is resident with all of these.
"""

from typing import NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import tracks as tracks_lib
from infnerf_jax.training import visits as visits_lib

# Of the pinned nodes, for the top of the tree.
_TOP_SHARE = 0.5
# Nodes with less of the mean node's samples are not worth a slot of their own.
_MIN_SAMPLES = 0.1
# Of a track's slots, for the exchange; more where stages would be too short.
_EXCHANGE, _MOST_EXCHANGE = 1 / 9, 1 / 2
_MIN_STAGE = 1.0  # steps


class Phase(NamedTuple):
  """A round of the windows, or steps in which all that take part are resident.

  Attributes:
    first: step.
    last: behind the last step.
    stand_for: [N] int64 the node that stands for each: itself, or its deepest
      ancestor that takes part.
    pinned: nodes that stay, the root first.
    pinned_slots: of each, [len(pinned)].
    tracks: of all others that take part; none: all are resident.
    group: its number among those over the same nodes.
  """

  first: int
  last: int
  stand_for: np.ndarray
  pinned: np.ndarray
  pinned_slots: np.ndarray
  tracks: tuple[tracks_lib.Track, ...]
  group: int

  @property
  def num_stages(self) -> int:
    return len(self.tracks[0].passed) if self.tracks else 1


class Coverage(NamedTuple):
  """Where rays and their samples end up among the nodes that take part.

  Attributes:
    stand_for: [N] see `Phase`.
    mass: [N] share of the rays that end in each node.
    pairs: with samples of a step; None: in the nodes in which rays end.
    samples: [N] in each node, any unit.
    beside: [N] node in which most of the rays end that bring each its samples.
  """

  stand_for: np.ndarray
  mass: np.ndarray
  pairs: focus_lib.NodePairs | None
  samples: np.ndarray
  beside: np.ndarray


def cover(
    octree: tree_lib.Octree,
    mass: np.ndarray,
    pairs: focus_lib.NodePairs | None,
    max_level: int,
) -> Coverage:
  """Coverage of a tree down to a level.

  Args:
    octree: tree.
    mass: [N] share of the rays that end in each node.
    pairs: with samples of a step, None: in the nodes in which rays end.
    max_level: of the nodes that take part.
  """
  num_nodes = octree.num_nodes
  stand_for = _stand_for(octree, max_level)
  mass = np.bincount(stand_for, mass, num_nodes)
  beside = np.arange(num_nodes)
  if pairs is None:
    return Coverage(stand_for, mass, None, mass, beside)
  key = stand_for[pairs.planned] * num_nodes + stand_for[pairs.actual]
  key, at = np.unique(key, return_inverse=True)
  pairs = focus_lib.NodePairs(
      *np.divmod(key, num_nodes), np.bincount(at, pairs.share)
  )
  # The last pair of each actual node is its largest.
  order = np.lexsort((pairs.share, pairs.actual))
  beside[pairs.actual[order]] = pairs.planned[order]
  samples = np.bincount(pairs.actual, pairs.share, num_nodes)
  return Coverage(stand_for, mass, pairs, samples, beside)


def _stand_for(octree, limit) -> np.ndarray:
  """[N] the ancestor or self at most at a level."""
  node = np.arange(octree.num_nodes)
  for _ in range(octree.num_levels):
    node = np.where(octree.level[node] > limit, octree.parent[node], node)
  return node


class _Lines(NamedTuple):
  """What of a phase stays, and the lines that move.

  Attributes:
    nodes: that stay.
    slots: of each.
    moving: [(nodes in line, slots, first of them)].
  """

  nodes: np.ndarray
  slots: np.ndarray
  moving: list[tuple[np.ndarray, int, int]]


def _top(octree, capacity, coverage, nodes) -> np.ndarray:
  """The top of the tree, the most seen first in each level."""
  order = nodes[np.lexsort((-coverage.mass[nodes], octree.level[nodes]))]
  return order[: capacity.num_pinned]


def _crossed(phase, coverage, top) -> np.ndarray:
  """Pins half of the top, and nodes that evenly spread rays would train least.

  Args:
    phase: with the top of the tree pinned.
    coverage: with pairs.
    top: nodes, in order.
  """
  num_nodes, pairs = len(coverage.mass), coverage.pairs
  visits = visits_lib.of_round(phase.tracks, phase.pinned, num_nodes)
  both = visits_lib.overlaps(visits, pairs)
  length = np.bincount(visits.node, minlength=num_nodes)
  part = (both.end - both.begin) / length[pairs.planned[both.pair]]
  got = np.bincount(
      pairs.actual[both.pair], pairs.share[both.pair] * part, num_nodes
  )
  share = got / np.maximum(coverage.samples, 1e-12)
  takes_part = np.unique(coverage.stand_for)
  mean = coverage.samples[takes_part].mean()
  stays = top[: max(1, int(_TOP_SHARE * len(top)))]
  others = np.setdiff1d(takes_part, stays)
  others = others[coverage.samples[others] > _MIN_SAMPLES * mean]
  others = others[np.argsort(share[others], kind='stable')]
  return np.concatenate([stays, others[: len(top) - len(stays)]])


def _lines(
    octree, capacity, coverage, nodes, top, shard_of_node, variant
) -> _Lines:
  """Deals the slots of all shards out to the nodes that take part."""
  top = np.sort(top)
  rest = np.setdiff1d(nodes, top)
  stay, slots, moving = [top], [np.arange(len(top))], []
  free = capacity.num_slots - capacity.num_pinned
  for shard in range(capacity.num_shards):
    own = rest[shard_of_node[rest] == shard]
    first = shard * capacity.num_slots + capacity.num_pinned
    # In the order of the tree: slots are those of an ordinary run.
    whole, lines = [own], []
    if len(own) > free:
      whole, lines = tracks_lib.deal_out(
          octree, own, coverage.samples, free, variant, coverage.beside
      )
    for group in whole:
      stay.append(group)
      slots.append(first + np.arange(len(group)))
      first += len(group)
    for line, count in lines:
      moving.append((line, count, first))
      first += count
  return _Lines(np.concatenate(stay), np.concatenate(slots), moving)


def lay(
    octree: tree_lib.Octree,
    capacity: capacity_lib.Capacity,
    coverage: Coverage,
    *,
    first: int,
    last: int,
    shard_of_node: np.ndarray,
    variant: int = 0,
    group: int = 0,
) -> Phase:
  """Lays a round's tracks.

  Replicated are the nodes whose owner is -1; where there are none, those that
  are pinned.

  Args:
    octree: tree.
    capacity: of the slots.
    coverage: of the nodes that take part.
    first: step.
    last: behind the last step.
    shard_of_node: [N] int32 owners, -1: replicated.
    variant: of the curve.
    group: see `Phase`.
  """
  nodes = np.unique(coverage.stand_for)

  def with_pinned(top):
    lines = _lines(
        octree, capacity, coverage, nodes, top, shard_of_node, variant
    )
    tracks = ()
    if lines.moving:
      tracks = _tracks(
          octree, lines.moving, variant, coverage.beside, last - first
      )
    stays = coverage.stand_for, lines.nodes, lines.slots
    return Phase(first, last, *stays, tracks, group)

  top = nodes[shard_of_node[nodes] < 0]
  if len(top):
    return with_pinned(top)
  top = _top(octree, capacity, coverage, nodes)
  phase = with_pinned(top)
  if phase.tracks and coverage.pairs is not None:
    phase = with_pinned(_crossed(phase, coverage, top))
  return phase


def _tracks(octree, moving, variant, beside, steps):
  """Tracks with about as many stages as steps at most."""
  exchange = _EXCHANGE
  while True:
    tracks = tracks_lib.make_tracks(octree, moving, variant, beside, exchange)
    length = steps / len(tracks[0].passed)
    if length >= _MIN_STAGE or exchange == _MOST_EXCHANGE:
      return tracks
    exchange = min(exchange * max(_MIN_STAGE / length, 1.1), _MOST_EXCHANGE)
