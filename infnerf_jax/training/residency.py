"""Which nodes are resident at which step of a run that pages them.

The top of the tree is pinned. The other nodes of each level stand in a line of
their own, a track (`tracks.py`), along one curve through space. A window slides
along each track, all of them to the same places at the same time: stage by
stage it leaves some nodes behind and takes others in. So neighbours in space,
and parents with their children, are mostly resident together, and little is
exchanged at a time. Every round takes another curve: nodes that had neighbours
outside the window in one have them inside in the next. Slots follow from places
in line; nothing here depends on how fast anything is: the plan is a function of
the tree, of the batches' coverage and of the step.

A node's rays are spread over the stages in which it is resident so that, over
a round, batches are those of a run whose nodes are all resident.

Over a mesh the pinned nodes are on all node shards; each of the others belongs
to one of them for the whole run, whose windows slide along its own nodes, all
shards' to the same places at the same time. A single device is a mesh of one.
"""

import bisect
import functools
from typing import NamedTuple, Sequence

import numpy as np

from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import growth
from infnerf_jax.training import tracks as tracks_lib

# More rounds leave nodes alone for fewer steps and move more bytes.
_MIN_ROUNDS, _MAX_ROUNDS = 2, 12
# A stage whose nodes batches hardly see still gets this share of the mean.
_MIN_MASS = 0.1
_ALL = np.iinfo(np.int64).max


class Stage(NamedTuple):
  """What is resident between two steps.

  Attributes:
    index: its number, unique in the run.
    first: its first step.
    last: the step behind its last.
    slot_of_node: [N] int32 rows of all shards' (`Capacity`), -1: not resident.
    node_of_slot: [num_rows] int64 nodes that are resident, -1: none.
    coming: [(slot, node)] to be exchanged during this stage; their slots are
      free.
    weight: [N] float64 of a ray that ends in each node, beside its weight in
      a run whose nodes are all resident; None: all are.
  """

  index: tuple[int, int]
  first: int
  last: int
  slot_of_node: np.ndarray
  node_of_slot: np.ndarray
  coming: tuple[tuple[int, int], ...]
  weight: np.ndarray | None


class Phase(NamedTuple):
  """A round of the windows, or steps in which all that take part are resident.

  Attributes:
    first: step.
    last: behind the last step.
    stand_for: [N] int64 the node that stands for each: itself, or its deepest
      ancestor that takes part.
    pinned: nodes that stay, the root first.
    pinned_slots: of each, [len(pinned)].
    tracks: of all others that take part.
    turns: [N] float64 sum of a node's weights by place over the stages.
    scale: [S] float64 weight of a stage's rays beside their weight by place.
    ends: [S] int64 steps behind the stages' last ones.
  """

  first: int
  last: int
  stand_for: np.ndarray
  pinned: np.ndarray
  pinned_slots: np.ndarray
  tracks: tuple[tracks_lib.Track, ...]
  turns: np.ndarray
  scale: np.ndarray
  ends: np.ndarray


def _stand_for(octree, limit) -> np.ndarray:
  """[N] the ancestor or self at most at a level."""
  node = np.arange(octree.num_nodes)
  for _ in range(octree.num_levels):
    node = np.where(octree.level[node] > limit, octree.parent[node], node)
  return node


def _by_place(window) -> np.ndarray:
  """[window] weights: most of a node's rays come amid the window.

  There its neighbours on both sides are resident too.
  """
  place = np.arange(window)
  return np.minimum(place + 1.0, window - place) / (window + 1)


def _weights(tracks, stage, num_nodes) -> np.ndarray:
  """[N] weights by place in a stage's windows, 0 where not resident."""
  weight = np.zeros(num_nodes)
  for track in tracks:
    start = track.start(stage)
    _, nodes = track.rows(start, start + track.window)
    weight[nodes] = _by_place(track.window)
  return weight


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


def _lines(octree, capacity, mass, nodes, shard_of_node, variant) -> _Lines:
  """Deals the slots of all shards out to the nodes that take part.

  Replicated are those whose owner is -1; where there are none, the top levels,
  the most seen first in each.
  """
  top = nodes[shard_of_node[nodes] < 0]
  if not len(top):
    order = nodes[np.lexsort((-mass[nodes], octree.level[nodes]))]
    top = np.sort(order[: capacity.num_pinned])
  rest = np.setdiff1d(nodes, top)
  stay, slots, moving = [top], [np.arange(len(top))], []
  free = capacity.num_slots - capacity.num_pinned
  for shard in range(capacity.num_shards):
    own = rest[shard_of_node[rest] == shard]
    first = shard * capacity.num_slots + capacity.num_pinned
    # In the order of the tree: slots are those of an ordinary run.
    whole, lines = [own], []
    if len(own) > free:
      whole, lines = tracks_lib.deal_out(octree, own, mass, free, variant)
    for group in whole:
      stay.append(group)
      slots.append(first + np.arange(len(group)))
      first += len(group)
    for line, count in lines:
      moving.append((line, count, first))
      first += count
  return _Lines(np.concatenate(stay), np.concatenate(slots), moving)


def make_phase(
    octree: tree_lib.Octree,
    capacity: capacity_lib.Capacity,
    mass: np.ndarray,
    *,
    first: int,
    last: int,
    max_level: int,
    shard_of_node: np.ndarray,
    variant: int = 0,
) -> Phase:
  """Plans a round over the nodes down to a level.

  Args:
    octree: tree.
    capacity: of the slots.
    mass: [N] share of the rays that end in each node.
    first: step.
    last: behind the last step.
    max_level: of the nodes that take part.
    shard_of_node: [N] int32 owners, -1: replicated.
    variant: of the curve.

  Returns:
    Phase.
  """
  stand_for = _stand_for(octree, max_level)
  mass = np.bincount(stand_for, mass, octree.num_nodes)
  lines = _lines(
      octree, capacity, mass, np.unique(stand_for), shard_of_node, variant
  )
  stays = (stand_for, lines.nodes, lines.slots)
  if not lines.moving:
    ones = np.ones(octree.num_nodes)
    ends = np.array([last])
    return Phase(first, last, *stays, (), ones, np.ones(1), ends)
  tracks = tracks_lib.make_tracks(octree, lines.moving, variant)
  num_stages = len(tracks[0].passed)
  weights = functools.partial(_weights, tracks, num_nodes=octree.num_nodes)
  turns = sum(weights(stage) for stage in range(num_stages))
  turns = np.maximum(turns, 1e-12)
  drawn = np.array(
      [(mass * weights(s) / turns).sum() for s in range(num_stages)]
  )
  length = np.maximum(drawn, _MIN_MASS * max(drawn.mean(), 1e-12))
  share = length.cumsum() / length.sum()
  ends = first + np.round((last - first) * share).astype(np.int64)
  # Over a round a node's rays add up to its own share of all rays.
  scale = drawn.sum() / np.maximum(drawn, 1e-12)
  return Phase(first, last, *stays, tracks, turns, scale, ends)


class Plan:
  """Stages of a run, made as they are asked for; a function of its arguments.

  Attributes:
    octree: tree.
    capacity: of the slots.
    phases: in order.
  """

  def __init__(
      self,
      octree: tree_lib.Octree,
      capacity: capacity_lib.Capacity,
      mass: np.ndarray,
      *,
      num_steps: int,
      growth_steps: Sequence[int] = (),
      rehearsal: int = 0,
      rows_a_step: float = 1.0,
      shard_of_node: np.ndarray | None = None,
  ):
    """Plans a run.

    Args:
      octree: tree.
      capacity: of the slots.
      mass: [N] share of the rays that end in each node.
      num_steps: of the run's schedules: a run that ends earlier is the
        beginning of the longer one.
      growth_steps: steps at which levels join.
      rehearsal: steps for which they rehearse before.
      rows_a_step: exchanged at most on each shard, on average.
      shard_of_node: [N] int32 owners, -1: replicated; None: the top levels are,
        and neighbours have different owners.
    """
    self.octree, self.capacity = octree, capacity
    self._rows_a_step = rows_a_step
    if shard_of_node is None:
      shard_of_node = tracks_lib.owners(octree, capacity.num_shards)
    self.shard_of_node = shard_of_node
    begins = sorted({0} | {max(0, at - rehearsal) for at in growth_steps})
    begins = [at for at in begins if at < num_steps] or [0]
    self.phases = []
    for first, last in zip(begins, begins[1:] + [num_steps], strict=True):
      level = int(growth.active_level(first + rehearsal, tuple(growth_steps)))
      self.phases += self._rounds(mass, first, last, level)
    self._begins = [phase.first for phase in self.phases]
    self._stage = functools.lru_cache(maxsize=8)(self._make_stage)

  def _rounds(self, mass, first, last, max_level) -> list[Phase]:
    """Rounds of equal length, as many as there is time for."""
    phase = functools.partial(
        make_phase, self.octree, self.capacity, mass, max_level=max_level,
        shard_of_node=self.shard_of_node,
    )  # fmt: skip
    num = 1
    rows = sum(len(t.nodes) for t in phase(first=first, last=last).tracks)
    if rows:
      exchanged = (last - first) * self._rows_a_step * self.capacity.num_shards
      num = int(np.clip(round(exchanged / rows), _MIN_ROUNDS, _MAX_ROUNDS))
    edges = first + (last - first) * np.arange(num + 1) // num
    return [
        phase(first=int(edges[i]), last=int(edges[i + 1]), variant=i)
        for i in range(num)
        if edges[i + 1] > edges[i]
    ]

  def stage_at(self, step: int) -> Stage:
    """The stage of a step; beyond the plan's end its last stage goes on."""
    number = bisect.bisect_right(self._begins, step) - 1
    ends = self.phases[number].ends
    index = int(np.searchsorted(ends, step, side='right'))
    return self._stage(number, min(index, len(ends) - 1))

  def _make_stage(self, number, index) -> Stage:
    phase = self.phases[number]
    num_stages = len(phase.ends)
    node_of_slot = np.full(self.capacity.num_rows, -1, np.int64)
    node_of_slot[phase.pinned_slots] = phase.pinned
    coming = []
    for track in phase.tracks:
      start = track.start(index)
      slots, nodes = track.rows(start, start + track.window)
      node_of_slot[slots] = nodes
      if index + 1 < num_stages:
        after = track.start(index + 1)
        rows = track.rows(start + track.window, after + track.window)
        part = np.arange(len(rows[0])) / max(len(rows[0]), 1)
        coming += zip(part, *map(np.ndarray.tolist, rows), strict=True)
    coming.sort()  # all tracks, so all shards, take turns
    slot_of_node = np.full(self.octree.num_nodes, -1, np.int32)
    used = np.flatnonzero(node_of_slot >= 0)
    slot_of_node[node_of_slot[used]] = used
    is_last = (number, index) == (len(self.phases) - 1, num_stages - 1)
    return Stage(
        (number, index),
        int(phase.ends[index - 1]) if index else phase.first,
        _ALL if is_last else int(phase.ends[index]),
        slot_of_node,
        node_of_slot,
        tuple((slot, node) for _, slot, node in coming),
        self._weight(phase, index) if phase.tracks else None,
    )

  def _weight(self, phase, index):
    """[N] weight of rays by the node in which they end."""
    weight = _weights(phase.tracks, index, self.octree.num_nodes)
    weight *= phase.scale[index] / phase.turns
    weight[phase.pinned] = 1.0
    return weight[phase.stand_for]


def prior_rows(
    octree: tree_lib.Octree, stage: Stage, pinned: np.ndarray, among: np.ndarray
) -> np.ndarray:
  """Nodes that a prior draws from, as many as if all were resident.

  Each pinned node stands there once, as in a run whose nodes are all resident;
  the places of those that are not resident go to those that are.

  Args:
    octree: tree.
    stage: of the step.
    pinned: nodes that are always resident.
    among: [K] the nodes of such a run.

  Returns:
    [K] int32.
  """
  if (stage.slot_of_node[among] >= 0).all() or not len(among):
    return among.astype(np.int32)
  always = np.zeros(octree.num_nodes, bool)
  always[pinned] = True
  fixed = among[always[among]]
  turns = among[(stage.slot_of_node[among] >= 0) & ~always[among]]
  if not len(turns):
    return among.astype(np.int32)
  rest = turns[np.arange(len(among) - len(fixed)) % len(turns)]
  return np.concatenate([fixed, rest]).astype(np.int32)
