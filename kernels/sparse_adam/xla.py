"""Lazy Adam shaped for XLA, one grid scale at a time.

No dense gradient of the tables: memory and work follow the number of
contributions, 8 * samples. Where a scale's rows are few beside them, they are
summed in place of the rows; else they are sorted and summed by segment, which
costs several times as much on a CPU.
"""

import jax
import jax.numpy as jnp

from kernels.hash_lookup import reference as hash_reference
from kernels.sparse_adam import reference

# Rows of a scale, of all slots, for each contribution up to which they are few.
_ROWS_OF_CONTRIBUTION = 4

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


def _step_of_all(table, moments, steps, contributions, rule):
  """One scale's arrays [N, rows, ...] after the step of their touched rows."""
  slot, row, value = contributions
  counted = jnp.concatenate([value, jnp.ones_like(value[:, :1])], axis=-1)
  sums = jnp.zeros((*steps.shape, counted.shape[-1]), counted.dtype)
  sums = sums.at[slot, row].add(counted, mode="drop")
  grad, touched = sums[..., :-1], sums[..., -1] > 0
  m, v = jnp.split(moments, 2, axis=-1)
  steps = steps + touched
  new = reference.adam_step(
      table, m, v, grad, jnp.maximum(steps, 1)[..., None], **rule
  )
  pick = lambda a, b: jnp.where(touched[..., None], a, b)
  table, m, v = pick(new[0], table), pick(new[1], m), pick(new[2], v)
  return table, jnp.concatenate([m, v], axis=-1), steps


def _step_of_touched(table, moments, steps, contributions, rule):
  """The same by one entry a touched row, of which the rest is a copy."""
  num_slots = steps.shape[0]
  slot, row, grad = _sum_duplicates(*contributions, num_slots)
  m, v = jnp.split(moments.at[slot, row].get(mode="clip"), 2, axis=-1)
  step = steps.at[slot, row].get(mode="clip") + 1
  value, m, v = reference.adam_step(
      table.at[slot, row].get(mode="clip"), m, v, grad, step[:, None], **rule
  )
  moment = jnp.concatenate([m, v], axis=-1)
  return (
      table.at[slot, row].set(value, mode="drop"),
      moments.at[slot, row].set(moment, mode="drop"),
      steps.at[slot, row].set(step, mode="drop"),
  )


def sparse_adam(table, moments, steps, calls, *, apply, spec, **rule):
  """See api.sparse_adam."""
  num_slots = table.shape[0]
  if not sum(slot.shape[0] for _, slot, _ in calls):
    return table, moments, steps
  arrays = table, moments, steps
  for grid_scale in range(spec.num_grid_scales):
    slot, row, grad = _contributions(calls, num_slots, grid_scale, spec)
    slot = jnp.where(apply, slot, num_slots)
    offset = int(spec.row_offsets[grid_scale])
    num_rows = int(spec.row_counts[grid_scale])
    few = num_slots * num_rows <= _ROWS_OF_CONTRIBUTION * slot.shape[0]
    if few:
      at = (slice(None), slice(offset, offset + num_rows))
      scale = _step_of_all(
          *(x[at] for x in arrays), (slot, row - offset, grad), rule
      )
      arrays = tuple(x.at[at].set(y) for x, y in zip(arrays, scale))
    else:
      arrays = _step_of_touched(*arrays, (slot, row, grad), rule)
  return arrays
