"""Losses of training: means, so that weights do not depend on sizes.

Weights of rays, where some are drawn more often than their share, multiply
terms of the sum and leave its divisor as it is: their mean over batches is 1.
"""

import jax.numpy as jnp


def _weighed(values, weight):
  return values if weight is None else values * weight


def photometric_loss(rgb, target, valid, weight=None):
  """Mean squared error over valid rays.

  Args:
    rgb: [R, 3].
    target: [R, 3].
    valid: [R] bool; masked pixels are left out.
    weight: [R] of each ray's part of the sum, None: all 1.

  Returns:
    Scalar.
  """
  error = jnp.sum((rgb - target) ** 2, axis=-1)
  error = _weighed(jnp.where(valid, error, 0.0), weight)
  return jnp.sum(error) / jnp.maximum(3 * jnp.sum(valid), 1)


def distortion_loss(sdist, weights, weight=None):
  """Gathers a ray's weights at one place (mip-NeRF 360, equation 15).

  The double sum over pairs is two running sums, since intervals are sorted.

  Args:
    sdist: [R, S + 1] normalised interval ends.
    weights: [R, S].
    weight: [R] of each ray's part of the sum, None: all 1.

  Returns:
    Scalar, mean over rays.
  """
  middle = 0.5 * (sdist[..., 1:] + sdist[..., :-1])
  width = sdist[..., 1:] - sdist[..., :-1]
  weighted = weights * middle
  before = jnp.cumsum(weights, axis=-1) - weights
  moment_before = jnp.cumsum(weighted, axis=-1) - weighted
  # Each unordered pair counts twice in the double sum.
  between = 2 * jnp.sum(weighted * before - weights * moment_before, axis=-1)
  within = jnp.sum(weights**2 * width, axis=-1) / 3
  return jnp.mean(_weighed(between + within, weight))


def depth_loss(t, weights, distance, width, weight=None):
  """A ray through a sparse point ends there.

  One minus the weight that lies at the point, under a bell of a given width:
  weight before it, behind it and missing opacity count alike, and a wrong
  distance costs no more than one.

  Args:
    t: [R, S] metres, middles of the intervals.
    weights: [R, S].
    distance: [R] metres to the point; 0: the ray goes through none.
    width: [R] metres, standard deviation of the bell.
    weight: [R] of each ray's part of the sum, None: all 1.

  Returns:
    Scalar, mean over the rays that go through points.
  """
  known = distance > 0
  away = (t - distance[:, None]) / jnp.where(known, width, 1.0)[:, None]
  missing = 1 - jnp.sum(weights * jnp.exp(-0.5 * away**2), axis=-1)
  missing = _weighed(jnp.where(known, missing, 0.0), weight)
  return jnp.sum(missing) / jnp.maximum(jnp.sum(known), 1)


def level_consistency_loss(parent_transparency, child_transparency, valid):
  """A parent is as transparent as its child is on average there.

  Args:
    parent_transparency: [K] `exp(-density * h)` of parents at points.
    child_transparency: [K, 7] of the child at the point and at its six
      neighbours a child's node_gsd away.
    valid: [K] bool; False where the child does not exist.

  Returns:
    Scalar.
  """
  error = (parent_transparency - jnp.mean(child_transparency, axis=-1)) ** 2
  return jnp.sum(jnp.where(valid, error, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def transparency_loss(transparency):
  """Prior towards empty space: mean of `1 - exp(-density * h)`.

  Args:
    transparency: [K].

  Returns:
    Scalar.
  """
  return jnp.mean(1 - transparency)


def psnr_of_mse(mse):
  """Peak signal-to-noise ratio in dB of a mean squared error in [0, 1]."""
  return -10 / jnp.log(10.0) * jnp.log(jnp.maximum(mse, 1e-12))
