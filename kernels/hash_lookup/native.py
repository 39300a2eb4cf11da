"""Hash lookup by the native CPU kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import dispatch
from kernels.hash_lookup import reference, specs
from kernels.native import build


def library(spec: specs.GridSpec) -> build.Library:
  """Library of the grid ops for this spec."""
  return build.load(
      "grid_ops",
      GRID_SCALES=spec.num_grid_scales,
      NUM_FEATURES=spec.num_features,
  )


def require_float32(op: str, **arrays) -> None:
  """Raises NotImplementedError unless all arrays are float32."""
  for name, array in arrays.items():
    if array.dtype != jnp.float32:
      raise NotImplementedError(
          f"{op}: native needs float32 {name}, got {array.dtype}"
      )


def ready(table, spec: specs.GridSpec) -> None:
  """Raises when the native kernel cannot serve these arguments."""
  require_float32("hash_lookup", table=table)
  dispatch.trust(library(spec), "hash_lookup", lambda: _self_test(spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(spec, table, position, slot):
  call = jax.ffi.ffi_call(
      library(spec).target("hash_lookup"),
      jax.ShapeDtypeStruct(
          (spec.num_grid_scales, slot.shape[0], spec.num_features), jnp.float32
      ),
      vmap_method="sequential",
  )
  return call(table, position, slot, layout=spec.layout())


def position_gradient(table, position, slot, feature_grad, *, spec):
  """Gradient [S, 3] of the positions from that of the features [L, S, F]."""
  call = jax.ffi.ffi_call(
      library(spec).target("position_gradient"),
      jax.ShapeDtypeStruct((slot.shape[0], 3), jnp.float32),
      vmap_method="sequential",
  )
  return call(table, position, slot, feature_grad, layout=spec.layout())


def _fwd(spec, table, position, slot):
  args = (table.value, position.value, slot.value)
  residual = args if position.perturbed else None
  return _lookup(spec, *args), residual


def _bwd(spec, residual, grad):
  if residual is None or isinstance(grad, jax.custom_derivatives.SymbolicZero):
    return None, None, None
  return None, position_gradient(*residual, grad, spec=spec), None


_lookup.defvjp(_fwd, _bwd, symbolic_zeros=True)


def hash_lookup(table, position, slot, *, spec: specs.GridSpec):
  """See api.hash_lookup."""
  table = dispatch.no_gradient("hash_lookup", table)
  return _lookup(spec, table, position, slot)


def example(spec: specs.GridSpec, num_samples: int = 61, num_slots: int = 3):
  """Small random table, position and slot for self-tests."""
  rng = np.random.default_rng(0)
  shape = (num_slots, spec.num_rows, spec.num_features)
  table = rng.normal(size=shape).astype(np.float32)
  position = rng.uniform(size=(num_samples, 3)).astype(np.float32)
  slot = rng.integers(-1, num_slots + 1, num_samples).astype(np.int32)
  return jnp.asarray(table), jnp.asarray(position), jnp.asarray(slot)


def small_spec(spec: specs.GridSpec) -> specs.GridSpec:
  """A grid for self-tests that runs on the same library as `spec`."""
  finest = 4 if spec.num_grid_scales == 1 else 40
  return specs.GridSpec(
      spec.num_grid_scales, 2**7, spec.num_features, 4, finest
  )


def _self_test(spec: specs.GridSpec) -> None:
  small = small_spec(spec)
  args = example(small)
  got = hash_lookup(*args, spec=small)
  want = reference.hash_lookup(*args, spec=small)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
