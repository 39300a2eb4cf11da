"""Compositing shaped for XLA."""

import jax
import jax.numpy as jnp

from kernels.composite import reference

# With samples in rows XLA fuses the plain form.
composite = reference.composite


def _before(optical, first):
  """Sums of the samples of a ray before each; `first` marks a ray's first."""
  earlier = jnp.concatenate([jnp.zeros_like(optical[:1]), optical[:-1]])
  earlier = jnp.where(first, 0.0, earlier)

  def add(left, right):
    a, _ = left
    b, stops = right
    # A ray's first sample forgets what the ray before it summed.
    return jnp.where(stops, b, a + b), left[1] | stops

  return jax.lax.associative_scan(add, (earlier, first))[0]


def composite_ragged(
    density, delta, rgb, distance, ray_offsets, *, min_transmittance=0.0
):
  """See api.composite_ragged."""
  num_samples, num_rays = density.shape[0], ray_offsets.shape[0] - 1
  place = jnp.arange(num_samples, dtype=jnp.int32)
  ray = jnp.searchsorted(ray_offsets, place, side="right") - 1
  real = (ray >= 0) & (ray < num_rays)
  starts = jnp.where(real, ray_offsets[jnp.clip(ray, 0)], place)
  optical = jnp.where(real, density * delta, 0.0)
  through = jnp.exp(-_before(optical, starts == place))
  if min_transmittance:
    through = jnp.where(through > min_transmittance, through, 0.0)
  weights = -jnp.expm1(-optical) * through
  row = jnp.where(real, ray, num_rays)

  def total(x):
    return jax.ops.segment_sum(
        x, row, num_segments=num_rays, indices_are_sorted=True
    )

  color = total(weights[:, None] * jnp.where(real[:, None], rgb, 0.0))
  mean = total(weights * jnp.where(real, distance, 0.0))
  return weights, color, total(weights), mean
