"""Lazy Adam by the native CPU kernels, in place on donated buffers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import batching, dispatch
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


def _with_vmap(merged):
  """Gives a step over many slots the vmap that merges a batch's slots.

  Args:
    merged: (size, batched, state, given) to (state, given) of one call.

  Returns:
    Decorator of run(state, given, rate, apply), all pytrees; the state comes
    back changed.
  """

  def decorate(run):
    run = jax.custom_batching.custom_vmap(run)

    @run.def_vmap
    def _(size, batched, *arguments):
      state, given, rate, apply = arguments
      if batched[2] or batched[3]:  # a rule of its own for each: in turn
        own = jax.tree.map(
            lambda a, b: batching.spread(a, b, size), arguments, tuple(batched)
        )
        out = jax.lax.map(lambda one: run(*one), own)
      else:
        out = run(*merged(size, batched, state, given), rate, apply)
        out = tuple(batching.own_of_batch(a, size) for a in out)
      return out, (True,) * len(out)

    return run

  return decorate


def _merged_rows(size, batched, state, given):
  """State [B * N, ...] and calls whose slots say which of B pools they mean."""
  num_slots = state[0].shape[1 if batched[0][0] else 0]
  state = tuple(batching.merge(a, b, size) for a, b in zip(state, batched[0]))
  calls = []
  for (position, slot, grad), (p, s, g) in zip(given, batched[1]):
    slot = batching.offset_slots(batching.spread(slot, s, size), num_slots)
    # [B, L, S, F] -> [L, B * S, F]
    grad = jnp.moveaxis(batching.spread(grad, g, size), 0, 1)
    grad = grad.reshape((grad.shape[0], -1, grad.shape[3]))
    calls.append((batching.merge(position, p, size), slot, grad))
  return state, tuple(calls)


def sparse_adam(
    table, moments, steps, calls, *, learning_rate, b1, b2, eps, apply, spec
):
  """See api.sparse_adam; vmap stacks pools, each with a root of its own."""
  tree_slots = max(table.shape[0], 1)

  @_with_vmap(_merged_rows)
  def run(state, calls, learning_rate, apply):
    call = jax.ffi.ffi_call(
        hash_native.library(spec).target("sparse_adam"),
        _like(*state),
        input_output_aliases={0: 0, 1: 1, 2: 2},
    )
    flat = [array for one in calls for array in one]
    return tuple(
        call(
            *state,
            learning_rate,
            apply,
            *flat,
            layout=spec.layout(),
            tree_slots=np.int64(tree_slots),
            b1=np.float64(b1),
            b2=np.float64(b2),
            eps=np.float64(eps),
        )
    )

  state, calls = (table, moments, steps), tuple(map(tuple, calls))
  return run(state, calls, learning_rate, apply)


def _merged_slots(size, batched, state, given):
  """All of them [B * N, ...]."""
  merge = lambda values, flags: tuple(
      batching.merge(a, b, size) for a, b in zip(values, flags)
  )
  return merge(state, batched[0]), merge(given, batched[1])


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

  @_with_vmap(_merged_slots)
  def run(state, given, learning_rate, apply):
    call = jax.ffi.ffi_call(
        library().target("slot_adam"),
        _like(*state),
        input_output_aliases={0: 0, 1: 1},
    )
    return tuple(
        call(
            *state,
            *given,
            learning_rate,
            apply,
            b1=np.float64(b1),
            b2=np.float64(b2),
            eps=np.float64(eps),
        )
    )

  given = (grad, steps, touched)
  return run((weights, moments), given, learning_rate, apply)


def touched_slots(slots, num_slots: int):
  """See api.touched_slots."""

  @jax.custom_batching.custom_vmap
  def run(slots):
    shape = jax.ShapeDtypeStruct((num_slots,), jnp.bool_)
    return jax.ffi.ffi_call(library().target("touched_slots"), shape)(*slots)

  @run.def_vmap
  def _(size, batched, slots):
    slots = [
        batching.offset_slots(batching.spread(a, b, size), num_slots)
        for a, b in zip(slots, batched[0])
    ]
    touched = touched_slots(slots, size * num_slots)
    return batching.own_of_batch(touched, size), True

  return run(list(slots))


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
