"""Samples along rays, empty space left out, packed ray behind ray."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.traverse import reference, xla

_STATIC = (
    "root_side",
    "min_step",
    "step_slope",
    "max_steps",
    "max_samples_per_ray",
    "capacity",
)
_xla = jax.jit(xla.traverse, static_argnames=_STATIC)
_reference = jax.jit(reference.traverse, static_argnames=_STATIC)


class Traversed(NamedTuple):
  """Ragged samples: ray r's lie at [ray_offsets[r], ray_offsets[r + 1]).

  ray_offsets: [R + 1] int32.
  ray_idx: [C] int32; -1 behind the last sample.
  t: [C] float32, metres, midpoints.
  delta: [C] float32, metres.
  slot: [C] int32, row of the stacked parameters; -1 behind the last sample.
  node_id: [C] int32.
  position: [C, 3] float32 in [0, 1]^3 of the node's box; root's contracted.
  reached: [R] float32, metres: how far each ray was walked; its far, unless
    max_steps or max_samples_per_ray ended it before.
  num_found: int32, samples found; above C the last ones were dropped.
  """

  ray_offsets: jax.Array
  ray_idx: jax.Array
  t: jax.Array
  delta: jax.Array
  slot: jax.Array
  node_id: jax.Array
  position: jax.Array
  reached: jax.Array
  num_found: jax.Array


@jax.named_scope("traverse")
def traverse(
    origins: jax.Array,
    origins_lo: jax.Array,
    directions: jax.Array,
    near: jax.Array,
    far: jax.Array,
    base_radius: jax.Array,
    cone_slope: jax.Array,
    level_footprints: jax.Array,
    children: jax.Array,
    slot_of_node: jax.Array,
    occupancy: jax.Array | None = None,
    phase: jax.Array | None = None,
    *,
    root_side: float,
    min_step: float,
    step_slope: float = 0.0,
    max_steps: int = 1024,
    max_samples_per_ray: int = 128,
    capacity: int | None = None,
    implementation: str | None = None,
) -> Traversed:
  """Cuts rays into intervals and keeps those in occupied space.

  Interval ends are near + (k - phase) * min_step, growing by the factor
  1 + step_slope where that is longer. An interval stands at its midpoint t:
  its node is the deepest resident one at most at the level that its footprint
  base_radius + t * cone_slope asks for. It is kept if the node's and its
  ancestors' occupancy has the bit of the cell that holds it. Samples outside
  the root's box are the root's, and kept. No gradient.

  The level policy comes as footprints, not as levels: the distances are not
  known before the walk. Any policy that descends as footprints shrink is such
  a list.

  Args:
    origins: [R, 3] float32, root units (the root's cube is [0, 1]^3).
    origins_lo: [R, 3] float32, what `origins` lost to rounding.
    directions: [R, 3] float32, unit length.
    near: [R, 1] float32, metres.
    far: [R, 1] float32, metres; not above near: no samples.
    base_radius: [R, 1] float32, metres.
    cone_slope: [R, 1] float32.
    level_footprints: [max_level] float32, metres: level l + 1 is entered where
      the footprint is below the first l + 1 of them.
    children: [N, 8] int32, as locate takes them.
    slot_of_node: [N] int32, -1 not resident.
    occupancy: [N, 2] int32 (see pack_occupancy), None: nothing is empty.
    phase: [R, 1] float32 in [0, 1), shifts a ray's intervals towards it by
      that share of one; None is 0.
    root_side: metres.
    min_step: metres, above 0.
    step_slope: metres a metre.
    max_steps: intervals of a ray looked at or leapt over, at most 2^16.
    max_samples_per_ray: kept of a ray.
    capacity: C, rows of the result; None: enough for all.
    implementation: None, "reference", "xla" or "triton".

  Returns:
    Traversed.

  Raises:
    ValueError: shapes disagree or a limit is out of range.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  num_rays = near.shape[0]
  if phase is None:
    phase = jnp.zeros((num_rays, 1), jnp.float32)
  if capacity is None:
    capacity = num_rays * max_samples_per_ray
  arrays = (origins, origins_lo, directions, near, far, base_radius)
  arrays += (cone_slope, phase, level_footprints, children, slot_of_node)
  arrays = tuple(jax.lax.stop_gradient(jnp.asarray(a)) for a in arrays)
  if occupancy is not None:
    occupancy = jnp.asarray(occupancy)
  _check(arrays, occupancy)
  rule = dict(
      root_side=float(root_side),
      min_step=float(min_step),
      step_slope=float(step_slope),
      max_steps=int(max_steps),
      max_samples_per_ray=int(max_samples_per_ray),
      capacity=int(capacity),
  )
  _check_rule(num_rays, **rule)
  max_level = level_footprints.shape[0]
  name = dispatch.choose(
      "traverse",
      implementation,
      None,
      lambda: dispatch.triton_module("traverse").ready(max_level),
  )
  if not num_rays:
    return _nothing(rule["capacity"])
  if name == "triton":
    run = dispatch.triton_module("traverse").traverse
  else:
    run = {"reference": _reference, "xla": _xla}[name]
  return Traversed(*run(*arrays, occupancy, **rule))


def _nothing(capacity: int) -> Traversed:
  """What no rays meet."""
  integer = lambda *shape: jnp.zeros(shape, jnp.int32)
  real = lambda *shape: jnp.zeros(shape, jnp.float32)
  return Traversed(
      ray_offsets=integer(1),
      ray_idx=integer(capacity) - 1,
      t=real(capacity),
      delta=real(capacity),
      slot=integer(capacity) - 1,
      node_id=integer(capacity),
      position=real(capacity, 3),
      reached=real(0),
      num_found=integer(),
  )


def _check(arrays, occupancy) -> None:
  num_rays, num_nodes = arrays[3].shape[0], arrays[-1].shape[0]
  names = ("origins", "origins_lo", "directions", "near", "far")
  names += ("base_radius", "cone_slope", "phase")
  wants = 3 * [(num_rays, 3)] + 5 * [(num_rays, 1)]
  checks = list(zip(names, arrays, wants))
  checks.append(("children", arrays[-2], (num_nodes, 8)))
  if occupancy is not None:
    checks.append(("occupancy", occupancy, (num_nodes, 2)))
  for name, array, want in checks:
    if array.shape != want:
      raise ValueError(f"traverse: got {name} {array.shape}, expected {want}")
  if arrays[-3].ndim != 1:
    raise ValueError(
        f"traverse: got level_footprints {arrays[-3].shape}, expected"
        " [max_level]"
    )


def _check_rule(num_rays, *, min_step, step_slope, max_steps, **sizes) -> None:
  if not min_step > 0 or not step_slope >= 0:
    raise ValueError(
        f"traverse: got min_step {min_step} and step_slope {step_slope},"
        " expected above 0 and at least 0"
    )
  if not 1 <= max_steps <= 2**16:
    raise ValueError(f"traverse: got max_steps {max_steps}, expected to 2^16")
  most, capacity = sizes["max_samples_per_ray"], sizes["capacity"]
  if most < 1 or num_rays * most >= 2**31 or not 0 <= capacity < 2**31:
    raise ValueError(
        f"traverse: got {num_rays} rays of {most} samples, capacity {capacity},"
        " expected at least one a ray and fewer than 2^31 in all"
    )
