"""Body of the Triton kernel of the octree descent (import needs triton).

One lane a sample. Mirrors the reference: a coordinate is formed anew at every
level from the ray, origins * 2^L - cell being exact where it is small.
"""

import triton
import triton.language as tl


@triton.jit
def contract(x, y, z):
  """Root coordinates to [0, 1]: L-infinity contraction, doubled box."""
  u, v, w = (x - 0.5) * 2, (y - 0.5) * 2, (z - 0.5) * 2
  m = tl.maximum(tl.maximum(tl.abs(u), tl.abs(v)), tl.abs(w))
  m = tl.maximum(m, 1.0)
  factor = 2 - 1 / m
  return (
      (factor * u / m + 2) * 0.25,
      (factor * v / m + 2) * 0.25,
      (factor * w / m + 2) * 0.25,
  )


@triton.jit
def local(o, lo, d, t, cell, scale, ROOT_SIDE: tl.constexpr):
  """A coordinate at t metres in the cell's own unit; scale is 2^level."""
  near = (o * scale - cell.to(tl.float32)) + lo * scale
  return near + t * (scale / ROOT_SIDE) * d


@triton.jit
def unit(x):
  """Holds a coordinate in its box, which rounding at a face may leave."""
  return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def locate(
    origins,
    origins_lo,
    directions,
    t,
    target_level,
    children,
    slot_of_node,
    num_samples,
    samples_per_ray,
    node_id,
    slot,
    level,
    position,
    MAX_LEVEL: tl.constexpr,
    ROOT_SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Node, slot, level [S] and position [S, 3] of every sample."""
  sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
  live = sample < num_samples
  ray = sample // samples_per_ray * 3
  ox = tl.load(origins + ray, mask=live, other=0.0)
  oy = tl.load(origins + ray + 1, mask=live, other=0.0)
  oz = tl.load(origins + ray + 2, mask=live, other=0.0)
  lx = tl.load(origins_lo + ray, mask=live, other=0.0)
  ly = tl.load(origins_lo + ray + 1, mask=live, other=0.0)
  lz = tl.load(origins_lo + ray + 2, mask=live, other=0.0)
  dx = tl.load(directions + ray, mask=live, other=0.0)
  dy = tl.load(directions + ray + 1, mask=live, other=0.0)
  dz = tl.load(directions + ray + 2, mask=live, other=0.0)
  time = tl.load(t + sample, mask=live, other=0.0)
  target = tl.load(target_level + sample, mask=live, other=0)

  cx = tl.zeros([BLOCK], tl.int32)
  cy, cz, node = cx, cx, cx
  best, best_level = cx, cx
  x = local(ox, lx, dx, time, cx, 1.0, ROOT_SIDE)
  y = local(oy, ly, dy, time, cy, 1.0, ROOT_SIDE)
  z = local(oz, lz, dz, time, cz, 1.0, ROOT_SIDE)
  best_x, best_y, best_z = contract(x, y, z)
  best_slot = tl.load(slot_of_node + cx, mask=live, other=-1)
  going = live & (x >= 0) & (x < 1) & (y >= 0) & (y < 1) & (z >= 0) & (z < 1)
  going = going & (target >= 1)
  at = 1
  scale = 1.0
  while (at <= MAX_LEVEL) & (tl.max(going.to(tl.int32), 0) > 0):
    scale *= 2.0
    ux = (x >= 0.5).to(tl.int32)
    uy = (y >= 0.5).to(tl.int32)
    uz = (z >= 0.5).to(tl.int32)
    path = node.to(tl.int64) * 8 + (ux * 4 + uy * 2 + uz)
    child = tl.load(children + path, mask=going, other=-1)
    going = going & (child >= 0)
    node = tl.where(going, child, node)
    cx = tl.where(going, 2 * cx + ux, cx)
    cy = tl.where(going, 2 * cy + uy, cy)
    cz = tl.where(going, 2 * cz + uz, cz)
    x = tl.where(going, local(ox, lx, dx, time, cx, scale, ROOT_SIDE), x)
    y = tl.where(going, local(oy, ly, dy, time, cy, scale, ROOT_SIDE), y)
    z = tl.where(going, local(oz, lz, dz, time, cz, scale, ROOT_SIDE), z)
    resident = tl.load(slot_of_node + node, mask=going, other=-1)
    here = going & (resident >= 0)
    best = tl.where(here, node, best)
    best_slot = tl.where(here, resident, best_slot)
    best_level = tl.where(here, at, best_level)
    best_x = tl.where(here, unit(x), best_x)
    best_y = tl.where(here, unit(y), best_y)
    best_z = tl.where(here, unit(z), best_z)
    at += 1
    going = going & (target >= at)

  tl.store(node_id + sample, best, mask=live)
  tl.store(slot + sample, best_slot, mask=live)
  tl.store(level + sample, best_level, mask=live)
  tl.store(position + 3 * sample, best_x, mask=live)
  tl.store(position + 3 * sample + 1, best_y, mask=live)
  tl.store(position + 3 * sample + 2, best_z, mask=live)
