"""Triton kernels of the node field's gradients (import needs triton)."""

import triton
import triton.language as tl

from kernels.node_field import triton_kernels as shared


@triton.jit
def _color_gradient(
    out,
    rays,
    d_pixel,
    slot,
    block,
    color0,
    color1,
    color2,
    g_color0,
    g_color1,
    g_color2,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    H_PAD: tl.constexpr,
    O_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
  """Cotangents of the density layer's outputs and of the first colour sum."""
  inputs = tl.sigmoid(out)
  w0 = shared.load_tile(color0, slot, (G + D) * H, 0, 1, G, H, O_PAD, H_PAD)
  w_rays = shared.load_tile(color0, slot, (G + D) * H, G, 0, D, H, D_PAD, H_PAD)
  first = shared.product(inputs, w0, TYPE, PRECISION)
  first = tl.maximum(first + shared.product(rays, w_rays, TYPE, PRECISION), 0.0)
  w1 = shared.load_tile(color1, slot, H * H, 0, 0, H, H, H_PAD, H_PAD)
  second = tl.maximum(shared.product(first, w1, TYPE, PRECISION), 0.0)
  w2 = shared.load_tile(color2, slot, H * 3, 0, 0, H, 3, H_PAD, 16)
  rgb = tl.sigmoid(shared.product(second, w2, TYPE, PRECISION))
  grad = d_pixel * rgb * (1 - rgb)
  g = shared.product(tl.trans(second), grad, TYPE, PRECISION)
  shared.store_tile(g_color2, g, block, H * 3, 0, 0, H, 3, H_PAD, 16)
  grad = shared.product(grad, tl.trans(w2), TYPE, PRECISION)
  grad = tl.where(second > 0, grad, 0.0)
  g = shared.product(tl.trans(first), grad, TYPE, PRECISION)
  shared.store_tile(g_color1, g, block, H * H, 0, 0, H, H, H_PAD, H_PAD)
  grad = shared.product(grad, tl.trans(w1), TYPE, PRECISION)
  grad = tl.where(first > 0, grad, 0.0)
  g = shared.product(tl.trans(inputs), grad, TYPE, PRECISION)
  shared.store_tile(g_color0, g, block, (G + D) * H, 0, 1, G, H, O_PAD, H_PAD)
  g = shared.product(tl.trans(rays), grad, TYPE, PRECISION)
  shared.store_tile(g_color0, g, block, (G + D) * H, G, 0, D, H, D_PAD, H_PAD)
  d_out = (
      shared.product(grad, tl.trans(w0), TYPE, PRECISION)
      * inputs
      * (1 - inputs)
  )
  return d_out, shared.product(grad, tl.trans(w_rays), TYPE, PRECISION)


@triton.jit
def backward(
    features,
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
    d_raw,
    d_rgb,
    num_samples,
    num_rays,
    g_features,
    g_rays,
    g_density0,
    g_density1,
    g_color0,
    g_color1,
    g_color2,
    COLOR: tl.constexpr,
    RAYS: tl.constexpr,
    E: tl.constexpr,
    F: tl.constexpr,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    E_PAD: tl.constexpr,
    H_PAD: tl.constexpr,
    O_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Cotangents of features and rays by sample, of weights by block.

  The forward pass is done again. g_features [L, S, F] and g_rays [S, D] are in
  the samples' own order; g_density0 and the like are [blocks, weights], to be
  summed over the blocks of a slot in a fixed order.
  """
  slot, rank, sample, live = shared.take_block(
      block_slot, block_first, block_count, order, BLOCK
  )
  block = tl.program_id(0)
  to, known = shared.feature_places(
      g_features, sample, live, num_samples, E, E_PAD, F
  )
  d = tl.arange(0, D_PAD)[None, :]
  to_rays = g_rays + sample[:, None] * D + d
  on_rays = live[:, None] & (d < D)
  if slot < 0:
    tl.store(to, tl.zeros([BLOCK, E_PAD], tl.float32), mask=known)
    if RAYS:
      tl.store(to_rays, tl.zeros([BLOCK, D_PAD], tl.float32), mask=on_rays)
  else:
    at, inside = shared.feature_places(
        features, rank, live, num_samples, E, E_PAD, F
    )
    x = tl.load(at, mask=inside, other=0.0)
    w0 = shared.load_tile(density0, slot, E * H, 0, 0, E, H, E_PAD, H_PAD)
    hidden = tl.maximum(shared.product(x, w0, TYPE, PRECISION), 0.0)
    w1 = shared.load_tile(
        density1, slot, H * (1 + G), 0, 0, H, 1 + G, H_PAD, O_PAD
    )
    d_first = tl.load(d_raw + sample, mask=live, other=0.0)[:, None]
    o = tl.arange(0, O_PAD)[None, :]
    grad = tl.where(o == 0, d_first, 0.0)
    if COLOR:
      out = shared.product(hidden, w1, TYPE, PRECISION)
      c3 = tl.arange(0, 16)[None, :]
      seen = live[:, None] & (c3 < 3)
      pixel = d_rgb + 3 * sample[:, None] + c3
      d_pixel = tl.load(pixel, mask=seen, other=0.0)
      rays = shared.ray_rows(
          ray_inputs, ray_idx, sample, live, num_rays, D, D_PAD
      )
      d_out, d_rays = _color_gradient(
          out,
          rays,
          d_pixel,
          slot,
          block,
          color0,
          color1,
          color2,
          g_color0,
          g_color1,
          g_color2,
          H,
          G,
          D,
          H_PAD,
          O_PAD,
          D_PAD,
          TYPE,
          PRECISION,
      )
      grad += d_out
      if RAYS:
        tl.store(to_rays, d_rays, mask=on_rays)
    g = shared.product(tl.trans(hidden), grad, TYPE, PRECISION)
    shared.store_tile(
        g_density1, g, block, H * (1 + G), 0, 0, H, 1 + G, H_PAD, O_PAD
    )
    grad = shared.product(grad, tl.trans(w1), TYPE, PRECISION)
    grad = tl.where(hidden > 0, grad, 0.0)
    g = shared.product(tl.trans(x), grad, TYPE, PRECISION)
    shared.store_tile(g_density0, g, block, E * H, 0, 0, E, H, E_PAD, H_PAD)
    tl.store(
        to, shared.product(grad, tl.trans(w0), TYPE, PRECISION), mask=known
    )


@triton.jit
def sum_rows(
    values,
    order,
    starts,
    ends,
    num_groups,
    total,
    WIDTH: tl.constexpr,
    ORDERED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
  """total[g] = sum of values[order[i]] over i in [starts[g], ends[g]).

  In that order, so that the bits do not change from run to run; without
  ORDERED order[i] is i.
  """
  group = tl.program_id(0) * BLOCK_G + tl.arange(0, BLOCK_G)
  live = group < num_groups
  start = tl.load(starts + group, mask=live, other=0)
  count = tl.load(ends + group, mask=live, other=0) - start
  column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
  known = column < WIDTH
  acc = tl.zeros([BLOCK_G, BLOCK_W], tl.float32)
  for i in range(tl.max(count, 0)):
    here = i < count
    row = start + i
    if ORDERED:
      row = tl.load(order + row, mask=here, other=0)
    at = values + row.to(tl.int64)[:, None] * WIDTH + column
    acc += tl.load(at, mask=here[:, None] & known, other=0.0)
  out = total + group.to(tl.int64)[:, None] * WIDTH + column
  tl.store(out, acc, mask=live[:, None] & known)
