"""Adam that touches only what the samples addressed.

Touched means addressed by a sample, even if its gradient is zero. Each row
(slot) counts its own steps for the bias correction. Donate table, moments and
steps (weights and moments) to have them changed in place.
"""

from typing import Sequence

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.hash_lookup import api as hash_api
from kernels.hash_lookup import specs
from kernels.sparse_adam import native, reference, xla

_BACKENDS = {"reference": reference, "xla": xla, "native": native}


def _backend(name: str):
  return _BACKENDS.get(name) or dispatch.triton_module("sparse_adam")


Call = tuple[jax.Array, jax.Array, jax.Array]


@jax.named_scope("sparse_adam")
def sparse_adam(
    table: jax.Array,
    moments: jax.Array,
    steps: jax.Array,
    calls: Sequence[Call],
    *,
    spec: specs.GridSpec,
    learning_rate: jax.Array | float,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-15,
    apply: jax.Array | bool = True,
    deterministic: bool = True,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """One Adam step of every table row that a sample addressed.

  All contributions of all calls to a row are summed before its one step.

  Args:
    table: [N, rows, F] float32.
    moments: [N, rows, 2F] float32, first moments then second of a row.
    steps: [N, rows] int32, steps that each row has taken.
    calls: (position [S, 3], slot [S], feature_grad [L, S, F]) of each
      evaluation of the field; S may differ between calls.
    spec: grid.
    learning_rate: scalar.
    b1, b2, eps: Adam's constants.
    apply: bool scalar; False changes nothing.
    deterministic: whether the same call must give the same bits; only triton
      has a faster form that does not.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    New table, moments, steps.

  Raises:
    ValueError: shapes disagree with each other or with the spec.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  calls = [tuple(jnp.asarray(a) for a in call) for call in calls]
  for position, slot, grad in calls:
    hash_api.check_samples("sparse_adam", table, position, slot, spec)
    want = (spec.num_grid_scales, slot.shape[0], spec.num_features)
    if grad.shape != want:
      raise ValueError(
          f"sparse_adam: got feature_grad {grad.shape}, expected {want}"
      )
  want = table.shape[:2] + (2 * spec.num_features,)
  if moments.shape != want or steps.shape != table.shape[:2]:
    raise ValueError(
        f"sparse_adam: got moments {moments.shape}, steps {steps.shape},"
        f" expected {want}, {table.shape[:2]}"
    )
  name = dispatch.choose(
      "sparse_adam",
      implementation,
      lambda: native.ready(table, spec),
      lambda: dispatch.triton_module("sparse_adam").ready(table, spec),
  )
  options = {"deterministic": deterministic} if name == "triton" else {}
  return _backend(name).sparse_adam(
      table,
      moments,
      steps,
      calls,
      learning_rate=jnp.asarray(learning_rate, jnp.float32),
      b1=b1,
      b2=b2,
      eps=eps,
      apply=jnp.asarray(apply, bool),
      spec=spec,
      **options,
  )


@jax.named_scope("slot_adam")
def slot_adam(
    weights: jax.Array,
    grad: jax.Array,
    moments: jax.Array,
    steps: jax.Array,
    touched: jax.Array,
    *,
    learning_rate: jax.Array | float,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-15,
    apply: jax.Array | bool = True,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """One Adam step of every touched slot's weights.

  Several arrays that share `steps` take the same old steps; keep the new ones
  of any.

  Args:
    weights: [N, ...] float32.
    grad: [N, ...] float32.
    moments: [N, 2, ...] float32, first and second.
    steps: [N] int32, steps that each slot has taken.
    touched: [N] bool, see touched_slots.
    learning_rate: scalar.
    b1, b2, eps: Adam's constants.
    apply: bool scalar; False changes nothing.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    New weights, moments, steps.

  Raises:
    ValueError: shapes disagree.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  want = weights.shape[:1] + (2,) + weights.shape[1:]
  if grad.shape != weights.shape or moments.shape != want:
    raise ValueError(
        f"slot_adam: got grad {grad.shape}, moments {moments.shape}, expected"
        f" {weights.shape}, {want}"
    )
  if not steps.shape == touched.shape == weights.shape[:1]:
    raise ValueError(
        f"slot_adam: got steps {steps.shape}, touched {touched.shape}, expected"
        f" {weights.shape[:1]}"
    )
  name = dispatch.choose(
      "slot_adam",
      implementation,
      lambda: native.ready_slots(weights),
      lambda: dispatch.triton_module("sparse_adam").ready_slots(weights),
  )
  apply = jnp.asarray(apply, bool)
  weights, moments = _backend(name).slot_adam(
      weights,
      grad,
      moments,
      steps,
      touched,
      learning_rate=jnp.asarray(learning_rate, jnp.float32),
      b1=b1,
      b2=b2,
      eps=eps,
      apply=apply,
  )
  return weights, moments, steps + (touched & apply)


@jax.named_scope("touched_slots")
def touched_slots(
    slots: Sequence[jax.Array],
    num_slots: int,
    *,
    implementation: str | None = None,
) -> jax.Array:
  """Which slots any sample addressed.

  Args:
    slots: arrays [S] int32; values outside [0, num_slots) are ignored.
    num_slots: N.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    touched [N] bool.
  """
  name = dispatch.choose(
      "touched_slots",
      implementation,
      lambda: dispatch.trust(
          native.library(), "slot_adam", native._slot_self_test
      ),
      lambda: dispatch.triton_module("sparse_adam"),
  )
  return _backend(name).touched_slots(slots, num_slots)
