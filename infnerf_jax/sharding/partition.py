"""Which node shard owns which nodes: the top on all, subtrees on one each.

The top of the tree is replicated; each subtree below it lives, with its
moments, on the one shard that owns it. Plain NumPy and deterministic: every
process computes the same partition by itself.
"""

from typing import NamedTuple

import numpy as np

# Relative differences below this are rounding, not an advantage.
_MARGIN = 1e-9
# Subtrees that are split one by one in search of balance.
_MAX_SPLITS = 64


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


def subtree_roots(level, parent, replicated) -> np.ndarray:
  """[N] int32: the topmost owned ancestor (or self), -1 of replicated nodes.

  Args:
    level: [N] int, rows level by level.
    parent: [N] int, -1 for the root.
    replicated: [N] bool, with every node its ancestors.
  """
  roots = np.full(len(level), -1, np.int32)
  for depth in range(int(level.max()) + 1):
    nodes = np.flatnonzero((level == depth) & ~replicated)
    # The root of the tree, if owned, stands above all.
    above = np.where(parent[nodes] < 0, -1, roots[parent[nodes]])
    roots[nodes] = np.where(above < 0, nodes, above)
  return roots


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
  """Splits a tree into replicated top nodes and owned subtrees.

  More replicated nodes leave smaller subtrees, which balance better. Tried are
  whole levels, and from level 1 down one subtree after another of the shard
  that has most. Kept is what brings the worst shard nearest to an equal share
  of the tree's nodes and of the samples.

  Args:
    level: [N] int, rows level by level as in `octree.tree`.
    parent: [N] int, -1 for the root.
    samples: [N] expected samples of each node, any unit.
    num_shards: D node shards.
    split_level: replicates the levels above this one, 1 to the deepest + 1;
      None: as described.

  Returns:
    Partition.

  Raises:
    ValueError: arrays that disagree, or values out of range.
  """
  level, parent = np.asarray(level), np.asarray(parent)
  samples = np.asarray(samples, np.float64)
  _check(level, parent, samples, num_shards, split_level)
  make = lambda replicated: _assign(
      level, parent, samples, num_shards, replicated
  )
  if split_level is not None:
    return make(level < split_level)
  best = min(
      (make(level < depth) for depth in range(1, int(level.max()) + 2)),
      key=_excess,
  )
  return _split_further(make, parent, samples, make(level < 1), best)


def _excess(partition) -> float:
  """Worst shard against an equal share of nodes and samples; 1 at best."""
  return max(
      partition.resident_share * partition.num_shards,
      partition.sample_imbalance,
  )


def _split_further(make, parent, samples, start, best):
  """The best of a partition and of those on the way down from `start`."""
  num_nodes, current = len(parent), start
  num_children = np.bincount(parent[1:], minlength=num_nodes)
  for _ in range(_MAX_SPLITS):
    top, shards = current.num_replicated, current.num_shards
    # What perfect balance would give with so many replicas, or with more.
    bound = (top * shards + num_nodes - top) / num_nodes
    if bound >= _excess(best) - _MARGIN:
      break
    node = _to_split(current, parent, samples, num_children)
    if node < 0:
      break
    replicated = current.shard_of_node < 0
    replicated[node] = True
    current = make(replicated)
    if _excess(current) < _excess(best) - _MARGIN:
      best = current
  return best


def _to_split(partition, parent, samples, num_children) -> int:
  """Root of the largest subtree of the shard with most, -1: none has parts."""
  owner = partition.shard_of_node
  owned = np.flatnonzero(owner >= 0)
  roots = owned[(parent[owned] < 0) | (owner[parent[owned]] < 0)]
  if not len(roots):
    return -1
  size, load = np.ones(len(owner)), samples.copy()
  for node in range(len(owner) - 1, 0, -1):
    size[parent[node]] += size[node]
    load[parent[node]] += load[node]
  shares = np.maximum(size / len(owner), load / max(load[0], 1e-300))
  shards = owner[roots]
  total = np.bincount(shards, shares[roots], partition.num_shards)
  candidates = roots[num_children[roots] > 0]
  if not len(candidates):
    return -1
  # Of the shard that has most, as long as that has something to split.
  key = np.lexsort((-shares[candidates], -total[owner[candidates]]))
  return int(candidates[key[0]])


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


def _assign(level, parent, samples, num_shards, replicated) -> Partition:
  """Deals out the subtrees that a set of replicated nodes leaves."""
  roots = subtree_roots(level, parent, replicated)
  first, subtree = np.unique(roots[roots >= 0], return_inverse=True)
  memory = np.bincount(subtree, minlength=len(first))
  owned = roots >= 0
  load = np.bincount(subtree, samples[owned], minlength=len(first))
  assigned = assign_greedily(memory, load, num_shards)
  shard_of_node = np.full(len(level), -1, np.int32)
  shard_of_node[owned] = assigned[subtree]
  local_slot, node_of_local = _local_slots(shard_of_node, num_shards)
  busy = np.bincount(assigned, load, num_shards)
  busy = busy + samples[~owned].sum() / num_shards
  return Partition(
      shard_of_node=shard_of_node,
      local_slot=local_slot,
      node_of_local=node_of_local,
      num_replicated=int((~owned).sum()),
      memory_imbalance=imbalance(memory, assigned, num_shards),
      sample_imbalance=float(busy.max() / busy.mean()) if busy.any() else 1.0,
  )


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
