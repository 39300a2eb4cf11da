"""Samples sorted by slot into blocks of one slot each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Plan(NamedTuple):
  """Which samples each block holds; num_blocks is static.

  Sorted by slot, those of no slot last. Blocks of one slot are neighbours.

  order: [S] int32, sorted place -> sample.
  slot: [num_blocks] int32, -1: samples of no slot, or no samples at all.
  first: [num_blocks] int32, sorted place of a block's first sample.
  count: [num_blocks] int32, at most the block's size.
  slot_starts, slot_ends: [N] int32, the blocks of each slot.
  edges: [N + 2] int32, sorted place of each slot's first sample.
  """

  order: jax.Array
  slot: jax.Array
  first: jax.Array
  count: jax.Array
  slot_starts: jax.Array
  slot_ends: jax.Array
  edges: jax.Array


def num_blocks(num_samples: int, num_slots: int, block: int) -> int:
  """Blocks that suffice whatever the slots, those of no slot included."""
  return -(-num_samples // block) + min(num_slots + 1, num_samples)


def make_plan(slot: jax.Array, num_slots: int, block: int) -> Plan:
  """Sorts samples into blocks.

  Args:
    slot: [S] int32; outside [0, N): no slot.
    num_slots: N.
    block: samples of a block at most.

  Returns:
    Plan.
  """
  valid = (slot >= 0) & (slot < num_slots)
  key = jnp.where(valid, slot, num_slots)
  order = jnp.argsort(key, stable=True).astype(jnp.int32)
  edges = jnp.searchsorted(key[order], jnp.arange(num_slots + 2))
  return cut(order, edges.astype(jnp.int32), block)


def cut(order: jax.Array, edges: jax.Array, block: int) -> Plan:
  """Cuts sorted samples into blocks; arguments as in Plan and make_plan."""
  num_slots, num_samples = edges.shape[0] - 2, order.shape[0]
  whole = (jnp.diff(edges) + block - 1) // block  # [N + 1] blocks of a slot
  ends = jnp.cumsum(whole, dtype=jnp.int32)
  starts = ends - whole
  b = jnp.arange(num_blocks(num_samples, num_slots, block), dtype=jnp.int32)
  group = jnp.searchsorted(ends, b, side="right").astype(jnp.int32)
  used = group <= num_slots
  group = jnp.minimum(group, num_slots)
  first = edges[group] + (b - starts[group]) * block
  count = jnp.clip(edges[group + 1] - first, 0, block)
  return Plan(
      order=order,
      slot=jnp.where(used & (group < num_slots), group, -1),
      first=jnp.where(used, first, 0),
      count=jnp.where(used, count, 0),
      slot_starts=starts[:num_slots],
      slot_ends=ends[:num_slots],
      edges=edges,
  )
