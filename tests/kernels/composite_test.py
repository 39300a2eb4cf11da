"""Compositing against a NumPy loop, and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import composite
from tests.kernels import common

BACKENDS = [name for name in common.ALL if name != "native"]


def _arguments(num_rays=4, num_samples=9):
  rng = np.random.default_rng(0)
  shape = (num_rays, num_samples)
  density = rng.exponential(size=shape)
  delta = rng.uniform(0.1, 1, shape)
  rgb = rng.uniform(size=shape + (3,))
  distance = np.cumsum(delta, axis=-1)
  return [np.float32(a) for a in (density, delta, rgb, distance)]


def _oracle(density, delta, min_transmittance=0.0):
  """Weights and remaining transmittance of one ray, float64."""
  transmittance, weights = 1.0, []
  for sigma, length in zip(density.astype(float), delta.astype(float)):
    alpha = -np.expm1(-sigma * length)
    seen = transmittance > min_transmittance
    weights.append(alpha * transmittance * seen)
    transmittance *= 1 - alpha
  return np.array(weights)


def _check_ray(got, weights, rgb, distance):
  np.testing.assert_allclose(got[0], weights, rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(got[1], weights @ rgb, atol=1e-6)
  np.testing.assert_allclose(got[2], weights.sum(), atol=1e-6)
  np.testing.assert_allclose(got[3], weights @ distance, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 9, 70])
@pytest.mark.parametrize("implementation", [None] + BACKENDS)
def test_equals_numpy(implementation, num_samples):
  density, delta, rgb, distance = _arguments(5, num_samples)
  got = composite.composite(
      density, delta, rgb, distance, implementation=implementation
  )
  for r in range(5):
    weights = _oracle(density[r], delta[r])
    _check_ray([x[r] for x in got], weights, rgb[r], distance[r])


@pytest.mark.parametrize("implementation", BACKENDS)
def test_constant_density_has_a_closed_form(implementation):
  """Uniform medium: opacity and mean distance are integrals of exp."""
  num_samples, sigma, length = 256, 0.7, 5.0
  delta = np.full((1, num_samples), length / num_samples, np.float32)
  middle = (np.cumsum(delta, -1) - delta / 2).astype(np.float32)
  rgb = np.broadcast_to(np.float32([0.2, 0.5, 1.0]), delta.shape + (3,))
  got = composite.composite(
      np.full_like(delta, sigma),
      delta,
      rgb,
      middle,
      implementation=implementation,
  )
  opacity = 1 - np.exp(-sigma * length)
  np.testing.assert_allclose(got.opacity[0], opacity, rtol=1e-5)
  np.testing.assert_allclose(got.rgb[0], opacity * rgb[0, 0], rtol=1e-5)
  mean = (1 - np.exp(-sigma * length) * (1 + sigma * length)) / sigma
  np.testing.assert_allclose(got.distance[0], mean, rtol=1e-4)
  # What a thin sample weighs does not cancel.
  thin = composite.composite(
      np.full_like(delta, 1e-6),
      delta,
      rgb,
      middle,
      implementation=implementation,
  )
  np.testing.assert_allclose(thin.weights[0, 0], 1e-6 * delta[0, 0], rtol=1e-5)


def _ragged(counts, gap=3):
  """Arrays [S] of rays with these numbers of samples, and `gap` of no ray."""
  counts = np.asarray(counts)
  offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
  arrays = _arguments(1, int(offsets[-1]) + gap)
  return [a[0] for a in arrays], offsets


@pytest.mark.parametrize("implementation", [None] + BACKENDS)
def test_ragged_equals_numpy(implementation):
  (density, delta, rgb, distance), offsets = _ragged([3, 0, 70, 1, 0, 12])
  density[-3:] = np.nan  # what belongs to no ray is not read
  got = composite.composite_ragged(
      density, delta, rgb, distance, offsets, implementation=implementation
  )
  assert np.all(np.asarray(got.weights)[offsets[-1] :] == 0)
  for r in range(6):
    mine = slice(offsets[r], offsets[r + 1])
    weights = _oracle(density[mine], delta[mine])
    pixel = (got.weights[mine], got.rgb[r], got.opacity[r], got.distance[r])
    _check_ray(pixel, weights, rgb[mine], distance[mine])


@pytest.mark.parametrize("implementation", BACKENDS)
def test_early_stop_cuts_what_hardly_shows(implementation):
  density, delta, rgb, distance = _arguments(6, 70)
  density[0] = 0
  density[1, 2] = 1e30
  kwargs = dict(min_transmittance=0.05, implementation=implementation)
  got = composite.composite(density, delta, rgb, distance, **kwargs)
  for r in range(6):
    weights = _oracle(density[r], delta[r], 0.05)
    _check_ray([x[r] for x in got], weights, rgb[r], distance[r])
  assert np.all(np.asarray(got.weights)[2:, 60:] == 0)


@functools.cache
def _gradients(op, implementation, min_transmittance):
  def loss(args, offsets, seeds):
    more = () if op == "composite" else (offsets,)
    out = getattr(composite, op)(
        *args,
        *more,
        min_transmittance=min_transmittance,
        implementation=implementation,
    )
    return sum(jnp.sum(a * b) for a, b in zip(out, seeds))

  return jax.jit(jax.value_and_grad(loss))


def _check_gradients(op, implementation, args, offsets, min_transmittance=0.0):
  rng = np.random.default_rng(1)
  rays = len(offsets) - 1 if op == "composite_ragged" else args[0].shape[0]
  shapes = (args[0].shape, (rays, 3), (rays,), (rays,))
  seeds = [rng.normal(size=s).astype(np.float32) for s in shapes]
  run = lambda name: _gradients(op, name, min_transmittance)(
      tuple(args), offsets, seeds
  )
  (got, got_grad), (want, want_grad) = run(implementation), run("reference")
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for a, b in zip(got_grad, want_grad):
    scale = 1 + np.abs(b).max()
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.parametrize("implementation", BACKENDS[1:])
@pytest.mark.parametrize(
    "op,min_transmittance",
    [("composite", 0.0), ("composite", 0.05), ("composite_ragged", 0.05)],
)
def test_gradients_equal_the_reference(implementation, op, min_transmittance):
  args, offsets = _arguments(5, 70), []
  if op == "composite_ragged":
    args, offsets = _ragged([3, 0, 70, 1])
  _check_gradients(op, implementation, args, offsets, min_transmittance)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_reference_gradient_is_a_difference_quotient(implementation):
  density, delta, rgb, distance = _arguments(1, 5)

  def total(density):
    out = composite.composite(
        density, delta, rgb, distance, implementation=implementation
    )
    return out.rgb.sum() + out.distance.sum()

  grad = jax.grad(total)(jnp.asarray(density))
  up, down = density.copy(), density.copy()
  up[0, 2] += 1e-2
  down[0, 2] -= 1e-2
  slope = (total(up) - total(down)) / 2e-2
  np.testing.assert_allclose(grad[0, 2], slope, rtol=1e-2)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_opaque_samples_give_finite_gradients(implementation):
  density, delta, rgb, distance = _arguments()
  density[:, 3] = 1e30

  def loss(density):
    out = composite.composite(
        density, delta, rgb, distance, implementation=implementation
    )
    return jnp.sum(out.rgb) + jnp.sum(out.distance)

  grad = jax.grad(loss)(jnp.asarray(density))
  assert np.all(np.isfinite(grad))
  assert np.all(grad[:, 4:] == 0)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_vmap_equals_one_by_one(implementation):
  args = [np.stack([a, a[::-1]]) for a in _arguments(4, 9)]
  args[1] = args[1][0]  # one for the whole batch
  run = functools.partial(composite.composite, implementation=implementation)

  def total(*args):
    return jnp.sum(jnp.sin(run(*args).rgb)) + jnp.sum(run(*args).weights ** 2)

  grad = jax.value_and_grad(total)
  both = jax.jit(jax.vmap(grad, in_axes=(0, None, 0, 0)))(*args)
  grad = jax.jit(grad)
  for i in range(2):
    one = grad(args[0][i], args[1], *(a[i] for a in args[2:]))
    for a, b in zip(both, one):
      np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_vmap_of_ragged(implementation):
  first, offsets = _ragged([3, 0, 5])
  second, others = _ragged([1, 7, 0])
  args = [np.stack(pair) for pair in zip(first + [offsets], second + [others])]
  run = functools.partial(
      composite.composite_ragged, implementation=implementation
  )
  both = jax.jit(jax.vmap(run))(*args)
  run = jax.jit(run)
  for i in range(2):
    for a, b in zip(both, run(*(a[i] for a in args))):
      np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("implementation", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 2, 3), (4,)])
def test_sizes(implementation, shape):
  arrays = [np.ones(shape, np.float32)] * 2
  arrays += [np.ones(shape + (3,), np.float32), np.ones(shape, np.float32)]
  got = composite.composite(*arrays, implementation=implementation)
  assert got.weights.shape == shape and got.rgb.shape == shape[:-1] + (3,)
  want = 1 - np.exp(-float(shape[-1]))
  np.testing.assert_allclose(got.opacity, want, rtol=1e-6)
  flat = [a.reshape((-1,) + a.shape[len(shape) :]) for a in arrays]
  offsets = np.arange(3, dtype=np.int32) * (flat[0].shape[0] // 2)
  got = composite.composite_ragged(
      *flat, offsets, implementation=implementation
  )
  assert got.rgb.shape == (2, 3)


def test_native_is_refused():
  with pytest.raises(NotImplementedError):
    composite.composite(*_arguments(), implementation="native")
  density, delta, rgb, distance = _arguments()
  with pytest.raises(ValueError, match="rgb"):
    composite.composite(density, delta, rgb[:2], distance)
  with pytest.raises(ValueError, match="ray_offsets"):
    composite.composite_ragged(density, delta, rgb, distance, np.zeros(3))
