"""Boxes and contraction against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import boxes

_ray_aabb = jax.jit(boxes.ray_aabb)
_contract = jax.jit(boxes.contract)


def test_ray_aabb_against_dense_marching():
  rng = np.random.default_rng(0)
  aabb = np.array([[-1.0, -0.5, 0.0], [1.0, 2.0, 0.7]])
  origins = rng.uniform(-3, 3, (300, 3))
  directions = rng.normal(size=(300, 3))
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  enter, leave = _ray_aabb(
      jnp.asarray(origins), jnp.asarray(directions), jnp.asarray(aabb)
  )
  enter, leave = np.asarray(enter)[:, 0], np.asarray(leave)[:, 0]
  t = np.linspace(-10, 10, 8001)
  points = origins[:, None] + t[:, None] * directions[:, None]
  inside = np.all((points >= aabb[0]) & (points <= aabb[1]), axis=-1)
  hits = inside.any(axis=-1)
  assert hits.sum() > 30
  # A corner may be cut by less than one step.
  assert np.all(leave[hits] >= enter[hits])
  assert np.all((leave - enter)[~hits] < 0.004)
  first = t[inside.argmax(axis=-1)][hits]
  last = t[8000 - inside[:, ::-1].argmax(axis=-1)][hits]
  np.testing.assert_allclose(enter[hits], first, atol=0.003)
  np.testing.assert_allclose(leave[hits], last, atol=0.003)


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_rays_along_the_axes(sign):
  aabb = jnp.asarray([[0.0, 0, 0], [1, 1, 1]])
  inside = jnp.asarray([[0.5, 0.5, 0.5]])
  along = jnp.asarray([[0.0, sign, 0.0]])
  enter, leave = _ray_aabb(inside, along, aabb)
  np.testing.assert_allclose([enter[0, 0], leave[0, 0]], [-0.5, 0.5], atol=1e-6)
  enter, leave = _ray_aabb(inside + 2.0, along, aabb)
  assert leave[0, 0] < enter[0, 0]


def test_contraction_is_the_identity_inside_and_bounded_outside():
  rng = np.random.default_rng(1)
  points = rng.uniform(-4, 4, (500, 3))
  norm = np.abs(points).max(axis=-1, keepdims=True)
  expected = np.where(
      norm > 1, (2 - 1 / np.maximum(norm, 1)) * points / norm, points
  )
  np.testing.assert_allclose(
      _contract(jnp.asarray(points)), expected, atol=1e-6
  )
  far = _contract(jnp.asarray([[1e8, -1e3, 0.0]]))
  np.testing.assert_allclose(far, [[2.0, -2e-5, 0.0]], atol=1e-6)


def test_percentile_box_ignores_strays():
  points = np.random.default_rng(2).uniform(0, 1, (10_000, 3))
  points[:5] = 1e6
  low, high = boxes.percentile_aabb(points, 0.1, 99.9)
  assert np.all(low > -1e-3) and np.all(high < 1 + 1e-3)
