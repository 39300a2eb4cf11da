"""Triton kernels of the node field's MLPs (import needs triton).

A program owns a block of samples of one slot and multiplies them with that
slot's weights on tensor cores. Samples are sorted by slot; a block's lie at
`block_first` and `block_count` of them there, and `order` says which samples
they are. Blocks of slot -1 hold samples to skip, and write zeros.

Widths are padded to powers of two, at least 16, by masked loads. The density
layer's outputs meet the colour layer as they are: the raw density, output 0,
meets a row of zeros.
"""

import triton
import triton.language as tl

from kernels.hash_lookup.triton_kernels import LAYOUT_WIDTH


@triton.jit
def product(a, b, TYPE: tl.constexpr, PRECISION: tl.constexpr):
  """Product of inputs rounded to TYPE, summed in float32."""
  if TYPE == "float16":
    return tl.dot(a.to(tl.float16), b.to(tl.float16))
  elif TYPE == "bfloat16":
    return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
  else:
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _tile(
    slot,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    COLS_PAD: tl.constexpr,
    COLUMN: tl.constexpr = 0,
):
  """Places and mask of a padded weight tile.

  Tile row SKIP is the matrix's row FIRST; ROWS of them exist. SIZE: elements
  of a slot. The first column is COLUMN of the matrix's COLS.
  """
  r = tl.arange(0, ROWS_PAD)[:, None]
  c = COLUMN + tl.arange(0, COLS_PAD)[None, :]
  inside = (r >= SKIP) & (r < SKIP + ROWS) & (c < COLS)
  return slot.to(tl.int64) * SIZE + (r - SKIP + FIRST) * COLS + c, inside


@triton.jit
def load_tile(
    weights,
    slot,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    COLS_PAD: tl.constexpr,
    COLUMN: tl.constexpr = 0,
):
  """A padded tile of a slot's weights, zeros where the matrix is not."""
  at, inside = _tile(
      slot, SIZE, FIRST, SKIP, ROWS, COLS, ROWS_PAD, COLS_PAD, COLUMN
  )
  return tl.load(weights + at, mask=inside, other=0.0)


@triton.jit
def store_tile(
    out,
    value,
    block,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    COLS_PAD: tl.constexpr,
):
  """Stores a padded tile as a block's part of a gradient, see `load_tile`."""
  at, inside = _tile(block, SIZE, FIRST, SKIP, ROWS, COLS, ROWS_PAD, COLS_PAD)
  tl.store(out + at, value, mask=inside)


@triton.jit
def take_block(
    block_slot, block_first, block_count, order, BLOCK: tl.constexpr
):
  """Slot, places in sorted order, samples and which of them exist."""
  program = tl.program_id(0)
  slot = tl.load(block_slot + program)
  row = tl.arange(0, BLOCK)
  live = row < tl.load(block_count + program)
  rank = tl.load(block_first + program) + row
  sample = tl.load(order + rank, mask=live, other=0).to(tl.int64)
  return slot, rank.to(tl.int64), sample, live


@triton.jit
def feature_places(
    features,
    place,
    live,
    num_samples,
    E: tl.constexpr,
    E_PAD: tl.constexpr,
    F: tl.constexpr,
):
  """Places and mask of [BLOCK, E_PAD] features, index l * F + f."""
  e = tl.arange(0, E_PAD)[None, :]
  scale = (e // F).to(tl.int64)
  at = features + (scale * num_samples + place[:, None]) * F + e % F
  return at, live[:, None] & (e < E)


@triton.jit
def _axis(position, axis, sample, live, resolution):
  """Cells along an axis and fractions in them [BLOCK, SCALES]."""
  x = tl.load(position + 3 * sample + axis, mask=live, other=0.0)[:, None]
  scaled = x * resolution.to(tl.float32)
  # Holds NaN and infinity within the grid: a GPU does not clamp addresses.
  last = (resolution - 1).to(tl.float32)
  cell = tl.minimum(tl.maximum(tl.floor(scaled), 0.0), last)
  return cell.to(tl.int32).to(tl.uint32), scaled - cell


@triton.jit
def _encode(
    table,
    position,
    layout,
    slot,
    sample,
    live,
    num_rows,
    tree_slots,
    first,
    L: tl.constexpr,
    F: tl.constexpr,
    SCALES: tl.constexpr,
    WIDTH: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Looks up grid scales `first` and on of a block [BLOCK, SCALES * WIDTH]."""
  scale = first + tl.arange(0, SCALES)
  known = scale < L
  line = layout + scale * LAYOUT_WIDTH
  other = tl.where(slot % tree_slots == 0, 0, 1)
  resolution = tl.load(line + other, mask=known, other=1)[None, :]
  start = tl.load(line + 2, mask=known, other=0)[None, :]
  rows = tl.load(line + 3, mask=known, other=1).to(tl.uint32)[None, :]
  dense = tl.load(line + 4 + other, mask=known, other=0)[None, :] != 0
  x, u = _axis(position, 0, sample, live, resolution)
  y, v = _axis(position, 1, sample, live, resolution)
  z, w = _axis(position, 2, sample, live, resolution)
  stride = (resolution + 1).to(tl.uint32)
  # All features of a row in one access.
  f = tl.arange(0, WIDTH)[None, None, :]
  wanted = (live[:, None] & known[None, :])[:, :, None] & (f < F)
  node = table + slot.to(tl.int64) * num_rows * F
  total = tl.zeros([BLOCK, SCALES, WIDTH], tl.float32)
  for corner in tl.static_range(8):
    dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
    i, j, k = x + dx, y + dy, z + dz
    hashed = i ^ (j * 2654435761) ^ (k * 805459861)
    if POWER_OF_TWO:
      hashed = hashed & (rows - 1)
    else:
      hashed = hashed % rows
    row = tl.where(dense, i + stride * (j + stride * k), hashed)
    row = (row.to(tl.int32) + start).to(tl.int64)
    weight = (u if dx else 1 - u) * (v if dy else 1 - v)
    weight *= w if dz else 1 - w
    value = tl.load(node + (row * F)[:, :, None] + f, mask=wanted, other=0.0)
    total += weight[:, :, None] * value.to(tl.float32)
  total = tl.where(wanted, total, 0.0)
  return tl.reshape(total, [BLOCK, SCALES * WIDTH])


@triton.jit
def _first_layer(
    features,
    position,
    layout,
    weights,
    slot,
    rank,
    sample,
    live,
    num_samples,
    num_rows,
    tree_slots,
    LOOKUP: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    L: tl.constexpr,
    F: tl.constexpr,
    SCALES: tl.constexpr,
    WIDTH: tl.constexpr,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Product of the encoded features and the first weights [BLOCK, H_PAD].

  SCALES grid scales at a time: what the lookup of 16 needs at once exceeds the
  registers. Unrolled, since a loop keeps more alive than one turn needs.
  """
  h = tl.arange(0, H_PAD)[None, :]
  column = tl.arange(0, SCALES * WIDTH)
  f = column % WIDTH
  total = tl.zeros([BLOCK, H_PAD], tl.float32)
  for first in tl.static_range(0, L, SCALES):
    scale = first + column // WIDTH
    known = (scale < L) & (f < F)
    if LOOKUP:
      x = _encode(
          features,
          position,
          layout,
          slot,
          sample,
          live,
          num_rows,
          tree_slots,
          first,
          L,
          F,
          SCALES,
          WIDTH,
          POWER_OF_TWO,
          BLOCK,
      )
    else:
      at = scale.to(tl.int64)[None, :] * num_samples + rank[:, None]
      at = features + at * F + f[None, :]
      x = tl.load(at, mask=live[:, None] & known[None, :], other=0.0)
    at = slot.to(tl.int64) * (L * F * H) + (scale * F + f)[:, None] * H + h
    w = tl.load(weights + at, mask=known[:, None] & (h < H), other=0.0)
    total += product(x, w, TYPE, PRECISION)
  return total


@triton.jit
def ray_rows(
    ray_inputs,
    ray_idx,
    sample,
    live,
    num_rays,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    COLUMN: tl.constexpr = 0,
):
  """Inputs [BLOCK, D_PAD] of the samples' rays; zeros out of range."""
  ray = tl.load(ray_idx + sample, mask=live, other=-1)
  d = COLUMN + tl.arange(0, D_PAD)[None, :]
  inside = ((ray >= 0) & (ray < num_rays))[:, None] & (d < D)
  at = ray_inputs + ray.to(tl.int64)[:, None] * D + d
  return tl.load(at, mask=inside, other=0.0)


@triton.jit
def field_forward(
    features,
    position,
    layout,
    density0,
    density1,
    color0,
    color1,
    color2,
    order,
    ray_idx,
    ray_inputs,
    block_slot,
    block_first,
    block_count,
    num_samples,
    num_rays,
    num_rows,
    tree_slots,
    raw,
    rgb,
    LOOKUP: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    COLOR: tl.constexpr,
    L: tl.constexpr,
    F: tl.constexpr,
    SCALES: tl.constexpr,
    WIDTH: tl.constexpr,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    H_PAD: tl.constexpr,
    H_PART: tl.constexpr,
    O_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    D_PART: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """raw [S] and, with COLOR, rgb [S, 3], in the samples' own order.

  With LOOKUP `features` is the table, else [L, S, F] in sorted order. The
  colour's hidden layers meet H_PART units of the first at a time, where a whole
  tile of weights is too much.
  """
  slot, rank, sample, live = take_block(
      block_slot, block_first, block_count, order, BLOCK
  )
  c3 = tl.arange(0, 16)[None, :]
  pixel = rgb + 3 * sample[:, None] + c3
  seen = live[:, None] & (c3 < 3)
  if slot < 0:
    tl.store(raw + sample, tl.zeros([BLOCK], tl.float32), mask=live)
    if COLOR:
      tl.store(pixel, tl.zeros([BLOCK, 16], tl.float32), mask=seen)
  else:
    hidden = _first_layer(
        features,
        position,
        layout,
        density0,
        slot,
        rank,
        sample,
        live,
        num_samples,
        num_rows,
        tree_slots,
        LOOKUP,
        POWER_OF_TWO,
        L,
        F,
        SCALES,
        WIDTH,
        H,
        H_PAD,
        TYPE,
        PRECISION,
        BLOCK,
    )
    hidden = tl.maximum(hidden, 0.0)
    w = load_tile(density1, slot, H * (1 + G), 0, 0, H, 1 + G, H_PAD, O_PAD)
    out = product(hidden, w, TYPE, PRECISION)
    o = tl.arange(0, O_PAD)[None, :]
    tl.store(raw + sample, tl.sum(tl.where(o == 0, out, 0.0), 1), mask=live)
    if COLOR:
      inputs = tl.sigmoid(out)
      hidden = tl.zeros([BLOCK, H_PAD], tl.float32)
      for first in tl.static_range(0, H_PAD, H_PART):
        w = load_tile(
            color0, slot, (G + D) * H, 0, 1, G, H, O_PAD, H_PART, first
        )
        part = product(inputs, w, TYPE, PRECISION)
        for d in tl.static_range(0, D_PAD, D_PART):
          rays = ray_rows(
              ray_inputs, ray_idx, sample, live, num_rays, D, D_PART, d
          )
          w = load_tile(
              color0,
              slot,
              (G + D) * H,
              G + d,
              0,
              D - d,
              H,
              D_PART,
              H_PART,
              first,
          )
          part += product(rays, w, TYPE, PRECISION)
        part = tl.maximum(part, 0.0)
        w = load_tile(
            color1, slot, H * H, first, 0, H - first, H, H_PART, H_PAD
        )
        hidden += product(part, w, TYPE, PRECISION)
      hidden = tl.maximum(hidden, 0.0)
      w = load_tile(color2, slot, H * 3, 0, 0, H, 3, H_PAD, 16)
      tl.store(
          pixel, tl.sigmoid(product(hidden, w, TYPE, PRECISION)), mask=seen
      )
