"""Node field: every backend's values and gradients against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import node_field
from kernels.hash_lookup import reference as hash_reference
from kernels.node_field import native
from tests.kernels import common
from tests.kernels.common import two_threads  # noqa: F401

SPEC = common.FIELD


def _arguments(num_samples, num_slots=3):
  return native.example(SPEC, num_samples, num_slots)


def _probe(slot):
  return jnp.zeros((2, slot.shape[0], 2), jnp.float32)


def _field(implementation, params, *args, probe=None):
  return node_field.node_field(
      params, *args, spec=SPEC, probe=probe, implementation=implementation
  )


@functools.cache
def _jitted(implementation):
  """Without a probe; XLA compiles one by one what is not jitted."""
  return jax.jit(functools.partial(_field, implementation))


@functools.cache
def _gradients(implementation):
  """Jitted gradients in MLP weights, ray inputs, probe and position."""

  def loss(weights, rays, probe, position, table, slot, ray_idx, seed):
    params = {"table": table, **weights}
    raw, rgb = _field(
        implementation, params, position, slot, ray_idx, rays, probe=probe
    )
    return jnp.sum(raw * seed[:, 0]) + jnp.sum(rgb * seed[:, 1:])

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def _run_gradients(implementation, args, seed):
  params, position, slot, ray_idx, rays = args
  weights = {k: params[k] for k in ("density", "color")}
  return _gradients(implementation)(
      weights,
      rays,
      _probe(slot),
      position,
      params["table"],
      slot,
      ray_idx,
      seed,
  )


def _seed(num_samples, zero_every=0):
  seed = np.random.default_rng(5).normal(size=(num_samples, 4))
  if zero_every:
    seed[::zero_every] = 0
  return jnp.asarray(seed, jnp.float32)


def _assert_close(got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert a.shape == b.shape
    scale = 1.0 + float(jnp.max(jnp.abs(b), initial=0.0))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * scale)


def _oracle(params, position, slot, ray_idx, rays):
  """NumPy, float64, one sample at a time."""
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  raws, rgbs = [], []
  for s in range(slot.shape[0]):
    n = int(slot[s])
    if not 0 <= n < params["table"].shape[0]:
      raws.append(0.0), rgbs.append(np.zeros(3))
      continue
    w = jax.tree.map(lambda a, n=n: np.asarray(a[n], np.float64), params)
    x = []
    for scale in range(SPEC.grid.num_grid_scales):
      rows = common.oracle_rows(SPEC.grid, np.asarray(position[s]), n, scale)
      x.append(sum(weight * w["table"][row] for row, weight in rows))
    hidden = np.maximum(np.concatenate(x) @ w["density"]["w0"], 0)
    out = hidden @ w["density"]["w1"]
    ray = np.asarray(rays[int(ray_idx[s])], np.float64)
    x = np.concatenate([sigmoid(out[1:]), ray])
    x = np.maximum(x @ w["color"]["w0"], 0)
    x = np.maximum(x @ w["color"]["w1"], 0)
    raws.append(out[0]), rgbs.append(sigmoid(x @ w["color"]["w2"]))
  return np.array(raws), np.array(rgbs)


@functools.cache
def _oracle_of(num_samples):
  return _oracle(*_arguments(num_samples))


@pytest.mark.parametrize("implementation", common.ONCE)
def test_value_equals_numpy(implementation):
  args = _arguments(61)
  raw, rgb = _jitted(implementation)(*args)
  want_raw, want_rgb = _oracle_of(61)
  np.testing.assert_allclose(raw, want_raw, atol=5e-5)
  np.testing.assert_allclose(rgb, want_rgb, atol=5e-5)
  density = node_field.node_density(
      *args[:3], spec=SPEC, implementation=implementation
  )
  np.testing.assert_allclose(density, want_raw, atol=5e-5)


@pytest.mark.parametrize("implementation", common.ONCE)
def test_two_passes_equal_one(implementation):
  params, position, slot, ray_idx, rays = _arguments(61)
  fixed = dict(spec=SPEC, implementation=implementation)
  raw, geometry = node_field.node_geometry(params, position, slot, **fixed)
  want_raw, want_rgb = _oracle_of(61)
  np.testing.assert_allclose(raw, want_raw, atol=5e-5)
  some = np.where(np.arange(61) % 3 == 0, slot, -1).astype(np.int32)
  rgb = node_field.node_color(
      params, geometry, position, some, ray_idx, rays, **fixed
  )
  want = np.where((some >= 0)[:, None], want_rgb, 0.0)
  np.testing.assert_allclose(rgb, want, atol=5e-5)


@pytest.mark.parametrize(
    "implementation,num_samples",
    [("native", n) for n in (0, 1, 49, 4500)] + [("xla", 0), ("xla", 4500)],
)
def test_gradients_equal_the_reference(implementation, num_samples):
  args = _arguments(num_samples)
  seed = _seed(num_samples, zero_every=3)
  got = _run_gradients(implementation, args, seed)
  _assert_close(got, _run_gradients("reference", args, seed))


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_density_gradients(implementation):
  params, position, slot, *_ = _arguments(200)
  seed = _seed(200)[:, 0]

  def grads(name):
    def loss(weights, probe):
      full = {"table": params["table"], "density": weights}
      raw = node_field.node_density(
          full, position, slot, spec=SPEC, probe=probe, implementation=name
      )
      return jnp.sum(raw * seed), raw

    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return run(params["density"], _probe(slot))

  _assert_close(grads(implementation), grads("reference"))


@pytest.mark.parametrize("implementation", common.ONCE[1:])
def test_scattered_probe_gradient_is_the_table_gradient(implementation):
  args, seed = _arguments(150), _seed(150)
  want, scatter = _table_gradient()
  _, (_, _, probe, _) = _run_gradients(implementation, args, seed)
  _assert_close(scatter(probe), want)


@functools.cache
def _table_gradient():
  """The table's gradient by the reference, and one from the features'."""
  params, position, slot, ray_idx, rays = _arguments(150)
  seed = _seed(150)

  def loss(table):
    out = _field(
        "reference", {**params, "table": table}, position, slot, ray_idx, rays
    )
    return jnp.sum(out[0] * seed[:, 0]) + jnp.sum(out[1] * seed[:, 1:])

  def scatter(probe):
    lookup = lambda t: hash_reference.hash_lookup(
        t, position, slot, spec=SPEC.grid
    )
    return jax.vjp(lookup, params["table"])[1](probe)[0]

  return jax.jit(jax.grad(loss))(params["table"]), jax.jit(scatter)


@pytest.mark.parametrize("implementation", common.ONCE[1:])
def test_untouched_slots_and_skipped_samples_have_zero_gradient(
    implementation,
):
  params, position, slot, ray_idx, rays = _arguments(150)
  slot = jnp.where(slot == 2, -1, slot)
  args = (params, position, slot, ray_idx, rays)
  _, (weights, _, probe, at) = _run_gradients(implementation, args, _seed(150))
  for leaf in jax.tree.leaves(weights):
    assert np.all(leaf[2] == 0)
    assert np.any(leaf[1] != 0)
  skipped = np.asarray((slot < 0) | (slot > 2))
  assert skipped.any()
  assert np.all(np.asarray(probe)[:, skipped] == 0)
  assert np.all(np.asarray(at)[skipped] == 0)
  raw, rgb = _jitted(implementation)(*args)
  assert np.all(raw[skipped] == 0) and np.all(rgb[skipped] == 0)


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_table_gradient_is_refused(implementation):
  args = _arguments(10)
  with pytest.raises(TypeError, match="probe"):
    jax.grad(lambda p: jnp.sum(_field(implementation, p, *args[1:])[0]))(
        args[0]
    )


@pytest.mark.parametrize("implementation", common.ALL)
def test_ray_outside_the_inputs_reads_zeros(implementation):
  params, position, slot, ray_idx, rays = _arguments(20)
  bad = ray_idx.at[4].set(-1).at[9].set(rays.shape[0])
  got = _jitted(implementation)(params, position, slot, bad, rays)[1]
  padded = jnp.concatenate([rays, jnp.zeros_like(rays[:1])])
  good = ray_idx.at[4].set(rays.shape[0]).at[9].set(rays.shape[0])
  want = _jitted("reference")(params, position, slot, good, padded)[1]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_bits_do_not_depend_on_threads(two_threads):  # noqa: F811
  args = _arguments(9000, num_slots=5)
  seed = _seed(9000)
  one, two = two_threads(
      lambda: jax.tree.leaves(_run_gradients("native", args, seed))
  )
  for a, b in zip(one, two):
    np.testing.assert_array_equal(a, b)


def test_native_refuses_what_it_cannot():
  params, *rest = _arguments(10)
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
  with pytest.raises(NotImplementedError, match="float32"):
    _field("native", half, *rest)
  with pytest.raises(ValueError, match="ray_inputs"):
    _field("native", params, *rest[:3], rest[3][:, 1:])
