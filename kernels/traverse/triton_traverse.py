"""Traversal by a Triton kernel, once to count and once to place."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from kernels.locate import native as locate_native
from kernels.traverse import comb, occupancy, xla
from kernels.traverse import triton_kernels as body
from kernels.triton_support import calls, capability

MAX_LEVEL = 30  # cells are numbered in int32
# Rays walk at their own pace: a warp waits for its slowest only.
_BLOCK = 32


def ready(max_level: int) -> None:
  """Raises when the kernel cannot serve these arguments."""
  if max_level > MAX_LEVEL:
    raise NotImplementedError(
        f"traverse: triton needs max_level <= {MAX_LEVEL}, got {max_level}"
    )
  capability.trust("traverse", (), _self_test)


def _walk(arrays, words, offsets, rule, out, capacity):
  num_rays = arrays[3].shape[0]
  block = calls.block_size(num_rays, _BLOCK)
  unread = jnp.zeros(2, jnp.int32)
  footprints = arrays[8]
  if not footprints.shape[0]:
    footprints = jnp.zeros(1, jnp.float32)  # no pointer to nothing
  return calls.triton_call(
      body.traverse,
      *arrays[:8],
      footprints,
      *arrays[9:],
      unread if words is None else words,
      unread if offsets is None else offsets,
      num_rays,
      capacity,
      out=[jax.ShapeDtypeStruct(*o) for o in out],
      grid=(-(-num_rays // block),),
      num_warps=1,
      WRITE=offsets is not None,
      OCCUPANCY=words is not None,
      MAX_LEVEL=arrays[8].shape[0],
      ROOT_SIDE=rule["root_side"],
      MIN_STEP=rule["min_step"],
      STEP_SLOPE=rule["step_slope"],
      GROWTH=math.log1p(rule["step_slope"]),
      MARGIN=comb.MARGIN,
      MAX_STEPS=rule["max_steps"],
      MAX_SAMPLES=rule["max_samples_per_ray"],
      BLOCK=block,
  )


def _outputs(num_rays: int, capacity: int, write: bool):
  """Shapes of what is written; what the other pass writes has one row."""
  rays = 1 if write else num_rays
  rows = capacity if write else 1
  integer, real = jnp.int32, jnp.float32
  return [
      ((rays,), integer),
      ((rays,), real),
      ((rows,), integer),
      ((rows,), real),
      ((rows,), real),
      ((rows,), integer),
      ((rows,), integer),
      ((rows, 3), real),
  ]


def _traverse(*arrays, rule, capacity):
  *arrays, words = arrays
  num_rays = arrays[3].shape[0]
  counting = _outputs(num_rays, capacity, False)
  counts, reached, *_ = _walk(arrays, words, None, rule, counting, capacity)
  offsets, total = xla.offsets_of(counts, capacity)
  placing = _outputs(num_rays, capacity, True)
  _, _, *rows = _walk(arrays, words, offsets, rule, placing, capacity)
  # The kernel leaves the rows behind the last sample as they were.
  real = jnp.arange(capacity, dtype=jnp.int32) < offsets[-1]
  fills = (-1, 0.0, 0.0, -1, 0, 0.0)
  rows = [
      jnp.where(real[:, None] if r.ndim == 2 else real, r, fill)
      for r, fill in zip(rows, fills)
  ]
  return offsets, *rows, reached, total


def traverse(*arrays, capacity: int, **rule):
  """See api.traverse; vmap goes from one element of a batch to the next."""

  @jax.custom_batching.sequential_vmap
  def run(*arrays):
    return _traverse(*arrays, rule=rule, capacity=capacity)

  return run(*arrays)


def example():
  """Arguments (arrays, rule) over the tree of locate's example."""
  arrays = locate_native.example()
  origins, low, directions = arrays[:3]
  children, slot_of_node = arrays[5:]
  rng = np.random.default_rng(8)
  num_rays = origins.shape[0]
  full = rng.uniform(size=(children.shape[0], 4, 4, 4)) < 0.6
  column = lambda x: jnp.full((num_rays, 1), x, jnp.float32)
  return (
      origins,
      low,
      directions,
      column(0.1),
      column(20.0),
      column(0.0),
      column(0.05),
      jnp.asarray(rng.uniform(size=(num_rays, 1)), jnp.float32),
      jnp.asarray([0.9, 0.6, 0.3], jnp.float32),
      children,
      slot_of_node,
      occupancy.pack_occupancy(full),
  ), dict(
      root_side=17.0,
      min_step=0.1,
      step_slope=0.02,
      max_steps=200,
      max_samples_per_ray=40,
      capacity=num_rays * 40,
  )


def _self_test() -> None:
  arrays, rule = example()
  want = xla.traverse(*arrays, **rule)
  got = traverse(*arrays, **rule)
  # An interval whose middle lies on a face may fall to either side of it.
  counts = [np.diff(np.asarray(x[0])) for x in (got, want)]
  same = counts[0] == counts[1]
  assert same.mean() > 0.5, "traverse: numbers of samples differ"
  mine = [np.isin(np.asarray(x[1]), np.flatnonzero(same)) for x in (got, want)]
  for a, b in zip(got[2:4], want[2:4]):
    a, b = np.asarray(a)[mine[0]], np.asarray(b)[mine[1]]
    close = np.isclose(a, b, rtol=1e-4, atol=1e-4)
    assert close.mean() > 0.98, "traverse: distances differ"
