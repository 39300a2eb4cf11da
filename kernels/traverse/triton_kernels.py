"""Body of the Triton kernel of the traversal (import needs triton)."""

import triton
import triton.language as tl

from kernels.locate import triton_kernels as descent

BRICK = tl.constexpr(4)  # occupancy.BRICK


@triton.jit
def _distance(step, near, far, start, bent, MIN_STEP, GROWTH):
  """comb.distance; GROWTH is log(1 + step_slope)."""
  t = near + step * MIN_STEP
  if GROWTH > 0:
    grown = start * tl.exp(tl.maximum(step - bent, 0.0) * GROWTH)
    t = tl.where(step <= bent, t, grown)
  return tl.minimum(tl.maximum(t, near), far)


@triton.jit
def _steps_to(t, near, start, bent, MIN_STEP, GROWTH):
  """comb.steps_to."""
  step = (t - near) / MIN_STEP
  if GROWTH > 0:
    grown = bent + tl.log(tl.maximum(t, start) / start) / GROWTH
    step = tl.where(t <= start, step, grown)
  return step


@triton.jit
def _cell(x):
  """Cell of a node's brick along an axis."""
  return tl.minimum(tl.maximum(tl.floor(x * BRICK).to(tl.int32), 0), BRICK - 1)


@triton.jit
def _leave(x, d, metres):
  """Metres along the ray to the far face of the brick's cell."""
  face = (_cell(x) + (d > 0).to(tl.int32)).to(tl.float32) / BRICK
  length = (face - x) * metres / tl.where(d == 0, 1.0, d)
  return tl.where(d == 0, float("inf"), length)


@triton.jit
def word_place(node, bit):
  """Place of a node's word of occupancy; 2^30 nodes are beyond int32."""
  return 2 * node.to(tl.int64) + (bit >> 5)


@triton.jit
def child_place(node, octant):
  """Place of a node's child; 2^28 nodes are beyond int32."""
  return 8 * node.to(tl.int64) + octant


@triton.jit
def _full(words, node, x, y, z, mask):
  """Whether the occupancy of the cell that holds a sample is set."""
  bit = 16 * _cell(x) + 4 * _cell(y) + _cell(z)
  word = tl.load(words + word_place(node, bit), mask=mask, other=0)
  return ((word >> (bit & 31)) & 1) == 1


@triton.jit
def _node_of(
    ray,
    t,
    base,
    slope,
    going,
    level_footprints,
    children,
    slot_of_node,
    words,
    MAX_LEVEL: tl.constexpr,
    ROOT_SIDE: tl.constexpr,
    OCCUPANCY: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Node, slot and position of a sample; metres to which space is empty.

  The last is -inf where the sample's space is not empty.
  """
  ox, oy, oz, lx, ly, lz, dx, dy, dz = ray
  cx = tl.zeros([BLOCK], tl.int32)
  cy, cz, node, best = cx, cx, cx, cx
  empty_to = tl.full([BLOCK], float("-inf"), tl.float32)
  x = descent.local(ox, lx, dx, t, cx, 1.0, ROOT_SIDE)
  y = descent.local(oy, ly, dy, t, cy, 1.0, ROOT_SIDE)
  z = descent.local(oz, lz, dz, t, cz, 1.0, ROOT_SIDE)
  best_x, best_y, best_z = descent.contract(x, y, z)
  slot = tl.load(slot_of_node + cx, mask=going, other=-1)
  going = going & (x >= 0) & (x < 1) & (y >= 0) & (y < 1) & (z >= 0) & (z < 1)
  footprint = base + t * slope
  at = 0
  scale = 1.0
  entered = float("inf")
  while (at <= MAX_LEVEL) & (tl.max(going.to(tl.int32), 0) > 0):
    if OCCUPANCY:
      full = _full(words, node, x, y, z, going)
      metres = ROOT_SIDE / scale
      length = tl.minimum(_leave(x, dx, metres), _leave(y, dy, metres))
      length = tl.minimum(length, _leave(z, dz, metres))
      leave = t + tl.maximum(length, 0.0)
      # Farther samples of the cell may stop at a coarser node that is full.
      coarser = (entered - base) / tl.where(slope > 0, slope, 1.0)
      coarser = tl.where(slope > 0, coarser, float("inf"))
      leave = tl.minimum(leave, coarser)
      empty_to = tl.where(going & (full == 0), leave, empty_to)
      going = going & full
    if at > 0:
      resident = tl.load(slot_of_node + node, mask=going, other=-1)
      here = going & (resident >= 0)
      best = tl.where(here, node, best)
      slot = tl.where(here, resident, slot)
      best_x = tl.where(here, descent.unit(x), best_x)
      best_y = tl.where(here, descent.unit(y), best_y)
      best_z = tl.where(here, descent.unit(z), best_z)
    finest = tl.load(level_footprints + at, mask=at < MAX_LEVEL, other=0.0)
    entered = tl.minimum(entered, finest)
    going = going & (footprint < entered)
    ux = (x >= 0.5).to(tl.int32)
    uy = (y >= 0.5).to(tl.int32)
    uz = (z >= 0.5).to(tl.int32)
    path = child_place(node, ux * 4 + uy * 2 + uz)
    child = tl.load(children + path, mask=going, other=-1)
    going = going & (child >= 0)
    node = tl.where(going, child, node)
    cx = tl.where(going, 2 * cx + ux, cx)
    cy = tl.where(going, 2 * cy + uy, cy)
    cz = tl.where(going, 2 * cz + uz, cz)
    at += 1
    scale *= 2.0
    x = tl.where(going, descent.local(ox, lx, dx, t, cx, scale, ROOT_SIDE), x)
    y = tl.where(going, descent.local(oy, ly, dy, t, cy, scale, ROOT_SIDE), y)
    z = tl.where(going, descent.local(oz, lz, dz, t, cz, scale, ROOT_SIDE), z)
  return best, slot, best_x, best_y, best_z, empty_to


@triton.jit
def _vectors(origins, origins_lo, directions, ray, live):
  """Origins, their low parts and directions of rays, by components."""
  at = 3 * ray.to(tl.int64)
  return (
      tl.load(origins + at, mask=live, other=0.0),
      tl.load(origins + at + 1, mask=live, other=0.0),
      tl.load(origins + at + 2, mask=live, other=0.0),
      tl.load(origins_lo + at, mask=live, other=0.0),
      tl.load(origins_lo + at + 1, mask=live, other=0.0),
      tl.load(origins_lo + at + 2, mask=live, other=0.0),
      tl.load(directions + at, mask=live, other=0.0),
      tl.load(directions + at + 1, mask=live, other=0.0),
      tl.load(directions + at + 2, mask=live, other=0.0),
  )


@triton.jit
def traverse(
    origins,
    origins_lo,
    directions,
    near_of,
    far_of,
    base_radius,
    cone_slope,
    phase_of,
    level_footprints,
    children,
    slot_of_node,
    words,
    ray_offsets,
    num_rays,
    capacity,
    count_of,
    reached,
    ray_idx,
    t_of,
    delta_of,
    slot_of,
    node_of,
    position_of,
    WRITE: tl.constexpr,
    OCCUPANCY: tl.constexpr,
    MAX_LEVEL: tl.constexpr,
    ROOT_SIDE: tl.constexpr,
    MIN_STEP: tl.constexpr,
    STEP_SLOPE: tl.constexpr,
    GROWTH: tl.constexpr,
    MARGIN: tl.constexpr,
    MAX_STEPS: tl.constexpr,
    MAX_SAMPLES: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """One lane a ray. Without WRITE counts samples, with it places them.

  Two passes need no buffer of the largest size; the walk costs less than
  moving its samples would.
  """
  row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
  live = row < num_rays
  ray = _vectors(origins, origins_lo, directions, row, live)
  near = tl.load(near_of + row, mask=live, other=0.0)
  far = tl.load(far_of + row, mask=live, other=0.0)
  base = tl.load(base_radius + row, mask=live, other=0.0)
  slope = tl.load(cone_slope + row, mask=live, other=0.0)
  phase = tl.load(phase_of + row, mask=live, other=0.0)
  start, bent = near, near
  if GROWTH > 0:
    start = tl.maximum(near, MIN_STEP / STEP_SLOPE)
    bent = (start - near) / MIN_STEP
  first = tl.zeros([BLOCK], tl.int32)
  if WRITE:
    first = tl.load(ray_offsets + row, mask=live, other=0)
  k = tl.zeros([BLOCK], tl.int32)
  count = tl.zeros([BLOCK], tl.int32)
  t0 = _distance(-phase, near, far, start, bent, MIN_STEP, GROWTH)
  walking = live & (t0 < far)
  while tl.max(walking.to(tl.int32), 0) > 0:
    step = k.to(tl.float32) - phase
    t0 = _distance(step, near, far, start, bent, MIN_STEP, GROWTH)
    t1 = _distance(step + 1, near, far, start, bent, MIN_STEP, GROWTH)
    t = 0.5 * (t0 + t1)
    node, slot, x, y, z, empty_to = _node_of(
        ray,
        t,
        base,
        slope,
        walking,
        level_footprints,
        children,
        slot_of_node,
        words,
        MAX_LEVEL,
        ROOT_SIDE,
        OCCUPANCY,
        BLOCK,
    )
    empty = empty_to > float("-inf")
    kept = walking & (t1 > t0) & (slot >= 0) & (empty == 0)
    if WRITE:
      at = (first + count).to(tl.int64)
      put = kept & (at < capacity)
      tl.store(ray_idx + at, row, mask=put)
      tl.store(t_of + at, t, mask=put)
      tl.store(delta_of + at, t1 - t0, mask=put)
      tl.store(slot_of + at, slot, mask=put)
      tl.store(node_of + at, node, mask=put)
      tl.store(position_of + 3 * at, x, mask=put)
      tl.store(position_of + 3 * at + 1, y, mask=put)
      tl.store(position_of + 3 * at + 2, z, mask=put)
    count += kept.to(tl.int32)
    leap = k + 1
    if OCCUPANCY:
      far_step = _steps_to(empty_to, near, start, bent, MIN_STEP, GROWTH)
      far_step = tl.floor(far_step + phase - MARGIN)
      # Held before it becomes an integer: it may be infinite.
      far_step = tl.minimum(tl.maximum(far_step, 0.0), MAX_STEPS)
      leap = tl.where(empty, tl.maximum(leap, far_step.to(tl.int32)), leap)
    k = tl.where(walking, leap, k)
    k = tl.minimum(k, MAX_STEPS)
    next_step = k.to(tl.float32) - phase
    t0 = _distance(next_step, near, far, start, bent, MIN_STEP, GROWTH)
    walking = walking & (k < MAX_STEPS) & (count < MAX_SAMPLES) & (t0 < far)
  if WRITE == 0:
    tl.store(count_of + row, count, mask=live)
    tl.store(reached + row, t0, mask=live)
