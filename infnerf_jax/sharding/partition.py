"""Which node shard owns which nodes: the busiest on all, pieces on one each.

The root, and nodes that a large share of all samples needs, are replicated;
the rest of the tree falls into pieces, subtrees wherever balance allows, each
of which lives, with its moments, on the one shard that owns it. Plain NumPy and
deterministic: every process computes the same partition by itself.
"""

import heapq
from typing import NamedTuple

import numpy as np

# Relative differences below this are rounding, not an advantage.
_MARGIN = 1e-9
# Rows of the fullest shard over an equal share of all that are worth no more
# samples in balance: replicas cost memory on every device.
MEMORY_EXCESS = 1.04
# A node is replicated where its samples are more than these shares of a
# shard's equal part.
_HOT_SHARES = (np.inf, 1.0, 0.5, 0.25, 0.125)
# Trees are not cut into more pieces than this: each is dealt out in a loop.
_MAX_PIECES = 4096


class Partition(NamedTuple):
  """Where nodes live; D node shards, N nodes, C local slots.

  Attributes:
    shard_of_node: [N] int32, -1: replicated.
    local_slot: [D, N] int32, a node's row on a shard, -1: not there.
      Replicated nodes come first, in the order of their rows.
    node_of_local: [D, C] int32, the inverse, -1: a spare row.
    num_replicated: rows that are alike on all shards.
    memory_imbalance: owned nodes of the fullest shard over their mean.
    sample_imbalance: expected samples of the busiest shard over their mean;
      the replicated nodes' are shared equally.
  """

  shard_of_node: np.ndarray
  local_slot: np.ndarray
  node_of_local: np.ndarray
  num_replicated: int
  memory_imbalance: float
  sample_imbalance: float

  @property
  def num_shards(self) -> int:
    return self.local_slot.shape[0]

  @property
  def capacity(self) -> int:
    """Local slots of every shard."""
    return self.node_of_local.shape[1]

  @property
  def resident_share(self) -> float:
    """Rows that one shard holds, of the tree's nodes."""
    return self.capacity / self.local_slot.shape[1]


def piece_roots(level, parent, alone) -> np.ndarray:
  """[N] int32: the node that a node's piece begins at.

  Args:
    level: [N] int, rows level by level.
    parent: [N] int, -1 for the root.
    alone: [N] bool, nodes that are no part of a larger piece; with every such
      node its ancestors.
  """
  roots = np.arange(len(level), dtype=np.int32)
  for depth in range(1, int(level.max()) + 1):
    nodes = np.flatnonzero((level == depth) & ~alone)
    above = parent[nodes]
    roots[nodes] = np.where(alone[above], nodes, roots[above])
  return roots


def subtree_sums(level, parent, values) -> np.ndarray:
  """[N] float64: sums of a node's values and those of all below it."""
  sums = np.array(values, np.float64)
  for depth in range(int(level.max()), 0, -1):
    nodes = np.flatnonzero(level == depth)
    np.add.at(sums, parent[nodes], sums[nodes])
  return sums


def assign_greedily(memory, samples, num_shards: int) -> np.ndarray:
  """Largest subtree first, each to the shard that stays lightest.

  A subtree's size, and a shard's load, is the larger of its shares of all
  memory and of all samples, so that neither is balanced at the other's cost.

  Args:
    memory: [M] nodes of each subtree.
    samples: [M] expected samples of each.
    num_shards: D.

  Returns:
    [M] int32 shards.
  """
  shares = np.stack([_share(memory), _share(samples)], axis=-1)  # [M, 2]
  loads = np.zeros((num_shards, 2))
  assigned = np.zeros(len(shares), np.int32)
  # Stable: equals keep the order of their rows.
  for item in np.argsort(-shares.max(axis=-1), kind='stable'):
    after = loads + shares[item]
    bottleneck = after.max(axis=-1)
    tied = bottleneck <= bottleneck.min() + _MARGIN
    total = np.where(tied, after.sum(axis=-1), np.inf)
    assigned[item] = np.argmin(total)
    loads[assigned[item]] += shares[item]
  return assigned


def _share(weights):
  """Shares of a sum; all zero where there is nothing to share."""
  weights = np.asarray(weights, np.float64)
  return weights / max(weights.sum(), 1e-300)


def imbalance(weights, assigned, num_shards: int) -> float:
  """The largest sum of a shard over their mean; 1 where there is nothing."""
  loads = np.bincount(assigned, weights, num_shards)
  return float(loads.max() / loads.mean()) if loads.sum() > 0 else 1.0


def make_partition(
    level, parent, samples, num_shards: int, *, split_level: int | None = None
) -> Partition:
  """Splits a tree into replicated nodes and pieces of one owner each.

  See `make_partitions`, of which this is the case of one phase.

  Args:
    level: [N] int, rows level by level as in `octree.tree`.
    parent: [N] int, -1 for the root.
    samples: [N] expected samples of each node, any unit.
    num_shards: D node shards.
    split_level: replicates the levels above this one, 1 to the deepest + 1,
      and keeps the subtrees below whole; None: as balance asks for.

  Returns:
    Partition.

  Raises:
    ValueError: arrays that disagree, or values out of range.
  """
  level, parent = np.asarray(level), np.asarray(parent)
  samples = np.asarray(samples, np.float64)
  _check(level, parent, samples, num_shards, split_level)
  if split_level is None:
    return make_partitions(level, parent, [samples], num_shards)[0]
  top = level < split_level
  pieces = _Pieces(top, piece_roots(level, parent, top))
  return _partition(pieces, _deal(pieces, samples, num_shards), samples)


def make_partitions(
    level, parent, samples_of_phases, num_shards: int
) -> tuple[Partition, ...]:
  """Partitions for the phases of a run, of one shape and with one top.

  Tried are pieces of many sizes and replicas of more and of fewer nodes. Of
  those whose fullest shard holds at most 4 % more than an equal share of the
  nodes (or what the replicated root alone leaves, if that is more) the one
  with the most equal samples is kept; of equals that with fewer replicas, then
  with fewer pieces. It is chosen for the last phase; the pieces are dealt out
  anew for each. Replicas and rows of a shard stay as many, so that no program
  has to be compiled again.

  Args:
    level: [N] int, rows level by level as in `octree.tree`.
    parent: [N] int, -1 for the root.
    samples_of_phases: P arrays [N] of expected samples, any unit.
    num_shards: D node shards.

  Returns:
    P Partitions.

  Raises:
    ValueError: arrays that disagree, or values out of range.
  """
  level, parent = np.asarray(level), np.asarray(parent)
  phases = [np.asarray(x, np.float64) for x in samples_of_phases]
  for samples in phases:
    _check(level, parent, samples, num_shards, None)
  has_child = np.bincount(parent[1:], minlength=len(level)) > 0
  pieces = min(
      _candidates(level, parent, phases[-1], num_shards),
      key=lambda p: _rank(
          p, _dealt(p, phases[-1], num_shards, has_child), phases[-1]
      ),
  )
  found = [
      _partition(pieces, _dealt(pieces, x, num_shards, has_child), x)
      for x in phases
  ]
  capacity = max(x.capacity for x in found)
  return tuple(_padded(x, capacity) for x in found)


class _Pieces(NamedTuple):
  """How a tree is cut.

  Attributes:
    replicated: [N] bool.
    roots: [N] int32, see `piece_roots`; means nothing of replicated nodes.
  """

  replicated: np.ndarray
  roots: np.ndarray


class _Owners(NamedTuple):
  """[N] shard_of_node, -1: replicated, of D shards."""

  shard_of_node: np.ndarray
  num_shards: int


def _candidates(level, parent, samples, num_shards):
  """Yields cuts of a tree, from few large pieces to single nodes."""
  num_nodes = len(level)
  own = _share(samples)
  share = np.maximum(
      subtree_sums(level, parent, np.full(num_nodes, 1 / num_nodes)),
      subtree_sums(level, parent, own),
  )
  seen = set()
  for hot in _HOT_SHARES if num_shards > 1 else _HOT_SHARES[:1]:
    replicated = own > hot / num_shards
    replicated[0] = True
    limit = 2.0
    while limit > 0:
      limit = limit / 2 if limit * num_nodes > 0.25 else 0.0
      alone = (share > limit / num_shards) | replicated
      alone = subtree_sums(level, parent, alone) > 0  # with their ancestors
      roots = piece_roots(level, parent, alone)
      cut = (replicated.tobytes(), roots.tobytes())
      if cut in seen:
        continue
      seen.add(cut)
      num_pieces = len(np.unique(roots))
      if num_pieces > _MAX_PIECES and limit < 1:
        break
      yield _Pieces(replicated, roots)


def _rank(pieces: _Pieces, owners: _Owners, samples):
  """Sorts cuts: see `make_partitions`."""
  num_nodes, num_shards = len(samples), owners.num_shards
  top = int(pieces.replicated.sum())
  owned = owners.shard_of_node[owners.shard_of_node >= 0]
  rows = top + np.bincount(owned, minlength=num_shards).max()
  root_alone = 1 + -(-(num_nodes - 1) // num_shards)
  allowed = max(MEMORY_EXCESS * num_nodes / num_shards, root_alone)
  busy = _busy(owners, samples)
  balance = busy.max() / busy.mean() if busy.any() else 1.0
  # Steps of a percent: less is not worth another replica or a finer cut.
  return (
      max(rows - allowed, 0.0),
      round(balance, 2),
      top,
      len(np.unique(pieces.roots)),
  )


def _dealt(pieces, samples, num_shards, has_child) -> _Owners:
  """Pieces dealt out, then leaves moved until rows are even."""
  owners = _deal(pieces, samples, num_shards)
  return _even_rows(owners, samples, ~has_child & ~pieces.replicated)


def _deal(pieces: _Pieces, samples, num_shards) -> _Owners:
  owned = ~pieces.replicated
  shard_of_node = np.full(len(owned), -1, np.int32)
  first, piece = np.unique(pieces.roots[owned], return_inverse=True)
  memory = np.bincount(piece, minlength=len(first))
  load = np.bincount(piece, samples[owned], minlength=len(first))
  shard_of_node[owned] = assign_greedily(memory, load, num_shards)[piece]
  return _Owners(shard_of_node, num_shards)


def _even_rows(owners: _Owners, samples, leaf) -> _Owners:
  """Moves leaves of few samples from the fullest shards to the emptiest."""
  owner, num_shards = owners.shard_of_node.copy(), owners.num_shards
  rows = np.bincount(owner[owner >= 0], minlength=num_shards)
  busy = _busy(owners, samples)
  spare = [
      [(samples[n], int(n)) for n in np.flatnonzero(leaf & (owner == shard))]
      for shard in range(num_shards)
  ]
  for leaves in spare:
    heapq.heapify(leaves)
  while rows.max() - rows.min() > 1:
    donor = int(np.argmax(rows))
    if not spare[donor]:
      break
    # Of the emptiest the one with the fewest samples.
    taker = int(np.lexsort((busy, rows))[0])
    load, node = heapq.heappop(spare[donor])
    owner[node] = taker
    rows[donor], rows[taker] = rows[donor] - 1, rows[taker] + 1
    busy[donor], busy[taker] = busy[donor] - load, busy[taker] + load
  return _Owners(owner, num_shards)


def _busy(owners: _Owners, samples):
  """[D] samples of each shard; all share those of replicated nodes."""
  owned = owners.shard_of_node >= 0
  busy = np.bincount(
      owners.shard_of_node[owned], samples[owned], owners.num_shards
  )
  return busy + samples[~owned].sum() / owners.num_shards


def _check(level, parent, samples, num_shards, split_level):
  if not level.shape == parent.shape == samples.shape or not level.size:
    raise ValueError(
        f'make_partition: got level {level.shape}, parent {parent.shape},'
        f' samples {samples.shape}, expected the same [N], N > 0'
    )
  if level[0] != 0 or np.any(parent[1:] < 0) or np.any(np.diff(level) < 0):
    raise ValueError(
        'make_partition: expected rows level by level from one root'
    )
  if not np.all(np.isfinite(samples)) or np.any(samples < 0):
    raise ValueError('make_partition: expected finite samples >= 0')
  if num_shards < 1:
    raise ValueError(f'make_partition: got {num_shards} shards, expected >= 1')
  deepest = int(level.max()) + 1
  if split_level is not None and not 1 <= split_level <= deepest:
    raise ValueError(
        f'make_partition: got split_level {split_level}, expected 1 to'
        f' {deepest}'
    )


def _partition(pieces: _Pieces, owners: _Owners, samples) -> Partition:
  """The rows of an assignment, and how even it is."""
  shard_of_node, num_shards = owners
  local_slot, node_of_local = _local_slots(shard_of_node, num_shards)
  owned = shard_of_node >= 0
  busy = _busy(owners, samples)
  return Partition(
      shard_of_node=shard_of_node,
      local_slot=local_slot,
      node_of_local=node_of_local,
      num_replicated=int(pieces.replicated.sum()),
      memory_imbalance=imbalance(
          np.ones(owned.sum()), shard_of_node[owned], num_shards
      ),
      sample_imbalance=float(busy.max() / busy.mean()) if busy.any() else 1.0,
  )


def _padded(partition: Partition, capacity: int) -> Partition:
  """The partition with spare rows up to a number of rows."""
  more = capacity - partition.capacity
  rows = np.pad(
      partition.node_of_local, ((0, 0), (0, more)), constant_values=-1
  )
  return partition._replace(node_of_local=rows)


def _local_slots(shard_of_node, num_shards):
  """(local_slot [D, N], node_of_local [D, C]) of an assignment."""
  replicated = np.flatnonzero(shard_of_node < 0)
  rows = [
      np.concatenate([replicated, np.flatnonzero(shard_of_node == shard)])
      for shard in range(num_shards)
  ]
  capacity = max(len(nodes) for nodes in rows)
  local_slot = np.full((num_shards, len(shard_of_node)), -1, np.int32)
  node_of_local = np.full((num_shards, capacity), -1, np.int32)
  for shard, nodes in enumerate(rows):
    local_slot[shard, nodes] = np.arange(len(nodes))
    node_of_local[shard, : len(nodes)] = nodes
  return local_slot, node_of_local


def owner_rows(partition: Partition) -> np.ndarray:
  """[N] int64: each node's row in the shards' rows, one after another.

  Replicated nodes are taken from the first shard.
  """
  shard = np.maximum(partition.shard_of_node, 0).astype(np.int64)
  nodes = np.arange(len(shard))
  return shard * partition.capacity + partition.local_slot[shard, nodes]
