"""Traversal shaped for XLA: all rays walk together, leaping over empty cells.

A ray's samples gather in rows of [R, max_samples_per_ray], packed at the end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.locate import reference as locate_reference
from kernels.traverse import comb, occupancy


class _Rays(NamedTuple):
  """Per ray [R, 3] and [R]."""

  origin: jax.Array
  low: jax.Array
  direction: jax.Array
  near: jax.Array
  far: jax.Array
  base_radius: jax.Array
  cone_slope: jax.Array
  phase: jax.Array


class _Tree(NamedTuple):
  children: jax.Array
  slot_of_node: jax.Array
  words: jax.Array | None
  level_footprints: jax.Array
  root_side: float


class _Place(NamedTuple):
  """Where the descent of [R] samples stands, and the best node so far."""

  going: jax.Array
  node: jax.Array
  cell: jax.Array
  skip_to: jax.Array  # metres; -inf where nothing was found empty
  best: tuple[jax.Array, ...]  # node, slot, position


def _empty_until(x, t, direction, metres, occupied, node, words):
  """Distance at which samples in an empty cell leave it, else -inf."""
  brick = jnp.floor(x * occupancy.BRICK).astype(jnp.int32)
  brick = jnp.clip(brick, 0, occupancy.BRICK - 1)
  bit = jnp.sum(brick * jnp.array([16, 4, 1]), axis=-1)
  full = (words[node, bit >> 5] >> (bit & 31)) & 1 == 1
  face = (brick + (direction > 0)) / occupancy.BRICK
  length = (face - x) * metres / jnp.where(direction == 0, 1.0, direction)
  length = jnp.min(jnp.where(direction == 0, jnp.inf, length), axis=-1)
  leave = t + jnp.maximum(length, 0.0)
  return jnp.where(occupied & ~full, leave, -jnp.inf)


def _coarser_from(rays: _Rays, finest):
  """Distance from which footprints are not below `finest` any more."""
  flat = rays.cone_slope <= 0
  slope = jnp.where(flat, 1.0, rays.cone_slope)
  return jnp.where(flat, jnp.inf, (finest - rays.base_radius) / slope)


def _descend(rays: _Rays, tree: _Tree, t) -> _Place:
  """Nodes of one sample a ray at t [R]."""
  max_level = tree.level_footprints.shape[0]
  footprint = rays.base_radius + t * rays.cone_slope
  # entered[l]: footprints below it enter level l.
  entered = jnp.minimum.accumulate(tree.level_footprints)
  entered = jnp.concatenate([jnp.full(1, jnp.inf), entered])

  def local(level, cell):
    scale = jnp.left_shift(1, level).astype(jnp.float32)
    x = rays.origin * scale - cell.astype(jnp.float32) + rays.low * scale
    return x + t[:, None] * (scale / tree.root_side) * rays.direction

  def visit(level, at: _Place):
    x = local(level, at.cell)
    going, skip_to = at.going, at.skip_to
    if tree.words is not None:
      metres = tree.root_side / jnp.left_shift(1, level).astype(jnp.float32)
      leave = _empty_until(
          x, t, rays.direction, metres, going, at.node, tree.words
      )
      # Farther samples of the cell may stop at a coarser node that is full.
      leave = jnp.minimum(leave, _coarser_from(rays, entered[level]))
      skip_to = jnp.maximum(skip_to, leave)
      going &= leave == -jnp.inf
    slot = tree.slot_of_node[at.node]
    here = going & (slot >= 0) & (level > 0)
    position = jnp.clip(x, 0.0, 1.0)
    best = tuple(
        jnp.where(here[:, None] if new.ndim == 2 else here, new, old)
        for new, old in zip((at.node, slot, position), at.best)
    )
    upper = (x >= 0.5).astype(jnp.int32)
    octant = jnp.sum(upper * jnp.array([4, 2, 1]), axis=-1)
    child = tree.children[at.node, octant]
    going &= (level < max_level) & (child >= 0)
    going &= footprint < entered[jnp.minimum(level + 1, max_level)]
    cell = jnp.where(going[:, None], 2 * at.cell + upper, at.cell)
    node = jnp.where(going, child, at.node)
    return _Place(going, node, cell, skip_to, best)

  zero = jnp.zeros(t.shape, jnp.int32)
  cell = jnp.zeros(t.shape + (3,), jnp.int32)
  x = local(0, cell)
  root = (zero, zero + tree.slot_of_node[0], locate_reference.contract(x))
  state = _Place(
      going=jnp.all((x >= 0) & (x < 1), axis=-1),
      node=zero,
      cell=cell,
      skip_to=jnp.full(t.shape, -jnp.inf),
      best=root,
  )
  return jax.lax.fori_loop(0, max_level + 1, visit, state)


def _walk(rays: _Rays, tree: _Tree, *, rule, max_steps, max_samples):
  """Rows of samples [R, max_samples], counts [R] and distances reached [R]."""
  num_rays = rays.near.shape[0]
  row = jnp.arange(num_rays)
  ends = lambda k: comb.distance(
      k.astype(jnp.float32) - rays.phase, rays.near, rays.far, **rule
  )

  def alive(k, count):
    return (k < max_steps) & (count < max_samples) & (ends(k) < rays.far)

  def step(state):
    k, count, rows = state
    walking = alive(k, count)
    t0, t1 = ends(k), ends(k + 1)
    t = 0.5 * (t0 + t1)
    place = _descend(rays, tree, t)
    kept = walking & (t1 > t0) & (place.best[1] >= 0)
    kept &= place.skip_to == -jnp.inf
    at = jnp.where(kept, count, max_samples)
    new = (t, t1 - t0, place.best[1], place.best[0], place.best[2])
    rows = tuple(
        r.at[row, at].set(x, mode="drop", unique_indices=True)
        for r, x in zip(rows, new)
    )
    leap = comb.steps_to(place.skip_to, rays.near, **rule)
    leap = jnp.floor(leap + rays.phase - comb.MARGIN)
    leap = jnp.clip(leap, 0, max_steps).astype(jnp.int32)
    k = jnp.where(walking, jnp.maximum(k + 1, leap), k)
    return k, count + kept, rows

  shape = (num_rays, max_samples)
  rows = (
      jnp.zeros(shape),
      jnp.zeros(shape),
      jnp.full(shape, -1, jnp.int32),
      jnp.zeros(shape, jnp.int32),
      jnp.zeros(shape + (3,)),
  )
  zero = jnp.zeros(num_rays, jnp.int32)
  k, count, rows = jax.lax.while_loop(
      lambda s: jnp.any(alive(s[0], s[1])), step, (zero, zero, rows)
  )
  return rows, count, ends(jnp.minimum(k, max_steps))


def offsets_of(counts, capacity: int):
  """[R + 1] first place of each ray's samples, at most capacity; and total."""
  ends = jnp.cumsum(counts, dtype=jnp.int32)
  offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
  return jnp.minimum(offsets, capacity), offsets[-1]


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
  column = lambda x: x[:, 0]
  rays = _Rays(
      origins,
      origins_lo,
      directions,
      *(column(a) for a in (near, far, base_radius, cone_slope, phase)),
  )
  tree = _Tree(children, slot_of_node, words, level_footprints, root_side)
  rows, counts, reached = _walk(
      rays,
      tree,
      rule=dict(min_step=min_step, step_slope=step_slope),
      max_steps=max_steps,
      max_samples=max_samples_per_ray,
  )
  offsets, total = offsets_of(counts, capacity)
  place = jnp.arange(capacity, dtype=jnp.int32)
  ray = jnp.searchsorted(offsets, place, side="right").astype(jnp.int32) - 1
  real = place < offsets[-1]
  ray = jnp.where(real, ray, 0)
  rank = jnp.where(real, place - offsets[ray], 0)

  def pack(x, fill):
    keep = real[:, None] if x.ndim == 3 else real
    return jnp.where(keep, x[ray, rank], fill)

  t, delta, slot, node, position = rows
  return (
      offsets,
      jnp.where(real, ray, -1),
      pack(t, 0.0),
      pack(delta, 0.0),
      pack(slot, -1),
      pack(node, 0),
      pack(position, 0.0),
      reached,
      total,
  )
