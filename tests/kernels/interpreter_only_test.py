"""What only the interpreter can show: guards, index arithmetic, self-tests.

Run by interpreter_test, with TRITON_INTERPRET=1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import dispatch
from kernels.hash_lookup import specs
from kernels.triton_support import calls, capability
from tests.kernels import common

if not common.INTERPRETING:
  pytest.skip("needs Triton's interpreter", allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from kernels.hash_lookup import triton_kernels as grid  # noqa: E402
from kernels.traverse import triton_kernels as walk  # noqa: E402


@triton.jit
def _flat(slot, row, num_rows, out, BLOCK: tl.constexpr):
  i = tl.arange(0, BLOCK)
  value = grid.flat_row(tl.load(slot + i), tl.load(row + i), num_rows)
  high = (value >> 31).to(tl.int32)
  tl.store(out + 2 * i, high)
  tl.store(out + 2 * i + 1, (value & 0x7FFFFFFF).to(tl.int32))


@pytest.mark.parametrize("backend", ["triton"])
def test_flat_rows_beyond_int32(backend):
  """Addresses of rows around and far beyond 2**31, none allocated."""
  num_rows = 2**22
  slot = np.array([0, 511, 511, 512, 512, 2**30, 65535, 3], np.int32)
  row = np.array([0, num_rows - 1, 0, 0, 1, 7, num_rows - 1, 5], np.int32)
  (out,) = calls.triton_call(
      _flat,
      slot,
      row,
      num_rows,
      out=[jax.ShapeDtypeStruct((8, 2), jnp.int32)],
      grid=(1,),
      BLOCK=8,
  )
  got = np.asarray(out).astype(np.int64) @ [2**31, 1]
  np.testing.assert_array_equal(got, slot.astype(np.int64) * num_rows + row)
  assert (got >= 2**31).sum() == 4 and got[1] == 2**31 - 1


@triton.jit
def _places(node, low, out, BLOCK: tl.constexpr):
  i = tl.arange(0, BLOCK)
  n, b = tl.load(node + i), tl.load(low + i)
  word, child = walk.word_place(n, b), walk.child_place(n, b & 7)
  tl.store(out + 4 * i, (word >> 31).to(tl.int32))
  tl.store(out + 4 * i + 1, (word & 0x7FFFFFFF).to(tl.int32))
  tl.store(out + 4 * i + 2, (child >> 31).to(tl.int32))
  tl.store(out + 4 * i + 3, (child & 0x7FFFFFFF).to(tl.int32))


@pytest.mark.parametrize("backend", ["triton"])
def test_nodes_of_a_walk_beyond_int32(backend):
  """Words and children of nodes around and far beyond 2**31 / 8."""
  node = np.array([0, 2**28 - 1, 2**28, 2**30, 2**31 - 1, 3, 9, 1], np.int32)
  low = np.array([0, 63, 31, 32, 63, 7, 12, 1], np.int32)
  (out,) = calls.triton_call(
      _places,
      node,
      low,
      out=[jax.ShapeDtypeStruct((8, 4), jnp.int32)],
      grid=(1,),
      BLOCK=8,
  )
  out, node = np.asarray(out).astype(np.int64), node.astype(np.int64)
  np.testing.assert_array_equal(out[:, :2] @ [2**31, 1], 2 * node + (low >> 5))
  np.testing.assert_array_equal(out[:, 2:] @ [2**31, 1], 8 * node + (low & 7))
  assert (8 * node >= 2**31).sum() == 3


@triton.jit
def _shift(x, n, y_in, out, y, BLOCK: tl.constexpr, BY: tl.constexpr):
  i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
  tl.store(out + i + BY, tl.load(x + i, mask=i < n), mask=i < n)
  tl.store(y + i, tl.load(y + i, mask=i < n) * 2, mask=i < n)


def _run_shift(by):
  x, y = jnp.arange(10.0), jnp.ones(10)
  return calls.triton_call(
      _shift,
      x,
      10,
      y,
      out=[x, y],
      in_place={2: 1},
      grid=(3,),
      BLOCK=4,
      BY=by,
  )


@pytest.mark.parametrize("backend", ["triton"])
def test_calls_and_buffers_in_place(backend):
  out, y = _run_shift(0)
  np.testing.assert_array_equal(out, np.arange(10))
  np.testing.assert_array_equal(y, np.full(10, 2))


@pytest.mark.parametrize("backend,by", [("triton", -1), ("triton", 1)])
def test_writes_outside_of_a_buffer_are_caught(backend, by):
  with pytest.raises(Exception, match="_shift: out: the kernel wrote at byte"):
    jax.block_until_ready(_run_shift(by))


@triton.jit
def _into_input(x, out):
  tl.store(x, 1.0)
  tl.store(out, 1.0)


@pytest.mark.parametrize("backend", ["triton"])
def test_writes_into_inputs_are_caught(backend):
  x = jnp.zeros(1)
  with pytest.raises(Exception, match="of an input"):
    call = calls.triton_call(_into_input, x, out=[x], grid=(1,))
    jax.block_until_ready(call)


@pytest.mark.parametrize("backend", ["triton"])
def test_a_batch_or_a_gradient_does_not_pass_through_a_call(backend):
  with pytest.raises(NotImplementedError):
    jax.vmap(
        lambda by: calls.triton_call(_into_input, by, out=[by], grid=(1,))[0]
    )(jnp.ones(3))


@pytest.mark.parametrize("op", ["hash_lookup-triton"])
def test_self_test_of_a_kernel(op):
  dispatch.triton_module("hash_lookup").self_test(common.RAGGED, jnp.bfloat16)
  one = specs.GridSpec(1, 64, 1, 5, 5)
  dispatch.triton_module("hash_lookup").self_test(one)
  dispatch.triton_module("sparse_adam").self_test(common.RAGGED)
  dispatch.triton_module("sparse_adam").slot_self_test()


@pytest.mark.parametrize("backend", ["triton"])
def test_automatic_choice_is_not_the_interpreter(backend):
  assert capability.platform() == "cpu"
  chosen = dispatch.choose("x", None, lambda: None, lambda: None)
  assert chosen == "native"
  assert dispatch.choose("x", backend, lambda: None, lambda: None) == backend
