"""Losses against slow NumPy sums and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.training import losses


def _slow_distortion(sdist, weights):
  total = []
  for s, w in zip(sdist, weights, strict=True):
    middle, width = 0.5 * (s[1:] + s[:-1]), s[1:] - s[:-1]
    between = sum(
        w[i] * w[j] * abs(middle[i] - middle[j])
        for i in range(len(w))
        for j in range(len(w))
    )
    total.append(between + np.sum(w**2 * width) / 3)
  return np.mean(total)


@pytest.mark.parametrize('num_samples', [1, 2, 17])
def test_distortion_is_the_double_sum(num_samples):
  rng = np.random.default_rng(num_samples)
  sdist = np.sort(rng.uniform(size=(5, num_samples + 1)), axis=-1)
  weights = rng.uniform(size=(5, num_samples)) / num_samples
  got = losses.distortion_loss(jnp.asarray(sdist), jnp.asarray(weights))
  np.testing.assert_allclose(got, _slow_distortion(sdist, weights), rtol=2e-5)


def test_distortion_of_a_uniform_ray_is_one_third():
  # The limit of many equal intervals of weight 1 / S: E|x - y| = 1/3.
  sdist = jnp.linspace(0, 1, 513)[None]
  weights = jnp.full((1, 512), 1 / 512)
  assert abs(losses.distortion_loss(sdist, weights) - 1 / 3) < 1e-4


def test_depth_loss_is_the_weight_missing_at_the_point():
  rng = np.random.default_rng(3)
  t = np.sort(rng.uniform(1, 9, (6, 11)), axis=-1)
  weights = rng.uniform(size=t.shape) / t.shape[1]
  distance = np.array([3.0, 0.0, 5.0, 7.0, 0.0, 2.0])
  width = np.array([0.5, 0.0, 0.1, 2.0, 1.0, 0.3])
  expected = []
  for i in np.flatnonzero(distance):
    bell = np.exp(-((t[i] - distance[i]) ** 2) / (2 * width[i] ** 2))
    expected.append(1 - np.sum(weights[i] * bell))
  got = losses.depth_loss(*map(jnp.asarray, (t, weights, distance, width)))
  np.testing.assert_allclose(got, np.mean(expected), rtol=1e-5)


def test_depth_loss_ranks_a_surface_at_the_point_first():
  t = jnp.array([[1.0, 2.0, 3.0]])
  at, before, clear = jnp.eye(3)[1:2], jnp.eye(3)[:1], jnp.zeros((1, 3))
  loss = lambda w: float(
      losses.depth_loss(t, w, jnp.array([2.0]), jnp.array([0.1]))
  )
  assert loss(at) == pytest.approx(0)
  assert loss(before) == pytest.approx(1) and loss(clear) == pytest.approx(1)
  # Rays through no point: no loss, and no gradient that is not a number.
  grad = jax.grad(
      lambda w: losses.depth_loss(t, w, jnp.zeros(1), jnp.zeros(1))
  )(at)
  assert np.all(np.asarray(grad) == 0)


def test_photometric_loss_leaves_masked_rays_out():
  rgb = jnp.asarray([[1.0, 0, 0], [9.0, 9, 9]])
  target = jnp.zeros((2, 3))
  valid = jnp.asarray([True, False])
  assert losses.photometric_loss(rgb, target, valid) == pytest.approx(1 / 3)
  grad = jax.grad(losses.photometric_loss)(rgb, target, valid)
  assert np.all(np.asarray(grad[1]) == 0)
  none = losses.photometric_loss(rgb, target, jnp.zeros(2, bool))
  assert none == 0


def test_level_consistency_is_zero_where_the_parent_is_the_mean():
  rng = np.random.default_rng(0)
  child = rng.uniform(size=(10, 7)).astype(np.float32)
  valid = np.ones(10, bool)
  parent = child.mean(axis=-1)
  assert losses.level_consistency_loss(parent, child, valid) < 1e-12
  off = losses.level_consistency_loss(parent + 0.1, child, valid)
  assert off == pytest.approx(0.01, rel=1e-4)
  half = valid & (np.arange(10) < 5)
  worse = parent + np.where(half, 0.2, 5.0)
  got = losses.level_consistency_loss(worse, child, half)
  assert got == pytest.approx(0.04, rel=1e-4)


def test_gradients_reach_parent_and_child():
  child = jnp.full((3, 7), 0.5)
  parent = jnp.full((3,), 0.7)
  grads = jax.grad(losses.level_consistency_loss, argnums=(0, 1))(
      parent, child, jnp.ones(3, bool)
  )
  assert np.all(np.asarray(grads[0]) > 0)
  assert np.all(np.asarray(grads[1]) < 0)


def test_psnr_of_mse():
  assert losses.psnr_of_mse(jnp.float32(0.01)) == pytest.approx(20, abs=1e-4)


def test_weights_of_rays_multiply_their_parts_of_the_sums():
  rng = np.random.default_rng(3)
  rgb, target = rng.uniform(size=(2, 6, 3))
  weight = rng.uniform(0.5, 2.0, 6)
  valid = np.array([True, True, False, True, True, True])
  got = losses.photometric_loss(rgb, target, valid, weight)
  error = ((rgb - target) ** 2).sum(axis=-1)
  np.testing.assert_allclose(got, (error * weight)[valid].sum() / 15, rtol=1e-5)
  sdist = np.sort(rng.uniform(size=(6, 5)), axis=-1)
  weights = rng.uniform(size=(6, 4)) / 4
  t, width = rng.uniform(1, 3, (6, 4)), np.full(6, 0.3)
  distance = np.array([2.0, 0.0, 1.5, 0.0, 2.5, 1.0])

  def by_ray(loss, *arrays):
    return np.array([loss(*(x[i : i + 1] for x in arrays)) for i in range(6)])

  for loss, arrays, count in (
      (losses.distortion_loss, (sdist, weights), 6),
      (losses.depth_loss, (t, weights, distance, width), 4),
  ):
    expected = (by_ray(loss, *arrays) * weight).sum() / count
    np.testing.assert_allclose(loss(*arrays, weight), expected, rtol=1e-4)
