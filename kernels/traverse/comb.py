"""The intervals that a ray is cut into before any of them is left out.

Interval k of a ray begins at distance(k - phase): steps of `min_step` metres
near the origin, then steps of `step_slope` times the distance, held between
the ray's near and far. So the samples that remain do not depend on how empty
space was skipped.
"""

import math

import jax.numpy as jnp

# Intervals by which a skip falls short of an empty cell's far face: float32
# would otherwise step over what begins there.
MARGIN = 0.02


def bend(near, *, min_step: float, step_slope: float):
  """Where steps begin to grow: distance in metres and number of steps."""
  if step_slope == 0:
    return jnp.full_like(near, jnp.inf), jnp.full_like(near, jnp.inf)
  start = jnp.maximum(near, min_step / step_slope)
  return start, (start - near) / min_step


def distance(step, near, far, *, min_step: float, step_slope: float):
  """Metres at a number of steps (float) behind near; held in [near, far]."""
  start, steps = bend(near, min_step=min_step, step_slope=step_slope)
  t = near + step * min_step
  if step_slope:
    growing = jnp.maximum(step - steps, 0.0) * math.log1p(step_slope)
    t = jnp.where(step <= steps, t, start * jnp.exp(growing))
  return jnp.minimum(jnp.maximum(t, near), far)


def steps_to(t, near, *, min_step: float, step_slope: float):
  """Inverse of `distance` without the limits."""
  step = (t - near) / min_step
  if not step_slope:
    return step
  start, steps = bend(near, min_step=min_step, step_slope=step_slope)
  grown = jnp.log(jnp.maximum(t, start) / start) / math.log1p(step_slope)
  return jnp.where(t <= start, step, steps + grown)
