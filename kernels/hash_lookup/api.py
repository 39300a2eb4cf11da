"""Hash lookup: encoded features of samples that lie in different nodes."""

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.hash_lookup import native, reference, specs, xla


@jax.named_scope("hash_lookup")
def hash_lookup(
    table: jax.Array,
    position: jax.Array,
    slot: jax.Array,
    *,
    spec: specs.GridSpec,
    implementation: str | None = None,
) -> jax.Array:
  """Trilinear features of each sample at every grid scale of its node.

  Only the reference is differentiable in `table`; all are in `position`.

  Args:
    table: [N, rows, F] float32 (native: only that), float16 or bfloat16.
    position: [S, 3] float32, in [0, 1]^3 of the node's own box.
    slot: [S] int32; outside [0, N): skipped, zeros.
    spec: grid; slot 0 has doubled resolutions.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    features [L, S, F] float32.

  Raises:
    ValueError: shapes disagree with each other or with the spec.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  table, position, slot = (jnp.asarray(a) for a in (table, position, slot))
  check_samples("hash_lookup", table, position, slot, spec)
  name = dispatch.choose(
      "hash_lookup",
      implementation,
      lambda: native.ready(table, spec),
      lambda: dispatch.triton_module("hash_lookup").ready(table, spec),
  )
  if name == "triton":
    run = dispatch.triton_module("hash_lookup")
  else:
    run = {"reference": reference, "xla": xla, "native": native}[name]
  return run.hash_lookup(table, position, slot, spec=spec)


def check_samples(op, table, position, slot, spec: specs.GridSpec) -> None:
  """Raises ValueError unless table, position and slot fit the spec."""
  want = (spec.num_rows, spec.num_features)
  if table.ndim != 3 or table.shape[1:] != want:
    raise ValueError(
        f"{op}: got table {table.shape}, expected [num_slots, {want[0]},"
        f" {want[1]}]"
    )
  if slot.ndim != 1 or position.shape != (slot.shape[0], 3):
    raise ValueError(
        f"{op}: got position {position.shape} and slot {slot.shape}, expected"
        " [S, 3] and [S]"
    )
  if slot.dtype != "int32" or position.dtype != "float32":
    raise ValueError(
        f"{op}: got position {position.dtype} and slot {slot.dtype}, expected"
        " float32 and int32"
    )
