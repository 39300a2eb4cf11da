"""Samples in blocks of one slot, and half precision on tensor cores."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import node_field
from kernels.node_field import blocks, native
from tests.kernels import common

TRITON = [b for b in common.ALL if b == "triton"]


@functools.cache
def _planning(num_slots):
  return (
      jax.jit(lambda slot: blocks.make_plan(slot, num_slots, 64)),
      jax.jit(lambda order, edges: blocks.cut(order, edges, 64)),
  )


@pytest.mark.parametrize(
    "num_samples,num_slots",
    [(0, 5), (1, 700), (64, 1), (501, 5), (501, 700), (300, 70000)],
)
def test_every_sample_is_in_one_block_of_its_slot(num_samples, num_slots):
  rng = np.random.default_rng(0)
  slot = rng.integers(-2, num_slots + 2, num_samples).astype(np.int32)
  slot[: num_samples // 3] //= 100  # several blocks of some
  make_plan, cut = _planning(num_slots)
  plan = jax.tree.map(np.asarray, make_plan(jnp.asarray(slot)))
  number = blocks.num_blocks(num_samples, num_slots, 64)
  assert plan.slot.shape == (number,)
  seen = []
  for at, first, count in zip(plan.slot, plan.first, plan.count):
    assert 0 <= count <= 64
    mine = plan.order[first : first + count]
    assert np.all(np.diff(mine) > 0)  # in the samples' order
    valid = (slot[mine] >= 0) & (slot[mine] < num_slots)
    assert np.all(np.where(valid, slot[mine], -1) == at)
    seen.extend(mine)
  assert sorted(seen) == list(range(num_samples))
  for n in range(min(num_slots, 1000)):
    held = plan.count[plan.slot_starts[n] : plan.slot_ends[n]].sum()
    assert held == np.sum(slot == n)
  again = cut(jnp.asarray(plan.order), jnp.asarray(plan.edges))
  for a, b in zip(again, plan):
    np.testing.assert_array_equal(a, b)


def test_unknown_types_are_refused():
  with pytest.raises(ValueError, match="compute_dtype"):
    dataclasses.replace(common.FIELD, compute_dtype="int8")


def _spec(compute_dtype):
  # No width is a power of two; two chunks of the features, across a scale.
  return dataclasses.replace(
      common.FIELD,
      grid=dataclasses.replace(common.TINY, num_features=9),
      hidden_width=24,
      num_geometry=5,
      ray_input_dim=19,
      compute_dtype=compute_dtype,
  )


@pytest.mark.parametrize("implementation", TRITON)
def test_half_precision_is_close(implementation):
  """Values and gradients against the reference in float32."""
  spec = _spec("float16")
  params, position, slot, ray_idx, rays = native.example(spec, 150)
  seed = np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)

  def run(name):
    def loss(weights, rays):
      raw, rgb = node_field.node_field(
          {"table": params["table"], **weights},
          position,
          slot,
          ray_idx,
          rays,
          spec=spec,
          implementation=name,
      )
      return jnp.sum(raw * seed[:, 0]) + jnp.sum(rgb * seed[:, 1:]), (raw, rgb)

    weights = {k: params[k] for k in ("density", "color")}
    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(grad)(weights, rays)

  got, want = run(implementation), run("reference")
  exact = True
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    scale = float(jnp.max(jnp.abs(b))) + 1e-6
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-2 * scale)
    exact &= bool(jnp.allclose(a, b, rtol=1e-6, atol=0))
  assert not exact  # half precision it was


@pytest.mark.parametrize("implementation", TRITON)
def test_exact_products_part_by_part(implementation):
  """Widths of two parts, the second not full; values as exact as float32."""
  spec = dataclasses.replace(
      _spec("float32"), hidden_width=40, ray_input_dim=37
  )
  params, *samples = native.example(spec, 70)
  got, want = (
      node_field.node_field(params, *samples, spec=spec, implementation=name)
      for name in (implementation, "reference")
  )
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@functools.cache
def _whole_field(spec, implementation):
  run = functools.partial(
      node_field.node_field, spec=spec, implementation=implementation
  )
  return jax.jit(run)


@pytest.mark.parametrize("implementation", TRITON)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_lookup_in_the_kernel_equals_the_reference(implementation, dtype):
  """Without a gradient features never leave the chip; hashed by any number."""
  grid = dataclasses.replace(common.RAGGED, num_grid_scales=9)
  spec = dataclasses.replace(_spec("float32"), grid=grid)
  params, position, slot, ray_idx, rays = native.example(spec, 100)
  params["table"] = params["table"].astype(dtype)
  args = (params, position, slot, ray_idx, rays)
  # The reference computes in float32, and is compiled once.
  exact = {**params, "table": params["table"].astype(jnp.float32)}
  want = _whole_field(spec, "reference")(exact, *args[1:])
  for a, b in zip(_whole_field(spec, implementation)(*args), want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  density = node_field.node_density(
      *args[:3], spec=spec, implementation=implementation
  )
  np.testing.assert_allclose(density, want[0], atol=1e-4)


@pytest.mark.parametrize("implementation", TRITON)
def test_gradients_have_the_same_bits_every_time(implementation):
  spec = _spec("float32")
  params, position, slot, ray_idx, rays = native.example(spec, 150)
  ray_idx = jnp.asarray(np.random.default_rng(2).permutation(ray_idx))

  @jax.jit
  def grads():
    def loss(weights, rays):
      out = node_field.node_field(
          {"table": params["table"], **weights},
          position,
          slot,
          ray_idx,
          rays,
          spec=spec,
          implementation=implementation,
      )
      return jnp.sum(out[0]) + jnp.sum(out[1] ** 2)

    weights = {k: params[k] for k in ("density", "color")}
    return jax.grad(loss, argnums=(0, 1))(weights, rays)

  for a, b in zip(*(jax.tree.leaves(grads()) for _ in range(2))):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("implementation", TRITON)
@pytest.mark.parametrize("ordered", [False, True])
def test_sums_of_rows(implementation, ordered):
  """Groups of no rows, of some and of more than are read at once."""
  from kernels.node_field import triton_mlp

  del implementation
  rng = np.random.default_rng(3)
  values = rng.normal(size=(400, 131)).astype(np.float32)
  order = rng.permutation(400).astype(np.int32)
  edges = np.array([0, 0, 3, 150, 150, 399], np.int32)
  got = triton_mlp.sum_rows(
      jnp.asarray(values),
      jnp.asarray(order[: 400 if ordered else 0]),
      jnp.asarray(edges[:-1]),
      jnp.asarray(edges[1:]),
  )
  rows = values[order] if ordered else values
  want = [rows[a:b].sum(0) for a, b in zip(edges[:-1], edges[1:])]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", TRITON)
def test_what_it_cannot_is_refused(implementation):
  spec = dataclasses.replace(common.FIELD, hidden_width=256)
  args = native.example(spec, 10)
  with pytest.raises(NotImplementedError, match="128"):
    node_field.node_field(*args, spec=spec, implementation=implementation)
  params, *rest = native.example(common.FIELD, 10)
  params["density"]["w0"] = params["density"]["w0"].astype(jnp.float16)
  with pytest.raises(NotImplementedError, match="float32"):
    node_field.node_field(
        params, *rest, spec=common.FIELD, implementation=implementation
    )
