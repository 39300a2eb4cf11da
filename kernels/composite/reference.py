"""Plain jnp compositing, differentiable in everything."""

import jax.numpy as jnp


def _fold(optical, before, rgb, distance, min_transmittance):
  """Weights and their sums over the last axis from optical depths [..., T]."""
  through = jnp.exp(-before)
  if min_transmittance:
    through = jnp.where(through > min_transmittance, through, 0.0)
  weights = -jnp.expm1(-optical) * through
  opacity = jnp.sum(weights, axis=-1)
  color = jnp.sum(weights[..., None] * rgb, axis=-2)
  return weights, color, opacity, jnp.sum(weights * distance, axis=-1)


def composite(density, delta, rgb, distance, *, min_transmittance=0.0):
  """See api.composite."""
  optical = density * delta  # [..., T]
  # Exclusive sum by shifting, not by subtracting `optical` from the inclusive
  # one: that cancels behind an opaque sample.
  before = jnp.cumsum(optical[..., :-1], axis=-1)
  before = jnp.concatenate([jnp.zeros_like(optical[..., :1]), before], axis=-1)
  return _fold(optical, before, rgb, distance, min_transmittance)


def composite_ragged(
    density, delta, rgb, distance, ray_offsets, *, min_transmittance=0.0
):
  """See api.composite_ragged. Memory is R x S: for tests only."""
  place = jnp.arange(density.shape[0])
  starts, ends = ray_offsets[:-1, None], ray_offsets[1:, None]
  mine = (place >= starts) & (place < ends)  # [R, S]
  own = lambda x: jnp.where(mine, x, 0.0)
  weights, color, opacity, mean = composite(
      own(density),
      own(delta),
      jnp.where(mine[..., None], rgb, 0.0),
      own(distance),
      min_transmittance=min_transmittance,
  )
  return jnp.sum(own(weights), axis=0), color, opacity, mean
