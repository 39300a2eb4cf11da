"""Octree descent of the samples along rays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.locate import native, reference

_xla = jax.jit(reference.locate, static_argnames=("root_side", "max_level"))


class Located(NamedTuple):
  """Where each sample is evaluated.

  node_id: [R, T] int32, the deepest resident node on the sample's path.
  slot: [R, T] int32, its row of the stacked parameters; -1 if not even the
    root is resident, or the sample is not wanted.
  level: [R, T] int32, its level.
  position: [R, T, 3] float32 in [0, 1]^3 of its box; for the root contracted.
  """

  node_id: jax.Array
  slot: jax.Array
  level: jax.Array
  position: jax.Array


@jax.named_scope("locate")
def locate(
    origins: jax.Array,
    origins_lo: jax.Array,
    directions: jax.Array,
    t: jax.Array,
    target_level: jax.Array,
    children: jax.Array,
    slot_of_node: jax.Array,
    *,
    root_side: float,
    max_level: int,
    implementation: str | None = None,
) -> Located:
  """Descends while level < target and the child that holds the sample exists.

  A sample outside the root's box is the root's. The root's positions are
  (q + 2) / 4 with q the L-infinity contraction of (x - 0.5) * 2. No gradient.

  Args:
    origins: [R, 3] float32, root units (the root's cube is [0, 1]^3).
    origins_lo: [R, 3] float32, what `origins` lost to rounding.
    directions: [R, 3] float32, unit length.
    t: [R, T] float32, metres.
    target_level: [R, T] int32; below 0: not wanted, without a slot, and what
      else is returned has no meaning.
    children: [N, 8] int32, -1 absent; octant bits x, y, z = 4, 2, 1, set =
      upper half; node 0 is the root.
    slot_of_node: [N] int32, -1 not resident.
    root_side: metres.
    max_level: deepest level of the tree.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    Located.

  Raises:
    ValueError: shapes disagree.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  children, slot_of_node = jnp.asarray(children), jnp.asarray(slot_of_node)
  num_rays = t.shape[0]
  for name, array, want in (
      ("origins", origins, (num_rays, 3)),
      ("origins_lo", origins_lo, (num_rays, 3)),
      ("directions", directions, (num_rays, 3)),
      ("target_level", target_level, t.shape),
      ("children", children, (slot_of_node.shape[0], 8)),
  ):
    if array.shape != want:
      raise ValueError(f"locate: got {name} {array.shape}, expected {want}")
  name = dispatch.choose(
      "locate",
      implementation,
      lambda: native.ready(max_level),
      lambda: dispatch.triton_module("locate").ready(max_level),
  )
  if name == "triton":
    run = dispatch.triton_module("locate").locate
  else:
    run = {"reference": reference.locate, "xla": _xla, "native": native.locate}
    run = run[name]
  out = run(
      origins,
      origins_lo,
      directions,
      t,
      target_level,
      children,
      slot_of_node,
      root_side=float(root_side),
      max_level=int(max_level),
  )
  if name != "native":  # which does not even look
    node_id, slot, *rest = out
    out = (node_id, jnp.where(target_level < 0, -1, slot), *rest)
  return Located(*(jax.lax.stop_gradient(a) for a in out))
