"""Lazy Adam by Triton kernels, in place on donated buffers.

See triton_kernels for the algorithm. Deterministic by default: contributions
to a row are summed in fixed point of 64 bits. The unit is 2^-40 of the grid
scale's largest gradient for 2^17 samples, twice that for twice as many.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import triton

from kernels.hash_lookup import native as hash_native
from kernels.hash_lookup import triton_hash_lookup
from kernels.sparse_adam import reference
from kernels.sparse_adam import triton_kernels as body
from kernels.triton_support import calls, capability

_BLOCK = 128
_SLOT_BLOCK = 1024
_MAX_SLOTS = 65535  # programs along the second axis of a grid
touched_slots = reference.touched_slots


def ready(table, spec) -> None:
  """Raises when the Triton sparse_adam cannot serve these arguments."""
  _require_float32("sparse_adam", table)
  key = spec.num_features
  capability.trust("sparse_adam", key, lambda: self_test(spec))


def ready_slots(weights) -> None:
  """Raises when the Triton slot_adam cannot serve these arguments."""
  _require_float32("slot_adam", weights)
  if weights.shape[0] > _MAX_SLOTS:
    raise NotImplementedError(
        f"slot_adam: triton needs at most {_MAX_SLOTS} slots, got"
        f" {weights.shape[0]}"
    )
  capability.trust("slot_adam", None, slot_self_test)


def _require_float32(op, array) -> None:
  if array.dtype != jnp.float32:
    raise NotImplementedError(f"{op}: triton needs float32, got {array.dtype}")


def _constants(b1, b2, eps):
  return dict(
      B1=float(b1),
      B2=float(b2),
      EPS=float(eps),
      LOG_B1=math.log2(b1),
      LOG_B2=math.log2(b2),
  )


def _rule(learning_rate, apply, grad, exact: bool):
  """[4] float32: rate, unit's inverse, unit, whether to apply.

  Not finite where a gradient is not: so will the rows be.
  """
  scale = unit = jnp.float32(1)
  if exact:
    bits = 61 - math.ceil(math.log2(8 * grad.shape[0]))
    largest = jnp.max(jnp.abs(grad))
    exponent = jnp.clip(bits - jnp.frexp(largest)[1], -126, 126)
    finite = jnp.isfinite(largest)
    scale = jnp.where(finite, jnp.ldexp(1.0, exponent), jnp.nan)
    unit = jnp.where(finite, jnp.ldexp(1.0, -exponent), jnp.nan)
  parts = [learning_rate, scale, unit, apply]
  return jnp.stack([jnp.asarray(p, jnp.float32) for p in parts])


def _like(*arrays):
  return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]


def _scale_step(state, position, slot, grad, layout, rule, exact, constants):
  """One grid scale: grad is [S, F], layout [6]."""
  table, moments, steps = state
  num_slots, num_rows, num_features = table.shape
  count = 8 * slot.shape[0]
  total = jax.ShapeDtypeStruct((count, num_features), jnp.float32)
  if exact:  # pairs of int32 for int64, which JAX lacks by default
    total = jax.ShapeDtypeStruct((count, num_features, 2), jnp.int32)
  places = jax.ShapeDtypeStruct((count,), jnp.int32)
  block = calls.block_size(count, _BLOCK)
  common = dict(
      grid=(triton.cdiv(count, block),),
      F=num_features,
      WIDTH=triton_hash_lookup.width(num_features),
      BLOCK=block,
  )
  where = (position, slot, layout, rule)
  sizes = (slot.shape[0], num_slots, num_rows)
  steps, seen, total = calls.triton_call(
      body.claim,
      *where,
      steps,
      *sizes,
      out=[*_like(steps), places, total],
      in_place={4: 0},
      EXACT=exact,
      **common,
  )
  before, total = calls.triton_call(
      body.accumulate,
      *where,
      steps,
      seen,
      grad,
      total,
      *sizes,
      out=[places, *_like(total)],
      in_place={7: 1},
      EXACT=exact,
      **common,
  )
  return calls.triton_call(
      body.update,
      *where,
      before,
      total,
      table,
      moments,
      steps,
      *sizes,
      out=_like(table, moments, steps),
      in_place={6: 0, 7: 1, 8: 2},
      EXACT=exact,
      **constants,
      **common,
  )


def sparse_adam(
    table,
    moments,
    steps,
    calls,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    apply,
    spec,
    deterministic: bool = True,
):
  """See api.sparse_adam."""
  position = jnp.concatenate([call[0] for call in calls])
  slot = jnp.concatenate([call[1] for call in calls])
  grad = jnp.concatenate([call[2] for call in calls], axis=1)
  if slot.shape[0] == 0 or table.size == 0:
    return table, moments, steps
  if slot.shape[0] >= 2**27:  # contributions are numbered in int32
    raise NotImplementedError(
        "sparse_adam: triton needs fewer than 2^27 samples, got"
        f" {slot.shape[0]}"
    )
  layouts = triton_hash_lookup.layout(spec)
  constants = _constants(b1, b2, eps)

  @jax.custom_batching.sequential_vmap  # one pool after the other
  def run(state, position, slot, grad, learning_rate, apply):
    for scale in range(spec.num_grid_scales):
      rule = _rule(learning_rate, apply, grad[scale], deterministic)
      state = _scale_step(
          state,
          position,
          slot,
          grad[scale],
          layouts[scale],
          rule,
          deterministic,
          constants,
      )
    return state

  state = (table, moments, steps)
  return run(state, position, slot, grad, learning_rate, apply)


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
  num_slots = weights.shape[0]
  if weights.size == 0:
    return weights, moments
  size = weights.size // num_slots

  @jax.custom_batching.sequential_vmap
  def run(weights, grad, moments, steps, touched, learning_rate, apply):
    return calls.triton_call(
        body.slot_adam,
        grad,
        steps,
        touched,
        _rule(learning_rate, apply, grad, False),
        weights,
        moments,
        out=_like(weights, moments),
        in_place={4: 0, 5: 1},
        grid=(triton.cdiv(size, _SLOT_BLOCK), num_slots),
        SIZE=size,  # constant: whole vectors where it allows them
        BLOCK=_SLOT_BLOCK,
        **_constants(b1, b2, eps),
    )

  return run(weights, grad, moments, steps, touched, learning_rate, apply)


def self_test(spec) -> None:
  """Raises AssertionError unless two steps equal the reference's."""
  small = hash_native.small_spec(spec)
  table, position, slot = hash_native.example(small)
  rng = np.random.default_rng(2)
  shape = (small.num_grid_scales, slot.shape[0], small.num_features)
  grad = jnp.asarray(rng.normal(size=shape), jnp.float32)
  rule = dict(learning_rate=jnp.float32(0.01), b1=0.9, b2=0.99, eps=1e-15)

  def two_steps(step):
    state = (table, jnp.zeros(table.shape[:2] + (2 * table.shape[2],)))
    state += (jnp.zeros(table.shape[:2], jnp.int32),)
    for _ in range(2):
      state = step(
          *state,
          [(position, slot, grad)],
          apply=jnp.bool_(True),
          spec=small,
          **rule,
      )
    return state

  want = jax.jit(functools.partial(two_steps, reference.sparse_adam))()
  got = jax.jit(functools.partial(two_steps, sparse_adam))()
  np.testing.assert_array_equal(got[2], want[2])
  for a, b in zip(got[:2], want[:2]):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def slot_self_test() -> None:
  """Raises AssertionError unless a step equals the reference's."""
  rng = np.random.default_rng(3)
  weights = jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)
  grad = jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)
  moments = jnp.asarray(rng.uniform(size=(3, 2, 5, 7)), jnp.float32)
  args = (weights, grad, moments, jnp.array([0, 3, 7], jnp.int32))
  args += (jnp.array([True, False, True]),)
  rule = dict(learning_rate=jnp.float32(0.01), b1=0.9, b2=0.99, eps=1e-15)
  want = reference.slot_adam(*args, apply=jnp.bool_(True), **rule)
  got = slot_adam(*args, apply=jnp.bool_(True), **rule)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
