"""Axis-aligned boxes, rays against them, and the root's contraction."""

import jax.numpy as jnp
import numpy as np


def percentile_aabb(points, low: float, high: float) -> np.ndarray:
  """Box of the points between two percentiles on every axis.

  Args:
    points: [P, 3] metres.
    low: per cent.
    high: per cent.

  Returns:
    [2, 3] float64, lower then upper corner.
  """
  return np.percentile(np.asarray(points, np.float64), [low, high], axis=0)


def ray_aabb(origins, directions, aabb):
  """Where rays enter and leave a box.

  Args:
    origins: [..., 3].
    directions: [..., 3], not necessarily unit.
    aabb: [2, 3], in the units of `origins`.

  Returns:
    ([..., 1] t_enter, [..., 1] t_leave) in units of the directions' length;
    t_leave < t_enter where the ray misses. Negative t lies behind.
  """
  # A zero component never leaves its slab: the infinities of the division
  # have the right signs unless the origin lies on the slab's face.
  safe = jnp.where(
      jnp.abs(directions) < 1e-12, jnp.copysign(1e-12, directions), directions
  )
  first = (aabb[0] - origins) / safe
  second = (aabb[1] - origins) / safe
  enter = jnp.max(jnp.minimum(first, second), axis=-1, keepdims=True)
  leave = jnp.min(jnp.maximum(first, second), axis=-1, keepdims=True)
  return enter, leave


def contract(points):
  """L-infinity contraction of all space into the doubled box.

  The box [-1, 1]^3 stays as it is; a point at L-infinity distance m > 1 moves
  to distance 2 - 1 / m (mip-NeRF 360, equation 10, with the L-infinity norm).

  Args:
    points: [..., 3].

  Returns:
    [..., 3] within [-2, 2].
  """
  norm = jnp.max(jnp.abs(points), axis=-1, keepdims=True)
  outside = jnp.maximum(norm, 1.0)
  return jnp.where(norm > 1, (2 - 1 / outside) * (points / outside), points)
