"""Samples along rays: spacing, stratified start, resampling by weights.

Conventions of this module. `t` is metres along the ray, `s` the normalised
distance in [0, 1] between near and far. Interval ends have a last axis of
S + 1, intervals one of S.
"""

import jax
import jax.numpy as jnp

from infnerf_jax.geometry import boxes
from infnerf_jax.geometry import cameras as cameras_lib


def _spacing(t, scale):
  """Linear up to `scale`, disparity beyond: [0, inf) to [0, 1)."""
  u = t / scale
  return jnp.where(u < 1, 0.5 * u, 1 - 0.5 / jnp.maximum(u, 1.0))


def _spacing_inverse(s, scale):
  return scale * jnp.where(s < 0.5, 2 * s, 0.5 / jnp.maximum(1 - s, 1e-7))


def s_to_t(sdist, near, far, scale):
  """Metric distances of normalised ones.

  The reference's spacing: half of the range [0, inf) is uniform up to `scale`
  (h, half the root's side), half in disparity beyond; near and far cut it.

  Args:
    sdist: [..., S].
    near: [..., 1] metres.
    far: [..., 1] metres.
    scale: metres.

  Returns:
    [..., S] metres.
  """
  first, last = _spacing(near, scale), _spacing(far, scale)
  return _spacing_inverse(first + sdist * (last - first), scale)


def ray_limits(
    rays: cameras_lib.Rays, aabb, *, near, far, root_side, clip_to_box
):
  """Near and far of rays.

  Args:
    rays: [...].
    aabb: [2, 3] root units.
    near: metres.
    far: metres.
    root_side: metres.
    clip_to_box: whether the box bounds the rays.

  Returns:
    ([..., 1] near, [..., 1] far) metres; equal where a ray misses the box.
  """
  shape = rays.cone_slope.shape
  low = jnp.full(shape, near, jnp.float32)
  high = jnp.full(shape, far, jnp.float32)
  if not clip_to_box:
    return low, high
  # An orthographic ray's place in the picture is in the low part.
  origins = rays.origins + rays.origins_lo
  enter, leave = boxes.ray_aabb(origins, rays.directions, aabb)
  low = jnp.maximum(low, enter * root_side)
  high = jnp.minimum(high, leave * root_side)
  return low, jnp.maximum(high, low)


def stratified(key, shape, num_samples: int, *, draw=jax.random.uniform):
  """Ends of equal intervals, jittered as one comb a ray where a key is given.

  Args:
    key: PRNG key or None for the deterministic comb.
    shape: leading dimensions.
    num_samples: S.
    draw: (key, shape) to uniform numbers.

  Returns:
    [..., S + 1] in [0, 1], increasing.
  """
  ends = jnp.linspace(0.0, 1.0, num_samples + 1)
  ends = jnp.broadcast_to(ends, shape + (num_samples + 1,))
  if key is None:
    return ends
  # Only inner ends move: the first and the last bound the ray.
  jitter = draw(key, shape + (num_samples + 1,)) - 0.5
  inner = jnp.arange(num_samples + 1)
  inner = (inner > 0) & (inner < num_samples)
  return ends + jnp.where(inner, jitter / num_samples, 0.0)


def is_last(tdist):
  """[..., S] bool, the last interval with a length, of ends [..., S + 1]."""
  has_length = tdist[..., 1:] > tdist[..., :-1]
  behind = jnp.concatenate(
      [has_length[..., 1:], jnp.zeros_like(has_length[..., :1])], axis=-1
  )
  return has_length & ~behind


def resample(
    key,
    sdist,
    weights,
    num_samples: int,
    *,
    anneal,
    padding,
    draw=jax.random.uniform,
    counts=None,
):
  """Draws interval ends from a histogram of weights (inverse transform).

  Args:
    key: PRNG key, or None for midpoints of equal shares.
    sdist: [..., S + 1] ends of the given intervals, increasing in [0, 1].
    weights: [..., S] of the given intervals.
    num_samples: S' wanted.
    anneal: power on the weights (mip-NeRF 360 anneals it up to one).
    padding: added to every weight, as a share of a uniform histogram, so
      that no interval is ever out of reach.
    draw: (key, shape) to uniform numbers.
    counts: [..., 1] int32, 2 to S': so many intervals are drawn, the others
      have no length and lie behind them; None: all are. Without a key only.

  Returns:
    [..., S' + 1] ends, increasing; the first is 0 and the last is 1 only
    where the weights reach there.
  """
  width = sdist[..., 1:] - sdist[..., :-1]
  powered = jnp.maximum(weights, 0.0) ** anneal
  total = jnp.sum(powered, axis=-1, keepdims=True)
  uniform = width / jnp.maximum(jnp.sum(width, -1, keepdims=True), 1e-12)
  # A ray without weight falls back to the uniform histogram.
  pdf = powered / jnp.maximum(total, 1e-8) + padding * uniform + 1e-5 * uniform
  pdf = pdf / jnp.sum(pdf, axis=-1, keepdims=True)
  cdf = jnp.cumsum(pdf[..., :-1], axis=-1)
  cdf = jnp.concatenate(
      [
          jnp.zeros_like(cdf[..., :1]),
          jnp.minimum(cdf, 1.0),
          jnp.ones_like(cdf[..., :1]),
      ],
      axis=-1,
  )  # [..., S + 1]
  shape = sdist.shape[:-1]
  centers = (jnp.arange(num_samples) + 0.5) / num_samples
  if counts is not None:
    draws = jnp.minimum(jnp.arange(num_samples) + 0.5, counts - 0.5) / counts
  elif key is None:
    draws = jnp.broadcast_to(centers, shape + (num_samples,))
  else:
    jitter = draw(key, shape + (num_samples,)) - 0.5
    draws = centers + jitter / num_samples
  points = _invert_cdf(draws, cdf, sdist)
  # Intervals around the drawn points: ends halfway between neighbours.
  middle = 0.5 * (points[..., 1:] + points[..., :-1])
  first = jnp.maximum(2 * points[..., :1] - middle[..., :1], sdist[..., :1])
  last = jnp.minimum(2 * points[..., -1:] - middle[..., -1:], sdist[..., -1:])
  ends = jnp.concatenate([first, middle, last], axis=-1)
  return ends if counts is None else _closed(ends, points, sdist, counts)


def _closed(ends, points, sdist, counts):
  """Ends whose intervals from `counts` on have no length.

  Args:
    ends: [..., S + 1] halfway between points.
    points: [..., S], equal from `counts` - 1 on.
    sdist: whose last end is the farthest.
    counts: [..., 1].

  Returns:
    [..., S + 1].
  """
  before = jnp.take_along_axis(ends, counts - 1, axis=-1, mode='clip')
  last = jnp.minimum(2 * points[..., -1:] - before, sdist[..., -1:])
  return jnp.where(jnp.arange(ends.shape[-1]) < counts, ends, last)


def _invert_cdf(draws, cdf, ends):
  """Piecewise linear inverse of a cumulative histogram.

  Args:
    draws: [..., M] in [0, 1].
    cdf: [..., S + 1], non-decreasing.
    ends: [..., S + 1].

  Returns:
    [..., M].
  """
  num_ends = cdf.shape[-1]
  # Bisection by powers of two: log2(S) gathers beat S comparisons on a CPU.
  lower = jnp.zeros(draws.shape, jnp.int32)
  step = 1 << (num_ends - 1).bit_length() - 1
  while step:
    probe = jnp.minimum(lower + step, num_ends - 2)
    value = jnp.take_along_axis(cdf, probe, axis=-1, mode='clip')
    lower = jnp.where(value <= draws, probe, lower)
    step //= 2
  pick = lambda x, i: jnp.take_along_axis(x, i, axis=-1, mode='clip')
  c0, c1 = pick(cdf, lower), pick(cdf, lower + 1)
  e0, e1 = pick(ends, lower), pick(ends, lower + 1)
  share = jnp.clip((draws - c0) / jnp.maximum(c1 - c0, 1e-12), 0.0, 1.0)
  return e0 + share * (e1 - e0)
