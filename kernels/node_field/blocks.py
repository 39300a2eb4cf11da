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
  order, edges = sort(slot, num_slots)
  return cut(order, edges, block)


def sort(group: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
  """Sorts members by group, in their own order within it.

  Args:
    group: [S] int32; outside [0, N): of no group, last.
    num_groups: N.

  Returns:
    order [S] int32, sorted place -> member, and edges [N + 2] int32, sorted
    place of each group's first member, of those of none, and S.
  """
  # On a GPU XLA sorts pairs by radix only where keys are unsigned, in half as
  # many passes where they are short; other pairs by a hundred or more.
  kind = jnp.uint16 if num_groups < 2**16 else jnp.uint32
  valid = (group >= 0) & (group < num_groups)
  key = jnp.where(valid, group, num_groups).astype(kind)
  place = jnp.arange(group.shape[0], dtype=jnp.int32)
  key, order = jax.lax.sort((key, place), num_keys=1, is_stable=True)
  return order, _search(key.astype(jnp.int32), num_groups + 2, "left")


def _search(sorted_values, count: int, side: str):
  """First places [count] int32 of 0, 1, ... among sorted values."""
  # Unrolled: one kernel on a GPU, where a loop starts one for every halving.
  found = jnp.searchsorted(
      sorted_values,
      jnp.arange(count, dtype=jnp.int32),
      side=side,
      method="scan_unrolled",
  )
  return found.astype(jnp.int32)


def cut(order: jax.Array, edges: jax.Array, block: int) -> Plan:
  """Cuts sorted samples into blocks; arguments as in Plan and make_plan."""
  num_slots, num_samples = edges.shape[0] - 2, order.shape[0]
  whole = (jnp.diff(edges) + block - 1) // block  # [N + 1] blocks of a slot
  ends = jnp.cumsum(whole, dtype=jnp.int32)
  starts = ends - whole
  count = num_blocks(num_samples, num_slots, block)
  b = jnp.arange(count, dtype=jnp.int32)
  group = _search(ends, count, "right")
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
