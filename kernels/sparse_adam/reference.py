"""Plain jnp lazy Adam by a dense gradient: the oracle."""

import jax.numpy as jnp

from kernels.hash_lookup import reference as hash_reference


def adam_step(value, m, v, grad, step, *, learning_rate, b1, b2, eps):
  """One Adam step; `step` counts from 1 and broadcasts."""
  m = b1 * m + (1 - b1) * grad
  v = b2 * v + (1 - b2) * grad**2
  step = step.astype(jnp.float32)
  m_hat = m / (1 - jnp.power(jnp.float32(b1), step))
  v_hat = v / (1 - jnp.power(jnp.float32(b2), step))
  return value - learning_rate * m_hat / (jnp.sqrt(v_hat) + eps), m, v


def sparse_adam(table, moments, steps, calls, *, apply, spec, **rule):
  """See api.sparse_adam."""
  num_slots, num_rows, num_features = table.shape
  grad = jnp.zeros_like(table)
  touched = jnp.zeros((num_slots, num_rows), bool)
  for position, slot, feature_grad in calls:
    # Past the end is dropped; a negative index would wrap.
    where = jnp.where(slot < 0, num_slots, slot)
    for grid_scale in range(spec.num_grid_scales):
      rows, weights = hash_reference.grid_rows(
          position, slot, spec=spec, grid_scale=grid_scale
      )
      values = weights[..., None] * feature_grad[grid_scale]  # [8, S, F]
      grad = grad.at[where, rows].add(values, mode="drop")
      touched = touched.at[where, rows].set(True, mode="drop")
  touched &= apply
  m, v = moments[..., :num_features], moments[..., num_features:]
  new_steps = steps + touched
  new = adam_step(
      table, m, v, grad, jnp.maximum(new_steps, 1)[..., None], **rule
  )
  pick = lambda a, b: jnp.where(touched[..., None], a, b)
  table, m, v = pick(new[0], table), pick(new[1], m), pick(new[2], v)
  return table, jnp.concatenate([m, v], axis=-1), new_steps


def slot_adam(weights, grad, moments, steps, touched, *, apply, **rule):
  """See api.slot_adam; the new steps are formed there."""
  touched = (touched & apply).reshape((-1,) + (1,) * (weights.ndim - 1))
  step = (steps + 1).reshape(touched.shape)
  m, v = moments[:, 0], moments[:, 1]
  new = adam_step(weights, m, v, grad, step, **rule)
  new = [jnp.where(touched, a, b) for a, b in zip(new, (weights, m, v))]
  return new[0], jnp.stack(new[1:], axis=1)


def touched_slots(slots, num_slots: int):
  """See api.touched_slots."""
  touched = jnp.zeros(num_slots, bool)
  for slot in slots:
    where = jnp.where(slot < 0, num_slots, slot)
    touched = touched.at[where].set(True, mode="drop")
  return touched
