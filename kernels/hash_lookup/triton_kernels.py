"""Triton kernels of the hash grid (import needs triton)."""

import triton
import triton.language as tl

LAYOUT_WIDTH = tl.constexpr(6)  # int32 a grid scale, see layout()


@triton.jit
def flat_row(slot, row, num_rows):
  """Row of the stacked tables: their number may exceed int32."""
  return slot.to(tl.int64) * num_rows + row


@triton.jit
def is_root(slot, tree_slots, BATCHED: tl.constexpr):
  """Slot 0 of every tree; trees are stacked by vmap."""
  if BATCHED:
    return slot % tree_slots == 0
  else:
    return slot == 0


@triton.jit
def axis_cell(position, sample, axis, live, resolution):
  """Cell along an axis and the fraction within it."""
  at = position + sample.to(tl.int64) * 3 + axis
  scaled = tl.load(at, mask=live, other=0.0) * resolution.to(tl.float32)
  # Holds NaN and infinity within the grid: a GPU does not clamp addresses.
  last = (resolution - 1).to(tl.float32)
  cell = tl.minimum(tl.maximum(tl.floor(scaled), 0.0), last)
  return cell.to(tl.int32).to(tl.uint32), scaled - cell


@triton.jit
def cells(position, sample, slot, live, layout, tree_slots, BATCHED):
  """Cell, fraction and indexing of a scale whose row of `layout` is given."""
  root = is_root(slot, tree_slots, BATCHED)
  resolution = tl.where(root, tl.load(layout), tl.load(layout + 1))
  dense = tl.where(root, tl.load(layout + 4), tl.load(layout + 5)) != 0
  x, u = axis_cell(position, sample, 0, live, resolution)
  y, v = axis_cell(position, sample, 1, live, resolution)
  z, w = axis_cell(position, sample, 2, live, resolution)
  return x, y, z, u, v, w, resolution, dense


@triton.jit
def corner_row(x, y, z, resolution, dense, layout):
  """Row within a node's table of the corner (x, y, z), all uint32."""
  num_rows = tl.load(layout + 3).to(tl.uint32)
  stride = (resolution + 1).to(tl.uint32)
  hashed = x ^ (y * 2654435761) ^ (z * 805459861)
  if (num_rows & (num_rows - 1)) == 0:  # division is slow
    hashed = hashed & (num_rows - 1)
  else:
    hashed = hashed % num_rows
  row = tl.where(dense, x + stride * (y + stride * z), hashed)
  return row.to(tl.int32) + tl.load(layout + 2)


@triton.jit
def lookup(
    table,
    position,
    slot,
    layout,
    num_samples,
    num_slots,
    num_rows,
    tree_slots,
    features,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """features [L, S, F]; one grid scale a program along axis 1."""
  grid_scale = tl.program_id(1)
  layout += grid_scale * LAYOUT_WIDTH
  sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
  inside = sample < num_samples
  node = tl.load(slot + sample, mask=inside, other=-1)
  live = (node >= 0) & (node < num_slots)
  x, y, z, u, v, w, resolution, dense = cells(
      position, sample, node, live, layout, tree_slots, BATCHED
  )
  # All features of a row in one access.
  f = tl.arange(0, WIDTH)[None, :]
  total = tl.zeros((BLOCK, WIDTH), tl.float32)
  for corner in tl.static_range(8):
    dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
    row = corner_row(x + dx, y + dy, z + dz, resolution, dense, layout)
    weight = (u if dx else 1 - u) * (v if dy else 1 - v)
    weight *= w if dz else 1 - w
    at = flat_row(node, row, num_rows)
    value = tl.load(
        table + at[:, None] * F + f, mask=live[:, None] & (f < F), other=0.0
    )
    total += tl.where(live, weight, 0.0)[:, None] * value.to(tl.float32)
  out = (grid_scale.to(tl.int64) * num_samples + sample)[:, None] * F + f
  tl.store(features + out, total, mask=inside[:, None] & (f < F))


@triton.jit
def position_gradient(
    table,
    position,
    slot,
    feature_grad,
    layout,
    num_samples,
    num_slots,
    num_rows,
    tree_slots,
    gradient,
    NUM_SCALES: tl.constexpr,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """gradient [S, 3]; a program sums over all grid scales, in order."""
  sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
  inside = sample < num_samples
  node = tl.load(slot + sample, mask=inside, other=-1)
  live = (node >= 0) & (node < num_slots)
  f = tl.arange(0, WIDTH)[None, :]
  wanted = live[:, None] & (f < F)
  of_sample = sample.to(tl.int64)[:, None] * F + f
  gx = tl.zeros((BLOCK,), tl.float32)
  gy = tl.zeros((BLOCK,), tl.float32)
  gz = tl.zeros((BLOCK,), tl.float32)
  for grid_scale in range(NUM_SCALES):
    at_scale = layout + grid_scale * LAYOUT_WIDTH
    x, y, z, u, v, w, resolution, dense = cells(
        position, sample, node, live, at_scale, tree_slots, BATCHED
    )
    grad = tl.load(feature_grad + of_sample, mask=wanted, other=0.0)
    # Scale by scale: scale times samples may exceed int32. As a product with F,
    # which says that pairs stay aligned.
    feature_grad += num_samples * F
    factor = resolution.to(tl.float32)
    for corner in tl.static_range(8):
      dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
      row = corner_row(x + dx, y + dy, z + dz, resolution, dense, at_scale)
      at = flat_row(node, row, num_rows)
      value = tl.load(table + at[:, None] * F + f, mask=wanted, other=0.0)
      along = tl.sum(value.to(tl.float32) * grad, axis=1) * factor
      wx, wy, wz = u if dx else 1 - u, v if dy else 1 - v, w if dz else 1 - w
      gx += (along if dx else -along) * wy * wz
      gy += (along if dy else -along) * wx * wz
      gz += (along if dz else -along) * wx * wy
  out = gradient + sample.to(tl.int64) * 3
  tl.store(out, tl.where(live, gx, 0.0), mask=inside)
  tl.store(out + 1, tl.where(live, gy, 0.0), mask=inside)
  tl.store(out + 2, tl.where(live, gz, 0.0), mask=inside)
