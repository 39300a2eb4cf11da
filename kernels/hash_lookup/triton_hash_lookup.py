"""Hash lookup by Triton kernels (import needs triton)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import triton
from jax import custom_batching

from kernels import batching, dispatch
from kernels.hash_lookup import native, reference, specs
from kernels.hash_lookup import triton_kernels as body
from kernels.triton_support import calls, capability

_BLOCK = 128
_TYPES = ("float32", "float16", "bfloat16")
_SymbolicZero = jax.custom_derivatives.SymbolicZero


def ready(table, spec: specs.GridSpec) -> None:
  """Raises when the Triton kernels cannot serve these arguments."""
  if str(table.dtype) not in _TYPES:
    raise NotImplementedError(
        f"hash_lookup: triton needs table of {_TYPES}, got {table.dtype}"
    )
  key = (str(table.dtype), spec.num_features)
  capability.trust("hash_lookup", key, lambda: self_test(spec, table.dtype))


def layout(spec: specs.GridSpec) -> np.ndarray:
  """[L, 6] int32 a grid scale.

  Resolution of slot 0 and of others, first row, number of rows, whether slot
  0 and others are indexed densely.
  """
  rows = []
  for scale in range(spec.num_grid_scales):
    part = [*spec.resolutions[:, scale], spec.row_offsets[scale]]
    rows.append([*part, spec.row_counts[scale], *spec.is_dense(scale)])
  return np.array(rows, np.int32)


def width(num_features: int) -> int:
  """Lanes that a row's features take: a power of two."""
  return triton.next_power_of_2(num_features)


def _grid_arguments(table, slot, spec, tree_slots):
  num_slots = table.shape[0]
  if slot.shape[0] * spec.num_features >= 2**31:  # a scale's stride is int32
    raise NotImplementedError(
        "hash_lookup: triton needs fewer than 2^31 features a scale, got"
        f" {slot.shape[0]} samples of {spec.num_features}"
    )
  scalars = (slot.shape[0], num_slots, spec.num_rows, tree_slots or num_slots)
  constants = dict(
      F=spec.num_features,
      WIDTH=width(spec.num_features),
      BATCHED=tree_slots is not None,
      BLOCK=calls.block_size(slot.shape[0], _BLOCK),
  )
  return scalars, constants


def _merged(size, batched, table, position, slot, tree_slots):
  """Arguments of all elements of a batch as those of one call."""
  position = batching.merge(position, batched[1], size)
  if not batched[0]:
    return table, position, batching.merge(slot, batched[2], size), tree_slots
  slot = batching.spread(slot, batched[2], size)
  slot = batching.offset_slots(slot, table.shape[1])
  table = table.reshape((-1,) + table.shape[2:])
  # A vmap within a vmap: the inner trees stay the size that they are.
  return table, position, slot, tree_slots or table.shape[0] // size


@functools.cache
def _forward(spec: specs.GridSpec, tree_slots: int | None):
  """features [L, S, F] of (table, position, slot), with a rule for vmap."""

  @custom_batching.custom_vmap
  def run(table, position, slot):
    scalars, constants = _grid_arguments(table, slot, spec, tree_slots)
    shape = (spec.num_grid_scales, slot.shape[0], spec.num_features)
    blocks = triton.cdiv(slot.shape[0], constants["BLOCK"])
    (features,) = calls.triton_call(
        body.lookup,
        table,
        position,
        slot,
        layout(spec),
        *scalars,
        out=[jax.ShapeDtypeStruct(shape, jnp.float32)],
        grid=(blocks, spec.num_grid_scales),
        **constants,
    )
    return features

  @run.def_vmap
  def _(size, batched, table, position, slot):
    *merged, trees = _merged(size, batched, table, position, slot, tree_slots)
    out = _forward(spec, trees)(*merged)
    out = out.reshape((out.shape[0], size, -1, out.shape[2]))
    return jnp.moveaxis(out, 1, 0), True

  return run


@functools.cache
def _backward(spec: specs.GridSpec, tree_slots: int | None):
  """Gradient [S, 3] of the position; the features' is [L, S, F]."""

  @custom_batching.custom_vmap
  def run(table, position, slot, grad):
    scalars, constants = _grid_arguments(table, slot, spec, tree_slots)
    (out,) = calls.triton_call(
        body.position_gradient,
        table,
        position,
        slot,
        grad,
        layout(spec),
        *scalars,
        out=[jax.ShapeDtypeStruct(position.shape, jnp.float32)],
        grid=(triton.cdiv(slot.shape[0], constants["BLOCK"]),),
        NUM_SCALES=spec.num_grid_scales,
        **constants,
    )
    return out

  @run.def_vmap
  def _(size, batched, table, position, slot, grad):
    first = batched[:3]
    *merged, trees = _merged(size, first, table, position, slot, tree_slots)
    grad = jnp.moveaxis(batching.spread(grad, batched[3], size), 0, 1)
    grad = grad.reshape((grad.shape[0], -1, grad.shape[3]))
    out = _backward(spec, trees)(*merged, grad)
    return out.reshape((size, -1, 3)), True

  return run


def position_gradient(table, position, slot, feature_grad, *, spec):
  """Gradient [S, 3] of the positions from that of the features [L, S, F]."""
  if table.shape[0] == 0:
    return jnp.zeros_like(position)
  return _backward(spec, None)(table, position, slot, feature_grad)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(spec, table, position, slot):
  return _forward(spec, None)(table, position, slot)


def _fwd(spec, table, position, slot):
  args = (table.value, position.value, slot.value)
  return _lookup(spec, *args), args if position.perturbed else None


def _bwd(spec, residual, grad):
  if residual is None or isinstance(grad, _SymbolicZero):
    return None, None, None
  return None, position_gradient(*residual, grad, spec=spec), None


_lookup.defvjp(_fwd, _bwd, symbolic_zeros=True)


def hash_lookup(table, position, slot, *, spec: specs.GridSpec):
  """See api.hash_lookup."""
  if table.shape[0] == 0:
    shape = (spec.num_grid_scales, slot.shape[0], spec.num_features)
    return jnp.zeros(shape, jnp.float32)
  table = dispatch.no_gradient("hash_lookup", table)
  return _lookup(spec, table, position, slot)


def self_test(spec: specs.GridSpec, dtype=jnp.float32) -> None:
  """Raises AssertionError unless lookup and gradient equal the reference's."""
  small = native.small_spec(spec)
  table, position, slot = native.example(small)
  args = (table.astype(dtype), position, slot)

  def run(module):
    def loss(position):
      out = module.hash_lookup(args[0], position, slot, spec=small)
      return jnp.sum(jnp.sin(out)), out

    return jax.jit(jax.grad(loss, has_aux=True))(position)

  for got, want in zip(run(_THIS), run(reference)):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-2)


class _THIS:  # this module, as `run` above takes one
  hash_lookup = staticmethod(hash_lookup)
