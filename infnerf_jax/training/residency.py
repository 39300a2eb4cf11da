"""Which nodes are resident at which step of a run that pages them.

The top of the tree is pinned. The other nodes of each level stand in a line of
their own, a track (`tracks.py`), along one curve through space. A window slides
along each track, all of them to the same places at the same time: stage by
stage it leaves some nodes behind and takes others in. So neighbours in space,
and parents with their children, are mostly resident together, and little is
exchanged at a time. Every round takes another curve: nodes that had neighbours
outside the window in one have them inside in the next. Slots follow from places
in line.

A node's rays are dealt out to the stages in which it is resident by where their
samples fall (`ray_shares.py`), foretold at first, and from the second round on
as the steps before have shown. Nothing here depends on how fast anything is:
the plan is a function of the tree, of the batches' coverage, of what earlier
steps counted, and of the step.

Over a mesh the pinned nodes are on all node shards; each of the others belongs
to one of them for the whole run, whose windows slide along its own nodes, all
shards' to the same places at the same time. A single device is a mesh of one.
"""

import bisect
import functools
import threading
from typing import Callable, NamedTuple, Sequence

import numpy as np

from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import growth, ray_shares
from infnerf_jax.training import rounds as rounds_lib
from infnerf_jax.training import tracks as tracks_lib
from infnerf_jax.training import visits as visits_lib

# More rounds leave nodes alone for fewer steps and move more bytes.
_MIN_ROUNDS, _MAX_ROUNDS = 2, 12
# A stage whose nodes batches hardly see still gets this share of the mean.
_MIN_MASS = 0.1
# Rounds that are planned together: as many as there are curves.
_TOGETHER = 4
# The first round is shorter: what no node has learned of yet is empty to rays,
# and their samples lie elsewhere.
_FIRST_ROUND = 1 / 3
# Beyond these a round's gains are not made up for by the losses' weights.
_LOSS_RATES = (0.25, 4.0)
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
    loss_weight: [N] float64 on the losses of these rays: in proportion to the
      reciprocal of how often its round draws them.
  """

  index: tuple[int, int]
  first: int
  last: int
  slot_of_node: np.ndarray
  node_of_slot: np.ndarray
  coming: tuple[tuple[int, int], ...]
  weight: np.ndarray | None
  loss_weight: np.ndarray


class Span(NamedTuple):
  """Steps of a phase.

  Attributes:
    first: step.
    last: behind the last step.
    group: its number among those over the same nodes.
    variant: of the curve.
  """

  first: int
  last: int
  group: int
  variant: int


class Dealt(NamedTuple):
  """A phase's rays, dealt out to its stages.

  Attributes:
    ends: [S] int64 steps behind the stages' last ones.
    first: [S + 1] entries at which stages begin.
    node: [E] of each entry, stage by stage.
    share: [E] of the rays that end there, any unit within a stage.
    loss_weight: [N], see `Stage`.
  """

  ends: np.ndarray
  first: np.ndarray
  node: np.ndarray
  share: np.ndarray
  loss_weight: np.ndarray


def deal(
    phase: rounds_lib.Phase,
    visits: visits_lib.Visits,
    share: np.ndarray,
    mass: np.ndarray,
) -> Dealt:
  """Sets the stages' lengths by the rays that they draw.

  Args:
    phase: a round.
    visits: of it.
    share: [E] of each node's rays in a round, by visit and stage.
    mass: [N] share of the rays that end in each node.
  """
  steps, num_stages = phase.last - phase.first, phase.num_stages
  drawn = np.bincount(visits.stage, share * mass[visits.node], num_stages)
  length = np.maximum(drawn, _MIN_MASS * max(drawn.mean(), 1e-12))
  ends = phase.first + np.round(steps * length.cumsum() / length.sum()).astype(
      np.int64
  )
  # A stage's batches are full, whatever its shares add up to.
  often = np.diff(ends, prepend=phase.first) / np.maximum(drawn, 1e-12)
  rate = np.bincount(visits.node, share * often[visits.stage], len(mass)) / max(
      steps, 1
  )
  order = np.argsort(visits.stage, kind='stable')
  return Dealt(
      ends,
      np.searchsorted(visits.stage[order], np.arange(num_stages + 1)),
      visits.node[order],
      share[order],
      1 / np.clip(rate, *_LOSS_RATES),
  )


class Plan:
  """Stages of a run, made as they are asked for; a function of its arguments.

  Attributes:
    octree: tree.
    capacity: of the slots.
    phases: their steps, in order.
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
      pairs: focus_lib.NodePairs | None = None,
      num_rays: int = 1,
      seen: Callable[[int], ray_shares.Seen | None] | None = None,
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
      pairs: where samples fall, those of a step; None: in the nodes in which
        rays end.
      num_rays: of a step.
      seen: number of a phase to what steps before it showed.
    """
    self.octree, self.capacity = octree, capacity
    self._rows_a_step, self._num_rays = rows_a_step, num_rays
    self._seen = seen or (lambda number: None)
    if shard_of_node is None:
      shard_of_node = tracks_lib.owners(octree, capacity.num_shards)
    self.shard_of_node = shard_of_node
    begins = sorted({0} | {max(0, at - rehearsal) for at in growth_steps})
    begins = [at for at in begins if at < num_steps] or [0]
    self._mass, self._pairs = mass, pairs
    self._levels, self.phases = [], []
    for first, last in zip(begins, begins[1:] + [num_steps], strict=True):
      level = int(growth.active_level(first + rehearsal, tuple(growth_steps)))
      self._levels.append(level)
      self.phases += self._rounds(first, last)
    self._begins = [phase.first for phase in self.phases]
    # Batches are drawn in a thread of their own.
    self._lock = threading.RLock()
    self._made = functools.lru_cache(maxsize=2)(self._make)
    self._stage = functools.lru_cache(maxsize=8)(self._make_stage)

  def _coverage(self, group, seen=None) -> rounds_lib.Coverage:
    pairs = self._pairs
    if pairs is not None and seen is not None:
      pairs = ray_shares.with_seen(pairs, self._mass, self._num_rays, seen)
    return rounds_lib.cover(self.octree, self._mass, pairs, self._levels[group])

  def _lay(self, span: Span, coverage) -> rounds_lib.Phase:
    return rounds_lib.lay(
        self.octree, self.capacity, coverage, first=span.first, last=span.last,
        shard_of_node=self.shard_of_node, variant=span.variant,
        group=span.group,
    )  # fmt: skip

  def _rounds(self, first, last) -> list[Span]:
    """Rounds, as many as there is time for."""
    group = len(self._levels) - 1
    whole = self._lay(Span(first, last, group, 0), self._coverage(group))
    num, rows = 1, sum(len(track.nodes) for track in whole.tracks)
    if rows:
      exchanged = (last - first) * self._rows_a_step * self.capacity.num_shards
      num = int(np.clip(round(exchanged / rows), _MIN_ROUNDS, _MAX_ROUNDS))
    length = np.ones(num)
    if num > 1:
      length[0] = _FIRST_ROUND
    share = np.concatenate([[0], length.cumsum()]) / length.sum()
    edges = first + np.round((last - first) * share).astype(np.int64)
    return [
        Span(int(edges[i]), int(edges[i + 1]), group, i)
        for i in range(num)
        if edges[i + 1] > edges[i]
    ]

  def stage_at(self, step: int) -> Stage:
    """The stage of a step; beyond the plan's end its last stage goes on."""
    with self._lock:
      number = self.phase_at(step)
      ends = self._made(number)[1].ends
      index = int(np.searchsorted(ends, step, side='right'))
      return self._stage(number, min(index, len(ends) - 1))

  def phase_at(self, step: int) -> int:
    """The number of a step's phase."""
    return max(bisect.bisect_right(self._begins, step) - 1, 0)

  def laid(self, number: int) -> rounds_lib.Phase:
    """A phase: what is resident in its stages."""
    with self._lock:
      return self._made(number)[0]

  def _make(self, number) -> tuple[rounds_lib.Phase, Dealt]:
    span, seen = self.phases[number], self._seen(number)
    coverage = self._coverage(span.group, seen)
    phase = self._lay(span, coverage)
    if not phase.tracks:
      nobody = np.zeros(0, np.int64)
      ones = np.ones(self.octree.num_nodes)
      ends = np.array([phase.last])
      return phase, Dealt(ends, np.zeros(2, np.int64), nobody, nobody, ones)
    after = self.phases[number + 1 : number + _TOGETHER]
    after = [x for x in after if x.group == span.group]
    phases = [phase, *(self._lay(x, coverage) for x in after)]
    visits = [
        visits_lib.of_round(x.tracks, x.pinned, self.octree.num_nodes)
        for x in phases
    ]
    shares = ray_shares.spread(
        visits, [x.last - x.first for x in phases], coverage.mass,
        coverage.pairs, seen,
    )  # fmt: skip
    return phase, deal(phase, visits[0], shares[0], coverage.mass)

  def _make_stage(self, number, index) -> Stage:
    phase, dealt = self._made(number)
    num_stages = phase.num_stages
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
        int(dealt.ends[index - 1]) if index else phase.first,
        _ALL if is_last else int(dealt.ends[index]),
        slot_of_node,
        node_of_slot,
        tuple((slot, node) for _, slot, node in coming),
        self._weight(phase, dealt, index) if phase.tracks else None,
        dealt.loss_weight[phase.stand_for],
    )

  def _weight(self, phase, dealt, index):
    """[N] weight of rays by the node in which they end."""
    weight = np.zeros(self.octree.num_nodes)
    entries = slice(dealt.first[index], dealt.first[index + 1])
    # A node whose second visit begins in the stage in which its first ends.
    np.add.at(weight, dealt.node[entries], dealt.share[entries])
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
