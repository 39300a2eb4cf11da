"""How many node rows a memory cap holds, and what they are used for."""

from typing import NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.models import node_pool
from infnerf_jax.sharding import partition as partition_lib
from kernels.node_field import specs as field_specs

# Rows on their way between slots and disk: read ahead, written behind, and
# what encoding and decoding one of each takes meanwhile.
NUM_AHEAD, NUM_BEHIND = 2, 2
_CODEC_ROWS = 5
_PASSING_ROWS = NUM_AHEAD + NUM_BEHIND + _CODEC_ROWS
# Of the slots, for the top of the tree.
_PINNED_SHARE = 0.25
# The root, one other node, and a slot for the exchange.
_MIN_SLOTS = 3


class Capacity(NamedTuple):
  """What the slots of a run that pages are used for.

  The rows of all node shards stand one after another, as in a sharded state;
  the first ones of each are alike on all and named by those of the first.

  Attributes:
    num_slots: rows of a node shard.
    num_pinned: of them for nodes that are always resident, on every shard.
    bytes: of a node shard's rows, those on their way included.
    num_shards: node shards.
  """

  num_slots: int
  num_pinned: int
  bytes: int
  num_shards: int = 1

  @property
  def num_rows(self) -> int:
    """Rows of all shards; a row is named by its number among them."""
    return self.num_shards * self.num_slots

  def shards_of(self, slot: int) -> range:
    """Node shards that hold a row."""
    if slot < self.num_pinned:
      return range(self.num_shards)
    return range(slot // self.num_slots, slot // self.num_slots + 1)

  def local_slots(self) -> np.ndarray:
    """[num_shards, num_rows] int32 row of each shard, -1: another's."""
    slot = np.arange(self.num_rows, dtype=np.int32)
    shard, local = np.divmod(slot, np.int32(self.num_slots))
    mine = shard == np.arange(self.num_shards)[:, None]
    mine |= slot < self.num_pinned
    return np.where(mine, local, np.int32(-1))


def slot_bytes(spec: field_specs.FieldSpec) -> int:
  """Bytes of a slot in training: parameters, moments, gradients.

  Tables have no gradient of their own size; MLPs do, the priors' among them.
  """
  rows = node_pool.row_bytes(spec)
  table = 4 * spec.grid.num_rows * spec.grid.num_features
  return rows['training'] + 2 * (rows['parameters'] - table)


def resident_bytes(spec: field_specs.FieldSpec, num_nodes: int) -> int:
  """Bytes of a tree that is wholly resident in training."""
  return num_nodes * slot_bytes(spec)


def of_slots(
    num_slots: int, spec: field_specs.FieldSpec, num_shards: int = 1
) -> Capacity:
  """Divides slots among the top of the tree and all else.

  Args:
    num_slots: of a node shard, at least 3.
    spec: of a node.
    num_shards: node shards.
  """
  pinned = max(1, int(_PINNED_SHARE * num_slots))
  passing = _PASSING_ROWS * node_pool.row_bytes(spec)['training']
  return Capacity(
      num_slots, pinned, num_slots * slot_bytes(spec) + passing, num_shards
  )


def _shard_rows(num_nodes: int, num_shards: int) -> int:
  """Rows of a shard that surely hold its part of a tree, the root's among."""
  if num_shards == 1:
    return num_nodes
  excess = partition_lib.MEMORY_EXCESS
  return 1 + int(np.ceil(excess * num_nodes / num_shards))


def of_run(
    spec: field_specs.FieldSpec,
    num_nodes: int,
    *,
    max_memory_gb: float = 0.0,
    num_slots: int = 0,
    num_shards: int = 1,
) -> Capacity | None:
  """Whether a run pages its nodes, and in how many slots.

  Args:
    spec: of a node.
    num_nodes: of the tree.
    max_memory_gb: cap, on each device, of the nodes' parameters, moments and
      gradients and of the rows on their way; 0 is none.
    num_slots: of a device, overrides what follows from the cap, 0: none.
    num_shards: node shards.

  Returns:
    Capacity, or None where all nodes are resident.

  Raises:
    InputError: too little; the least that would do is named.
  """
  if num_slots:
    if num_slots >= num_nodes:
      return None
    if num_slots < _MIN_SLOTS:
      raise errors.InputError(
          f'config.num_slots: got {num_slots}, expected at least {_MIN_SLOTS}'
          f' to page the {num_nodes} nodes of the octree, or 0'
      )
    return of_slots(num_slots, spec, num_shards)
  cap = 1e9 * max_memory_gb
  rows = _shard_rows(num_nodes, num_shards)
  if not cap or resident_bytes(spec, rows) <= cap:
    return None
  passing = _PASSING_ROWS * node_pool.row_bytes(spec)['training']
  slots = int((cap - passing) // slot_bytes(spec))
  if slots < _MIN_SLOTS:
    least = of_slots(_MIN_SLOTS, spec).bytes
    raise errors.InputError(
        f'config.max_memory_gb: got {max_memory_gb:g}, expected 0 or at least'
        f' {1.0005 * least / 1e9:.3g}: the root and one group of nodes take'
        f' {_MIN_SLOTS} rows of {slot_bytes(spec) / 1e6:.3g} MB, reading and'
        f' writing {_PASSING_ROWS} more'
    )
  return of_slots(min(slots, num_nodes), spec, num_shards)


def all_resident(
    spec: field_specs.FieldSpec, partition: partition_lib.Partition
) -> Capacity:
  """Capacity of a run whose store is there and whose nodes all fit."""
  return Capacity(
      partition.capacity,
      partition.num_replicated,
      resident_bytes(spec, partition.capacity),
      partition.num_shards,
  )
