"""Compositing against a NumPy loop, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import composite


def _arguments(num_rays=4, num_samples=9):
  rng = np.random.default_rng(0)
  shape = (num_rays, num_samples)
  density = rng.exponential(size=shape)
  delta = rng.uniform(0.1, 1, shape)
  rgb = rng.uniform(size=shape + (3,))
  distance = np.cumsum(delta, axis=-1)
  return [np.float32(a) for a in (density, delta, rgb, distance)]


@pytest.mark.parametrize("implementation", [None, "reference", "xla"])
def test_equals_numpy(implementation):
  density, delta, rgb, distance = _arguments()
  got = composite.composite(
      density, delta, rgb, distance, implementation=implementation
  )
  for r in range(4):
    transmittance = 1.0
    weights = []
    for i in range(9):
      alpha = 1 - np.exp(-float(density[r, i]) * float(delta[r, i]))
      weights.append(alpha * transmittance)
      transmittance *= 1 - alpha
    np.testing.assert_allclose(got.weights[r], weights, atol=1e-6)
    np.testing.assert_allclose(got.rgb[r], weights @ rgb[r], atol=1e-6)
    np.testing.assert_allclose(got.opacity[r], 1 - transmittance, atol=1e-6)
    np.testing.assert_allclose(
        got.distance[r], weights @ distance[r], rtol=1e-5
    )


def test_opaque_samples_give_finite_gradients():
  density, delta, rgb, distance = _arguments()
  density[:, 3] = 1e30

  def loss(density):
    out = composite.composite(density, delta, rgb, distance)
    return jnp.sum(out.rgb) + jnp.sum(out.distance)

  grad = jax.grad(loss)(jnp.asarray(density))
  assert np.all(np.isfinite(grad))
  assert np.all(grad[:, 4:] == 0)


def test_native_is_refused():
  with pytest.raises(NotImplementedError):
    composite.composite(*_arguments(), implementation="native")
  with pytest.raises(ValueError, match="rgb"):
    density, delta, rgb, distance = _arguments()
    composite.composite(density, delta, rgb[:2], distance)
