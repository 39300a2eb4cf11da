"""Hash lookup: every backend against a NumPy oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import hash_lookup
from kernels.hash_lookup import specs
from tests.kernels import common
from tests.kernels.common import two_threads  # noqa: F401


def _lookup(args, spec, implementation):
  run = jax.jit(
      lambda *a: hash_lookup.hash_lookup(
          *a, spec=spec, implementation=implementation
      )
  )
  return np.asarray(run(*args))


@pytest.mark.parametrize("spec", [common.TINY, common.RAGGED])
@pytest.mark.parametrize("implementation", common.ALL)
def test_value_equals_numpy(spec, implementation):
  table, position, slot = common.samples(spec, 77, 3)
  position[:3] = [[0, 0, 0], [1, 1, 1], [0.5, 1, 0]]
  got = _lookup((table, position, slot), spec, implementation)
  want = np.zeros_like(got)
  for s in range(77):
    for scale in range(spec.num_grid_scales):
      if 0 <= slot[s] < 3:
        for row, w in common.oracle_rows(spec, position[s], slot[s], scale):
          want[scale, s] += w * table[slot[s], row]
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(
    "implementation,num_samples",
    [("native", n) for n in (0, 1, 63, 64, 65, 5000)] + [("xla", 0)],
)
def test_sizes(implementation, num_samples):
  args = common.samples(common.TINY, num_samples, 4, seed=1)
  got = _lookup(args, common.TINY, implementation)
  want = _lookup(args, common.TINY, "reference")
  assert got.shape == (2, num_samples, 2)
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_one_feature_and_one_scale(implementation):
  spec = specs.GridSpec(1, 64, 1, 5, 5)
  args = common.samples(spec, 50, 2)
  got = _lookup(args, spec, implementation)
  np.testing.assert_allclose(got, _lookup(args, spec, "reference"), atol=2e-5)


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_position_gradient(implementation):
  table, position, slot = common.samples(common.TINY, 90, 3)
  seed = np.random.default_rng(2).normal(size=(2, 90, 2)).astype(np.float32)

  def grad(name):
    def loss(p):
      out = hash_lookup.hash_lookup(
          table, p, slot, spec=common.TINY, implementation=name
      )
      return jnp.sum(out * seed)

    return np.asarray(jax.jit(jax.grad(loss))(position))

  want = grad("reference")
  np.testing.assert_allclose(grad(implementation), want, rtol=1e-4, atol=2e-3)
  assert np.all(want[(slot < 0) | (slot > 2)] == 0)


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_table_gradient_is_refused(implementation):
  table, position, slot = common.samples(common.TINY, 9, 3)

  def loss(t):
    return jnp.sum(
        hash_lookup.hash_lookup(
            t, position, slot, spec=common.TINY, implementation=implementation
        )
    )

  with pytest.raises(TypeError, match="probe"):
    jax.grad(loss)(jnp.asarray(table))


def test_vmap_equals_loop():
  table, position, slot = common.samples(common.TINY, 40, 3)
  position, slot = position.reshape(4, 10, 3), slot.reshape(4, 10)
  run = lambda p, s: hash_lookup.hash_lookup(
      table, p, s, spec=common.TINY, implementation="native"
  )
  got = jax.vmap(run)(position, slot)
  want = np.stack(
      [run(jnp.asarray(p), jnp.asarray(s)) for p, s in zip(position, slot)]
  )
  np.testing.assert_array_equal(got, want)


def test_bits_do_not_depend_on_threads(two_threads):  # noqa: F811
  args = common.samples(common.TINY, 9000, 5)
  one, two = two_threads(lambda: [_lookup(args, common.TINY, "native")])
  np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    "implementation", [b for b in common.BACKENDS if b != "native"]
)
def test_half_precision_tables(implementation, dtype):
  table, position, slot = common.samples(common.TINY, 40, 3)
  half = jnp.asarray(table, dtype)
  full = half.astype(jnp.float32)
  want = _lookup((full, position, slot), common.TINY, "reference")
  got = _lookup((half, position, slot), common.TINY, implementation)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_native_refuses_half_precision():
  table, *rest = common.samples(common.TINY, 4, 3)
  with pytest.raises(NotImplementedError, match="float32"):
    _lookup((jnp.asarray(table, jnp.float16), *rest), common.TINY, "native")


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_positions_that_are_no_numbers_stay_in_bounds(implementation):
  table, position, slot = common.samples(common.TINY, 40, 3)
  position[::3] = [np.nan, np.inf, -np.inf]
  position[1::3] *= [-1e9, 1e9, 3]
  got = _lookup((table, position, slot), common.TINY, implementation)
  want = _lookup((table, position, slot), common.TINY, "reference")
  np.testing.assert_allclose(got[:, 2::3], want[:, 2::3], atol=2e-5)


def test_rows_of_the_named_shapes():
  for spec in (common.TINY, specs.SMALL, specs.PAPER):
    assert np.all(spec.row_counts % 8 == 0)
    assert np.all(spec.row_counts <= max(spec.table_size, 8))
    assert spec.resolutions[1, 0] == spec.base_resolution
    assert spec.resolutions[1, -1] == spec.finest_resolution
    np.testing.assert_array_equal(spec.resolutions[0], 2 * spec.resolutions[1])
    assert spec.num_rows == spec.row_offsets[-1] + spec.row_counts[-1]
  assert specs.GridSpec(3, 2**9, 2, 16, 64).resolutions[1].tolist() == [
      16,
      32,
      64,
  ]


def test_bad_arguments():
  table, position, slot = common.samples(common.TINY, 5, 3)
  with pytest.raises(ValueError, match="expected None or one of"):
    _lookup((table, position, slot), common.TINY, "cuda")
  with pytest.raises(ValueError, match="table"):
    _lookup((table[:, 1:], position, slot), common.TINY, None)
  with pytest.raises(ValueError, match="slot"):
    _lookup((table, position, slot[1:]), common.TINY, None)
  with pytest.raises(ValueError, match="table_size"):
    specs.GridSpec(4, 0)


# The Triton kernel's index arithmetic: interpreter_only_test.
@pytest.mark.parametrize("implementation", ["xla", "native"])
def test_flat_index_beyond_int32(implementation):
  """The last slots of a table of more than 2**31 values, pages untouched."""
  spec = common.TINY
  num_slots = 2**31 // (spec.num_rows * 2) + 3
  size = num_slots * spec.num_rows * 2
  lazy = np.zeros(size + 16, np.float32)  # the kernel maps pages on first use
  start = -lazy.ctypes.data % 64 // 4  # JAX shares only aligned memory
  table = lazy[start : start + size].reshape(num_slots, spec.num_rows, 2)
  small, position, _ = common.samples(spec, 20, 2, seed=3)
  table[-2:] = small
  shared = jnp.from_dlpack(table)
  if shared.unsafe_buffer_pointer() != table.ctypes.data:
    pytest.skip("JAX copies the table: it would take 8 GB")
  slot = np.full(20, num_slots - 2, np.int32) + np.arange(20) % 2
  slot = slot.astype(np.int32)
  # Slot 1 of two stands for any slot but the root.
  two = np.stack([small[0], small[0], small[1]])
  want = _lookup((two, position, 1 + slot - num_slots + 2), spec, "reference")
  got = _lookup((shared, position, slot), spec, implementation)
  np.testing.assert_allclose(got, want, atol=2e-5)
