"""Plain jnp compositing, differentiable in everything."""

import jax.numpy as jnp


def composite(density, delta, rgb, distance):
  """See api.composite."""
  optical = density * delta  # [..., T]
  # Exclusive sum by shifting, not by subtracting `optical` from the inclusive
  # one: that cancels behind an opaque sample.
  before = jnp.cumsum(optical[..., :-1], axis=-1)
  before = jnp.concatenate([jnp.zeros_like(optical[..., :1]), before], axis=-1)
  weights = -jnp.expm1(-optical) * jnp.exp(-before)
  opacity = jnp.sum(weights, axis=-1)
  color = jnp.sum(weights[..., None] * rgb, axis=-2)
  return weights, color, opacity, jnp.sum(weights * distance, axis=-1)
