"""vmap of kernels: batches become more samples and more slots."""

import jax
import jax.numpy as jnp


def spread(value: jax.Array, batched: bool, size: int) -> jax.Array:
  """The value with a leading batch axis, repeated where it had none."""
  if batched:
    return value
  return jnp.broadcast_to(value, (size,) + value.shape)


def merge(value: jax.Array, batched: bool, size: int) -> jax.Array:
  """[B, S, ...] -> [B * S, ...], repeated where there was no batch axis."""
  value = spread(value, batched, size)
  return value.reshape((-1,) + value.shape[2:])


def offset_slots(slot: jax.Array, num_slots: int) -> jax.Array:
  """Slots [B, S] of B stacked pools of num_slots each; out of range stays so.

  Returns:
    [B * S] int32; what was out of range is -1.
  """
  first = jnp.arange(slot.shape[0], dtype=slot.dtype)[:, None] * num_slots
  valid = (slot >= 0) & (slot < num_slots)
  return jnp.where(valid, slot + first, -1).reshape(-1)


def own_of_batch(value: jax.Array, size: int) -> jax.Array:
  """[B * N, ...] -> [B, N, ...]."""
  return value.reshape((size, -1) + value.shape[1:])
