"""Plain jnp traversal: every interval of every ray is looked at.

Memory is R x max_steps: for tests only.
"""

import jax
import jax.numpy as jnp

from kernels.locate import reference as locate_reference
from kernels.traverse import comb, occupancy


def _target_level(footprint, level_footprints):
  """[...] deepest level all of whose footprints are larger."""
  smaller = footprint[..., None] < level_footprints
  return jnp.sum(jnp.cumprod(smaller.astype(jnp.int32), axis=-1), axis=-1)


def _occupied(rays, t, target, children, words, root_side):
  """[R, K] whether every node on a sample's path holds something there."""
  o, lo, d = (a[:, None, :] for a in rays)

  def visit(level, state):
    going, node, cell, kept = state
    scale = jnp.left_shift(1, level).astype(jnp.float32)
    x = (o * scale - cell.astype(jnp.float32)) + lo * scale
    x = x + t[..., None] * (scale / root_side) * d
    brick = jnp.floor(x * occupancy.BRICK).astype(jnp.int32)
    brick = jnp.clip(brick, 0, occupancy.BRICK - 1)
    bit = jnp.sum(brick * jnp.array([16, 4, 1]), axis=-1)
    word = words[node, bit >> 5]
    kept &= ~going | ((word >> (bit & 31)) & 1 == 1)
    upper = (x >= 0.5).astype(jnp.int32)
    child = children[node, jnp.sum(upper * jnp.array([4, 2, 1]), axis=-1)]
    going &= (child >= 0) & (target > level)
    cell = jnp.where(going[..., None], 2 * cell + upper, cell)
    return going, jnp.where(going, child, node), cell, kept

  x = o + lo + t[..., None] * (1 / root_side) * d
  going = jnp.all((x >= 0) & (x < 1), axis=-1)
  zero = jnp.zeros(t.shape, jnp.int32)
  cell = jnp.zeros(t.shape + (3,), jnp.int32)
  state = (going, zero, cell, jnp.ones(t.shape, bool))
  num_levels = jnp.max(target, initial=0) + 1
  return jax.lax.fori_loop(0, num_levels, visit, state)[3]


def traverse(
    origins,
    origins_lo,
    directions,
    near,
    far,
    base_radius,
    cone_slope,
    phase,
    level_footprints,
    children,
    slot_of_node,
    words,
    *,
    root_side: float,
    min_step: float,
    step_slope: float,
    max_steps: int,
    max_samples_per_ray: int,
    capacity: int,
):
  """See api.traverse; words None: nothing is empty."""
  rule = dict(min_step=min_step, step_slope=step_slope)
  num_rays = near.shape[0]
  k = jnp.arange(max_steps + 1, dtype=jnp.float32)
  ends = comb.distance(k - phase, near, far, **rule)  # [R, max_steps + 1]
  t = 0.5 * (ends[:, 1:] + ends[:, :-1])
  delta = ends[:, 1:] - ends[:, :-1]
  target = _target_level(base_radius + t * cone_slope, level_footprints)
  rays = (origins, origins_lo, directions)
  node, slot, _, position = locate_reference.locate(
      *rays,
      t,
      target,
      children,
      slot_of_node,
      root_side=root_side,
      max_level=level_footprints.shape[0],
  )
  kept = (delta > 0) & (slot >= 0)
  if words is not None:
    kept &= _occupied(rays, t, target, children, words, root_side)
  rank = jnp.cumsum(kept, axis=-1)  # the first kept interval has rank 1
  kept &= rank <= max_samples_per_ray
  full = rank == max_samples_per_ray
  stop = jnp.where(full.any(axis=-1), jnp.argmax(full, axis=-1) + 1, max_steps)[
      :, None
  ]
  reached = jnp.take_along_axis(ends, stop, axis=-1)[:, 0]
  counts = jnp.sum(kept, axis=-1, dtype=jnp.int32)
  total = jnp.sum(counts)
  offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts)])
  place = jnp.where(kept, offsets[:-1, None] + rank - 1, capacity)
  ray_idx = jnp.broadcast_to(jnp.arange(num_rays)[:, None], t.shape)

  def pack(x, fill):
    out = jnp.full((capacity,) + x.shape[2:], fill, x.dtype)
    return out.at[place].set(x, mode="drop")

  return (
      jnp.minimum(offsets, capacity).astype(jnp.int32),
      pack(ray_idx.astype(jnp.int32), -1),
      pack(t, 0.0),
      pack(delta, 0.0),
      pack(slot, -1),
      pack(node, 0),
      pack(position, 0.0),
      reached,
      total,
  )
