"""The shared suite for every op."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import (
    composite,
    hash_lookup,
    locate,
    node_field,
    sparse_adam,
    traverse,
)
from kernels.locate import native as locate_native
from kernels.traverse import occupancy
from tests.kernels import common, suite

NUM_SLOTS = 3
_EXTREMES = np.array([-(2**31), 2**31 - 1, NUM_SLOTS, -1], np.int32)


def _samples(spec, num_samples, seed):
  table, position, slot = common.samples(spec, num_samples, NUM_SLOTS, seed)
  slot[::7] = np.resize(_EXTREMES, slot[::7].shape)
  return jnp.asarray(table), jnp.asarray(position), jnp.asarray(slot)


class TestHashLookup(suite.OpSuite):
  sample_axes = (None, 0, 0)
  node_arguments = (0,)
  out_axes = (1,)
  grad_arguments = (1,)
  rtol, atol = 1e-4, 1e-4

  def arguments(self, num_samples, seed):
    return _samples(common.TINY, num_samples, seed)

  def run(self, implementation, table, position, slot):
    out = hash_lookup.hash_lookup(
        table, position, slot, spec=common.TINY, implementation=implementation
    )
    return (out,)


class TestComposite(suite.OpSuite):
  backends = tuple(b for b in common.BACKENDS if b != "native")
  sizes = (0, 1, 6, 40)
  sample_axes = (0, 0, 0, 0)
  out_axes = (0, 0, 0, 0)
  grad_arguments = (0, 1, 2, 3)

  def arguments(self, num_samples, seed):
    rng = np.random.default_rng(seed)
    shape = (num_samples, 33)
    parts = (
        rng.exponential(size=shape),
        rng.uniform(0.1, 1, shape),
        rng.uniform(size=shape + (3,)),
        np.cumsum(rng.uniform(size=shape), axis=-1),
    )
    return tuple(jnp.asarray(p, jnp.float32) for p in parts)

  def run(self, implementation, *arguments):
    out = composite.composite(*arguments, implementation=implementation)
    return tuple(out[:4])


class TestLocate(suite.OpSuite):
  sizes = (0, 1, 6, 40)
  sample_axes = (0, 0, 0, 0, 0, None, None)
  out_axes = (0, 0, 0, 0)
  rtol, atol = 0, 1e-4

  def arguments(self, num_samples, seed):
    arrays = locate_native.example()
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, arrays[0].shape[0], num_samples)
    return tuple(a[pick] for a in arrays[:5]) + arrays[5:]

  def run(self, implementation, *arguments):
    rule = dict(root_side=17.0, max_level=3)
    return tuple(
        locate.locate(*arguments, **rule, implementation=implementation)
    )

  def close(self, got, want):
    """A sample on a face may fall to either side of it."""
    assert got[0].shape == want[0].shape
    same = np.asarray(got[0]) == np.asarray(want[0])
    assert same.size == 0 or same.mean() > 0.98
    pick = lambda arrays: [np.asarray(a)[same] for a in arrays]
    super().close(pick(got), pick(want))


class TestTraverse(suite.OpSuite):
  """A ray's samples in a row: the packed ones by their offsets."""

  backends = tuple(b for b in common.BACKENDS if b != "native")
  sizes = (0, 1, 6, 12)
  sample_axes = (0,) * 8 + (None, None, None)
  out_axes = (0,) * 6
  node_arguments = (8, 9, 10)
  rtol, atol = 1e-5, 1e-4
  # In the interpreter a step of all rays takes a twentieth of a second.
  rule = dict(
      root_side=17.0, min_step=0.5, step_slope=0.1, max_steps=24,
      max_samples_per_ray=9,
  )  # fmt: skip

  def arguments(self, num_samples, seed):
    origins, low, directions, *_, children, slots = locate_native.example()
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, origins.shape[0], num_samples)
    column = lambda low, high: jnp.asarray(
        rng.uniform(low, high, (num_samples, 1)), jnp.float32
    )
    full = rng.uniform(size=(children.shape[0], 4, 4, 4)) < 0.4
    # A slot beyond the pool is the caller's own; -1 is not resident.
    slots = jnp.where(jnp.arange(slots.shape[0]) == 5, 2**31 - 1, slots)
    far = column(-3, 20)  # some end before they begin
    rays = (origins[pick], low[pick], directions[pick], column(0.05, 2), far)
    rays += (column(0, 0.05), column(0.01, 0.1), column(0, 1))
    return (*rays, children, slots, occupancy.pack_occupancy(full))

  def run(self, implementation, *arguments):
    *rays, phase, children, slots, words = arguments
    most = self.rule["max_samples_per_ray"]
    footprints = jnp.asarray([0.8, 0.4, 0.2], jnp.float32)
    out = traverse.traverse(
        *rays, footprints, children, slots, words, phase,
        **self.rule, capacity=phase.shape[0] * most + 1,
        implementation=implementation,
    )  # fmt: skip
    place = out.ray_offsets[:-1, None] + jnp.arange(most)
    real = place < out.ray_offsets[1:, None]

    def rows(x, fill):
      keep = real[..., None] if x.ndim == 2 else real
      return jnp.where(keep, x[jnp.where(real, place, 0)], fill)

    names = ("node_id", "slot", "t", "delta", "position")
    values = [rows(getattr(out, n), -1) for n in names]
    return (*values, out.reached)

  def close(self, got, want):
    """An interval whose middle lies on a face may fall to either side."""
    nodes = [np.asarray(x[0]) for x in (got, want)]
    assert nodes[0].shape == nodes[1].shape
    same = np.all(nodes[0] == nodes[1], axis=-1)
    assert same.size == 0 or same.mean() > 0.8
    pick = lambda arrays: [np.asarray(a)[same] for a in arrays]
    super().close(pick(got), pick(want))


class TestSparseAdam(suite.OpSuite):
  """Outputs are the nodes' own; a device has its own nodes."""

  sizes = (0, 1, 65, 3000)
  sample_axes = (None, None, None, 0, 0, 1)
  node_arguments = (0, 1, 2)
  out_axes = (None, None, None)

  def arguments(self, num_samples, seed):
    spec = common.TINY
    table, position, slot = _samples(spec, num_samples, seed)
    rng = np.random.default_rng(seed)
    shape = table.shape[:2] + (2 * spec.num_features,)
    moments = jnp.asarray(rng.uniform(0, 0.1, shape), jnp.float32)
    steps = rng.integers(0, 9, shape[:2])
    steps[1] = 5000  # where the bias correction has become 1
    grad = rng.normal(
        size=(spec.num_grid_scales, num_samples, spec.num_features)
    )
    grad[:, ::4] = 0  # addressed all the same
    return (
        table, moments, jnp.asarray(steps, jnp.int32), position, slot,
        jnp.asarray(grad, jnp.float32),
    )  # fmt: skip

  def without(self, size, arguments):
    *state, position, slot, grad = arguments
    slot = jnp.where(jnp.arange(slot.shape[0]) < size, slot, -1)
    return (*state, position, slot, grad)

  def run(self, implementation, table, moments, steps, *call):
    return sparse_adam.sparse_adam(
        table, moments, steps, [call], spec=common.TINY, learning_rate=0.01,
        implementation=implementation,
    )  # fmt: skip

  def close(self, got, want):
    """A sum that cancels to nearly zero takes a step of either sign."""
    np.testing.assert_array_equal(got[2], want[2])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-4)
    error = np.abs(np.asarray(got[0]) - np.asarray(want[0]))
    assert error.max() < 0.05
    assert np.mean(error > 1e-4) < 1e-3

  def test_shard_map(self, implementation):
    """Every device updates its own pool from its own samples."""
    if implementation not in suite.KERNELS:
      pytest.skip("its transformations are JAX's own")
    count = jax.device_count()
    cases = [self.case(65, seed % 2) for seed in range(count)]
    stacked = [jnp.stack(x) for x in zip(*(a[1:] for a, _ in cases))]
    want = [np.stack(x) for x in zip(*(w for _, w in cases))]
    auto = jax.sharding.AxisType.Auto
    own = jax.sharding.PartitionSpec(suite.AXIS)

    def run(*arguments):
      out = self.run(implementation, *(a[0] for a in arguments))
      return tuple(a[None] for a in out)

    run = jax.shard_map(
        run,
        mesh=jax.make_mesh((count,), (suite.AXIS,), axis_types=(auto,)),
        in_specs=own,
        out_specs=own,
        check_vma=False,
    )
    self.close(jax.jit(run)(*stacked), want)

  @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
  def test_half_precision_state_is_refused(self, implementation, dtype):
    """Steps of a thousandth vanish in it: kernels take float32 alone."""
    if implementation not in suite.KERNELS:
      pytest.skip("plain JAX takes any type")
    table, *rest = self.arguments(3, 0)
    with pytest.raises(NotImplementedError, match=f"needs float32.*{dtype}"):
      self.run(implementation, table.astype(dtype), *rest)


class TestNodeField(suite.OpSuite):
  """Gradients of weights, positions, ray inputs and features."""

  sizes = (0, 1, 65, 150)
  sample_axes = (None,) * 6 + (0, 0, 0, None, 1)
  node_arguments = (0, 1, 2, 3, 4, 5)
  out_axes = (0, 0)
  grad_arguments = (1, 2, 3, 4, 5, 6, 9, 10)
  rtol, atol = 1e-3, 1e-4

  def arguments(self, num_samples, seed):
    spec = common.FIELD
    rng = np.random.default_rng(seed)
    table, position, slot = _samples(spec.grid, num_samples, seed)
    shapes = spec.weight_shapes(NUM_SLOTS)
    weights = [
        rng.normal(size=shapes[group][name]) / 3
        for group, names in (("density", "w0 w1"), ("color", "w0 w1 w2"))
        for name in names.split()
    ]
    rays = rng.normal(size=(9, spec.ray_input_dim))
    ray_idx = jnp.asarray(rng.integers(0, 9, num_samples), jnp.int32)
    probe = jnp.zeros(
        (spec.grid.num_grid_scales, num_samples, spec.grid.num_features)
    )
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    rays = jnp.asarray(rays, jnp.float32)
    return (table, *weights, position, slot, ray_idx, rays, probe)

  def run(self, implementation, table, d0, d1, c0, c1, c2, *rest):
    *rest, probe = rest
    params = {
        "table": table,
        "density": {"w0": d0, "w1": d1},
        "color": {"w0": c0, "w1": c1, "w2": c2},
    }
    return node_field.node_field(
        params,
        *rest,
        spec=common.FIELD,
        probe=probe,
        implementation=implementation,
    )
