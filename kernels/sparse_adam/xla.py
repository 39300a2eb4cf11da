"""Lazy Adam shaped for XLA: rows sorted, summed by segment, scattered back.

No dense gradient of the tables: work and memory follow the number of
contributions, 8 * samples of one grid scale at a time.
"""

import jax
import jax.numpy as jnp

from kernels.hash_lookup import reference as hash_reference
from kernels.sparse_adam import reference

slot_adam = reference.slot_adam
touched_slots = reference.touched_slots


def _contributions(calls, num_slots, grid_scale, spec):
  """(slot [K], row [K], value [K, F]) of one grid scale, corners flattened."""
  parts = []
  for position, slot, feature_grad in calls:
    rows, weights = hash_reference.grid_rows(
        position, slot, spec=spec, grid_scale=grid_scale
    )
    valid = (slot >= 0) & (slot < num_slots)
    where = jnp.broadcast_to(jnp.where(valid, slot, num_slots), rows.shape)
    values = weights[..., None] * feature_grad[grid_scale]  # [8, S, F]
    values = values.reshape(-1, spec.num_features)
    parts.append((where.reshape(-1), rows.reshape(-1), values))
  return [jnp.concatenate(p) for p in zip(*parts)]


def _sum_duplicates(slot, row, value, num_slots):
  """One entry a distinct (slot, row); the rest get slot `num_slots`."""
  # Two keys: slot * rows + row would overflow int32.
  order = jnp.lexsort((row, slot))
  slot, row, value = slot[order], row[order], value[order]
  changed = (slot[1:] != slot[:-1]) | (row[1:] != row[:-1])
  segment = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(changed)])
  segment = segment.astype(jnp.int32)
  count = slot.shape[0]
  total = jax.ops.segment_sum(
      value, segment, num_segments=count, indices_are_sorted=True
  )
  fill = jnp.full(count, num_slots, slot.dtype)
  slot = fill.at[segment].set(slot)
  row = jnp.zeros(count, row.dtype).at[segment].set(row)
  return slot, row, total


def sparse_adam(table, moments, steps, calls, *, apply, spec, **rule):
  """See api.sparse_adam."""
  num_slots, _, num_features = table.shape
  if not sum(slot.shape[0] for _, slot, _ in calls):
    return table, moments, steps
  for grid_scale in range(spec.num_grid_scales):
    slot, row, grad = _sum_duplicates(
        *_contributions(calls, num_slots, grid_scale, spec), num_slots
    )
    slot = jnp.where(apply, slot, num_slots)
    old = moments.at[slot, row].get(mode="clip")
    step = steps.at[slot, row].get(mode="clip") + 1
    value, m, v = reference.adam_step(
        table.at[slot, row].get(mode="clip"),
        old[:, :num_features],
        old[:, num_features:],
        grad,
        step[:, None],
        **rule,
    )
    table = table.at[slot, row].set(value, mode="drop")
    moment = jnp.concatenate([m, v], axis=-1)
    moments = moments.at[slot, row].set(moment, mode="drop")
    steps = steps.at[slot, row].set(step, mode="drop")
  return table, moments, steps
