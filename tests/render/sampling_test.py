"""Spacing and resampling against slow NumPy versions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.render import sampling

_s_to_t = jax.jit(sampling.s_to_t)
_resample = jax.jit(
    sampling.resample, static_argnames=('num_samples', 'anneal', 'padding')
)


def _column(*values):
  return jnp.asarray(values, jnp.float32)[:, None]


def test_s_to_t_runs_from_near_to_far():
  s = jnp.linspace(0, 1, 257)
  near, far = _column(0.1, 0.5, 3.0), _column(40.0, 1.5, 2000.0)
  t = np.asarray(_s_to_t(jnp.broadcast_to(s, (3, 257)), near, far, 2.0))
  np.testing.assert_allclose(t[:, 0], near[:, 0], rtol=1e-5)
  np.testing.assert_allclose(t[:, -1], far[:, 0], rtol=2e-3)
  assert np.all(np.diff(t, axis=-1) > 0)


def test_spacing_is_uniform_up_to_h_then_in_disparity():
  s = jnp.linspace(0, 1, 101)[None]
  t = np.asarray(_s_to_t(s, _column(1e-6), _column(1e6), 2.0))[0].astype(float)
  # Half of the samples up to h = 2, evenly; half beyond, even in 1 / t.
  np.testing.assert_allclose(t[:51], np.linspace(0, 2, 51), atol=1e-4)
  np.testing.assert_allclose(1 / t[50:], np.linspace(0.5, 0, 51), atol=1e-4)


def test_s_to_t_inverts_its_spacing():
  t = np.geomspace(1e-3, 1e3, 200)
  spaced = np.where(t < 3.0, t / 6.0, 1 - 1.5 / t)  # h = 3, by hand
  np.testing.assert_allclose(
      sampling._spacing(jnp.asarray(t, jnp.float32), 3.0), spaced, atol=1e-6
  )
  near, far = 0.01, 1e3
  first, last = near / 6.0, 1 - 1.5 / far
  s = (spaced - first) / (last - first)
  inside = (s >= 0) & (s <= 1)
  found = _s_to_t(
      jnp.asarray(s[inside], jnp.float32)[None],
      _column(near),
      _column(far),
      3.0,
  )
  np.testing.assert_allclose(found[0], t[inside], rtol=2e-3)
  close = t[inside] < 30  # where float32 leaves disparity its digits
  np.testing.assert_allclose(found[0][close], t[inside][close], rtol=1e-4)


def test_stratified_comb():
  plain = sampling.stratified(None, (2,), 8)
  np.testing.assert_allclose(plain, [np.linspace(0, 1, 9)] * 2)
  jittered = np.asarray(sampling.stratified(jax.random.key(0), (2000,), 8))
  assert jittered.shape == (2000, 9)
  np.testing.assert_array_equal(jittered[:, [0, -1]], [[0, 1]] * 2000)
  assert np.all(np.diff(jittered, axis=-1) > 0)
  shift = (jittered - np.linspace(0, 1, 9))[:, 1:-1] * 8
  assert np.all(np.abs(shift) <= 0.5 + 1e-6)
  # Uniform, and independent from end to end.
  assert abs(shift.mean()) < 0.01
  assert shift.std() == pytest.approx(1 / np.sqrt(12), rel=0.03)
  correlation = np.corrcoef(shift.T) - np.eye(7)
  assert np.abs(correlation).max() < 0.1
  again = sampling.stratified(jax.random.key(0), (2000,), 8)
  np.testing.assert_array_equal(jittered, again)


def _slow_resample(ends, weights, draws, anneal, padding):
  """One ray in float64: histogram, cumulative sum, inverse, midpoints."""
  width = np.diff(ends)
  share = weights**anneal
  pdf = share / max(share.sum(), 1e-8)
  pdf = pdf + (padding + 1e-5) * width / width.sum()
  cdf = np.concatenate([[0], np.cumsum(pdf / pdf.sum())])
  points = []
  for draw in draws:
    i = 0
    while i < len(width) - 1 and cdf[i + 1] <= draw:
      i += 1
    points.append(ends[i] + (draw - cdf[i]) / (cdf[i + 1] - cdf[i]) * width[i])
  points = np.array(points)
  middle = (points[1:] + points[:-1]) / 2
  first = max(2 * points[0] - middle[0], ends[0])
  last = min(2 * points[-1] - middle[-1], ends[-1])
  return np.concatenate([[first], middle, [last]])


@pytest.mark.parametrize('size', [(5, 3), (16, 12), (33, 64)])
def test_resample_equals_the_slow_inverse(size):
  count, wanted = size
  rng = np.random.default_rng(count)
  ends = np.sort(rng.uniform(size=(20, count + 1)), axis=-1)
  weights = rng.uniform(size=(20, count)) ** 4
  weights[:5] *= rng.uniform(size=(5, count)) > 0.6  # empty intervals
  found = _resample(
      None,
      jnp.asarray(ends, jnp.float32),
      jnp.asarray(weights, jnp.float32),
      wanted,
      anneal=0.9,
      padding=0.01,
  )
  draws = (np.arange(wanted) + 0.5) / wanted
  expected = [
      _slow_resample(e, w, draws, 0.9, 0.01) for e, w in zip(ends, weights)
  ]
  # Steep stretches of the inverse magnify float32's rounding of the sum.
  np.testing.assert_allclose(found, expected, atol=3e-4)
  assert np.median(np.abs(np.asarray(found) - expected)) < 1e-6
  assert np.all(np.diff(found, axis=-1) >= -1e-6)


def test_fewer_intervals_are_those_of_fewer_samples():
  rng = np.random.default_rng(3)
  ends = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 9), (3, 9))
  weights = jnp.asarray(rng.uniform(size=(3, 8)), jnp.float32)
  counts = np.array([[2], [5], [12]])
  rule = dict(anneal=0.9, padding=0.01)
  found = np.asarray(
      sampling.resample(
          None, ends, weights, 12, counts=jnp.asarray(counts), **rule
      )
  )
  for row, count in enumerate(counts[:, 0]):
    few = sampling.resample(
        None, ends[row : row + 1], weights[row : row + 1], int(count), **rule
    )[0]
    np.testing.assert_allclose(found[row, : count + 1], few, atol=1e-6)
    assert (np.diff(found[row, count:]) == 0).all()
    is_last = np.asarray(sampling.is_last(found[row]))
    np.testing.assert_array_equal(np.flatnonzero(is_last), [count - 1])


def test_resample_follows_the_weights():
  ends = jnp.linspace(0, 1, 11)[None]
  weights = jnp.zeros((1, 10)).at[0, 3].set(0.8).at[0, 7].set(0.2)
  found = np.asarray(
      _resample(None, ends, weights, 100, anneal=1.0, padding=0.0)
  )[0]
  middle = (found[1:] + found[:-1]) / 2
  inside = lambda a, b: np.mean((middle >= a) & (middle <= b))
  assert inside(0.3, 0.4) == pytest.approx(0.8, abs=0.02)
  assert inside(0.7, 0.8) == pytest.approx(0.2, abs=0.02)


@functools.partial(jax.jit, static_argnums=2)
def _jittered(key, ends, count):
  weights = jnp.ones((ends.shape[0], ends.shape[1] - 1))
  return sampling.resample(key, ends, weights, count, anneal=1.0, padding=0.0)


def test_resample_without_weight_is_uniform_and_jitters_with_a_key():
  ends = jnp.broadcast_to(jnp.linspace(0, 1, 17), (500, 17))
  nothing = _resample(
      None, ends[:1], jnp.zeros((1, 16)), 8, anneal=0.9, padding=0.01
  )
  np.testing.assert_allclose(nothing[0], np.linspace(0, 1, 9), atol=1e-5)
  a = np.asarray(_jittered(jax.random.key(1), ends, 8))
  b = np.asarray(_jittered(jax.random.key(2), ends, 8))
  assert np.abs(a - b).max() > 0.01
  np.testing.assert_allclose(a[:, 1:-1].mean(0), np.arange(1, 8) / 8, atol=0.01)
  assert a.min() >= 0 and a.max() <= 1 and np.all(np.diff(a, axis=-1) > 0)


def test_limits_are_the_box_and_the_near_distance():
  rays = cameras_lib.Rays(
      origins=jnp.asarray([[-1.0, 0.5, 0.5], [0.5, 0.5, 0.5], [-1, 5, 0.5]]),
      origins_lo=jnp.zeros((3, 3)),
      directions=jnp.asarray([[1.0, 0, 0]] * 3),
      base_radius=jnp.zeros((3, 1)),
      cone_slope=jnp.ones((3, 1)),
      camera_idx=jnp.zeros((3, 1), jnp.int32),
  )
  aabb = jnp.asarray([[0.0, 0, 0], [1, 1, 2]])
  limits = functools.partial(
      sampling.ray_limits, rays, aabb, near=0.3, far=100.0, root_side=10.0
  )
  near, far = limits(clip_to_box=True)
  # Metres: the box begins 10 m ahead and is 10 m wide; the third ray misses.
  np.testing.assert_allclose(near[:2, 0], [10, 0.3], rtol=1e-6)
  np.testing.assert_allclose(far[:2, 0], [20, 5], rtol=1e-6)
  assert near[2, 0] == far[2, 0]
  near, far = limits(clip_to_box=False)
  np.testing.assert_allclose(near[:, 0], 0.3)
  np.testing.assert_allclose(far[:, 0], 100.0)
  # What float32 took from an origin counts, and so does a pixel's shift.
  shifted = rays._replace(origins_lo=jnp.asarray([[0.25, 0, 0]] * 3))
  near, _ = sampling.ray_limits(
      shifted, aabb, near=0.3, far=100.0, root_side=10.0, clip_to_box=True
  )
  np.testing.assert_allclose(near[0, 0], 7.5, rtol=1e-6)
