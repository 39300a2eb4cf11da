"""Lazy Adam by the native CPU kernels, in place on donated buffers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import dispatch
from kernels.hash_lookup import native as hash_native
from kernels.native import build
from kernels.sparse_adam import reference


def library() -> build.Library:
  """Library of the ops that do not depend on the field's sizes."""
  return build.load("scene_ops")


def ready(table, spec) -> None:
  """Raises when the native sparse_adam cannot serve these arguments."""
  hash_native.require_float32("sparse_adam", table=table)
  grid = hash_native.library(spec)
  dispatch.trust(grid, "sparse_adam", lambda: _self_test(spec))


def ready_slots(weights) -> None:
  """Raises when the native slot_adam cannot serve these arguments."""
  hash_native.require_float32("slot_adam", weights=weights)
  dispatch.trust(library(), "slot_adam", _slot_self_test)


def _like(*arrays):
  return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]


def sparse_adam(
    table, moments, steps, calls, *, learning_rate, b1, b2, eps, apply, spec
):
  """See api.sparse_adam."""
  call = jax.ffi.ffi_call(
      hash_native.library(spec).target("sparse_adam"),
      _like(table, moments, steps),
      input_output_aliases={0: 0, 1: 1, 2: 2},
  )
  flat = [array for one in calls for array in one]
  return tuple(
      call(
          table,
          moments,
          steps,
          learning_rate,
          apply,
          *flat,
          layout=spec.layout(),
          b1=np.float64(b1),
          b2=np.float64(b2),
          eps=np.float64(eps),
      )
  )


def slot_adam(
    weights,
    grad,
    moments,
    steps,
    touched,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    apply,
):
  """See api.slot_adam; the new steps are formed there."""
  call = jax.ffi.ffi_call(
      library().target("slot_adam"),
      _like(weights, moments),
      input_output_aliases={0: 0, 1: 1},
  )
  return tuple(
      call(
          weights,
          moments,
          grad,
          steps,
          touched,
          learning_rate,
          apply,
          b1=np.float64(b1),
          b2=np.float64(b2),
          eps=np.float64(eps),
      )
  )


def touched_slots(slots, num_slots: int):
  """See api.touched_slots."""
  shape = jax.ShapeDtypeStruct((num_slots,), jnp.bool_)
  return jax.ffi.ffi_call(library().target("touched_slots"), shape)(*slots)


def _close(got, want) -> None:
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


_RULE = dict(learning_rate=0.01, b1=0.9, b2=0.99, eps=1e-15)


def _self_test(spec) -> None:
  small = hash_native.small_spec(spec)
  table, position, slot = hash_native.example(small)
  rng = np.random.default_rng(2)
  shape = (small.num_grid_scales, slot.shape[0], small.num_features)
  grad = jnp.asarray(rng.normal(size=shape), jnp.float32)
  calls = [(position, slot, grad)]

  def two_steps(step):
    state = (table, jnp.zeros(table.shape[:2] + (2 * table.shape[2],)))
    state += (jnp.zeros(table.shape[:2], jnp.int32),)
    rule = {**_RULE, "learning_rate": jnp.float32(0.01)}
    for _ in range(2):
      state = step(*state, calls, apply=jnp.bool_(True), spec=small, **rule)
    return state

  want = jax.jit(functools.partial(two_steps, reference.sparse_adam))()
  _close(jax.jit(functools.partial(two_steps, sparse_adam))(), want)


def _slot_self_test() -> None:
  rng = np.random.default_rng(3)
  weights = jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)
  grad = jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)
  moments = jnp.asarray(rng.uniform(size=(3, 2, 5, 7)), jnp.float32)
  steps = jnp.array([0, 3, 7], jnp.int32)
  slots = [jnp.array([2, -1, 0, 3], jnp.int32)]
  touched = touched_slots(slots, 3)
  _close([touched], [reference.touched_slots(slots, 3)])
  rule = {**_RULE, "learning_rate": jnp.float32(0.01)}
  args = (weights, grad, moments, steps, touched)
  want = reference.slot_adam(*args, apply=jnp.bool_(True), **rule)
  _close(slot_adam(*args, apply=jnp.bool_(True), **rule), want)
