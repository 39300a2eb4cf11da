"""Triton kernels of the node field's gradients (import needs triton).

Colours first, then densities: one kernel for both would hold more than the
registers. What they need of the forward pass they compute again, and what they
read twice they load twice, for the same reason. Gradients of weights are
[blocks, weights], to be summed over the blocks of a slot in a fixed order.
"""

import triton
import triton.language as tl

from kernels.node_field import triton_kernels as shared


@triton.jit
def _store_rays(
    g_rays, value, sample, live, D: tl.constexpr, D_PAD: tl.constexpr
):
  d = tl.arange(0, D_PAD)[None, :]
  at = g_rays + sample[:, None] * D + d
  tl.store(at, value, mask=live[:, None] & (d < D))


@triton.jit
def color_backward(
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
    d_rgb,
    num_samples,
    num_rays,
    g_out,
    g_rays,
    g_color0,
    g_color1,
    g_color2,
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
  """Cotangents of the density layers' outputs, rays and colour weights.

  g_out [S, 1 + G] is sorted by slot; what belongs to no slot is not written.
  g_rays [S, D] is in the samples' own order.
  """
  slot, rank, sample, live = shared.take_block(
      block_slot, block_first, block_count, order, BLOCK
  )
  block = tl.program_id(0)
  if slot < 0:
    if RAYS:
      zero = tl.zeros([BLOCK, D_PAD], tl.float32)
      _store_rays(g_rays, zero, sample, live, D, D_PAD)
  else:
    at, inside = shared.feature_places(
        features, rank, live, num_samples, E, E_PAD, F
    )
    x = tl.load(at, mask=inside, other=0.0)
    w = shared.load_tile(density0, slot, E * H, 0, 0, E, H, E_PAD, H_PAD)
    hidden = tl.maximum(shared.product(x, w, TYPE, PRECISION), 0.0)
    w = shared.load_tile(
        density1, slot, H * (1 + G), 0, 0, H, 1 + G, H_PAD, O_PAD
    )
    inputs = tl.sigmoid(shared.product(hidden, w, TYPE, PRECISION))
    w = shared.load_tile(color0, slot, (G + D) * H, 0, 1, G, H, O_PAD, H_PAD)
    first = shared.product(inputs, w, TYPE, PRECISION)
    rays = shared.ray_rows(
        ray_inputs, ray_idx, sample, live, num_rays, D, D_PAD
    )
    w = shared.load_tile(color0, slot, (G + D) * H, G, 0, D, H, D_PAD, H_PAD)
    first = tl.maximum(first + shared.product(rays, w, TYPE, PRECISION), 0.0)
    w = shared.load_tile(color1, slot, H * H, 0, 0, H, H, H_PAD, H_PAD)
    second = tl.maximum(shared.product(first, w, TYPE, PRECISION), 0.0)
    w = shared.load_tile(color2, slot, H * 3, 0, 0, H, 3, H_PAD, 16)
    rgb = tl.sigmoid(shared.product(second, w, TYPE, PRECISION))
    c3 = tl.arange(0, 16)[None, :]
    pixel = d_rgb + 3 * sample[:, None] + c3
    grad = tl.load(pixel, mask=live[:, None] & (c3 < 3), other=0.0)
    grad *= rgb * (1 - rgb)
    g = shared.product(tl.trans(second), grad, TYPE, PRECISION)
    shared.store_tile(g_color2, g, block, H * 3, 0, 0, H, 3, H_PAD, 16)
    grad = shared.product(grad, tl.trans(w), TYPE, PRECISION)
    grad = tl.where(second > 0, grad, 0.0)
    g = shared.product(tl.trans(first), grad, TYPE, PRECISION)
    shared.store_tile(g_color1, g, block, H * H, 0, 0, H, H, H_PAD, H_PAD)
    w = shared.load_tile(color1, slot, H * H, 0, 0, H, H, H_PAD, H_PAD)
    grad = shared.product(grad, tl.trans(w), TYPE, PRECISION)
    grad = tl.where(first > 0, grad, 0.0)
    g = shared.product(tl.trans(inputs), grad, TYPE, PRECISION)
    shared.store_tile(g_color0, g, block, (G + D) * H, 0, 1, G, H, O_PAD, H_PAD)
    w = shared.load_tile(color0, slot, (G + D) * H, 0, 1, G, H, O_PAD, H_PAD)
    d_out = shared.product(grad, tl.trans(w), TYPE, PRECISION)
    o = tl.arange(0, O_PAD)[None, :]
    to = g_out + rank[:, None] * (1 + G) + o
    d_out *= inputs * (1 - inputs)
    tl.store(to, d_out, mask=live[:, None] & (o < 1 + G))
    rays = shared.ray_rows(
        ray_inputs, ray_idx, sample, live, num_rays, D, D_PAD
    )
    g = shared.product(tl.trans(rays), grad, TYPE, PRECISION)
    shared.store_tile(g_color0, g, block, (G + D) * H, G, 0, D, H, D_PAD, H_PAD)
    if RAYS:
      w = shared.load_tile(color0, slot, (G + D) * H, G, 0, D, H, D_PAD, H_PAD)
      g = shared.product(grad, tl.trans(w), TYPE, PRECISION)
      _store_rays(g_rays, g, sample, live, D, D_PAD)


@triton.jit
def density_backward(
    features,
    density0,
    density1,
    order,
    block_slot,
    block_first,
    block_count,
    d_raw,
    d_out,
    num_samples,
    g_features,
    g_density0,
    g_density1,
    COLOR: tl.constexpr,
    E: tl.constexpr,
    F: tl.constexpr,
    H: tl.constexpr,
    G: tl.constexpr,
    E_PAD: tl.constexpr,
    H_PAD: tl.constexpr,
    O_PAD: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Cotangents of features and density weights.

  d_raw [S] is in the samples' own order, as g_features [L, S, F] is; d_out
  [S, 1 + G] is color_backward's, read with COLOR.
  """
  slot, rank, sample, live = shared.take_block(
      block_slot, block_first, block_count, order, BLOCK
  )
  block = tl.program_id(0)
  to, known = shared.feature_places(
      g_features, sample, live, num_samples, E, E_PAD, F
  )
  if slot < 0:
    tl.store(to, tl.zeros([BLOCK, E_PAD], tl.float32), mask=known)
  else:
    at, inside = shared.feature_places(
        features, rank, live, num_samples, E, E_PAD, F
    )
    x = tl.load(at, mask=inside, other=0.0)
    w = shared.load_tile(density0, slot, E * H, 0, 0, E, H, E_PAD, H_PAD)
    hidden = tl.maximum(shared.product(x, w, TYPE, PRECISION), 0.0)
    o = tl.arange(0, O_PAD)[None, :]
    first = tl.load(d_raw + sample, mask=live, other=0.0)[:, None]
    grad = tl.where(o == 0, first, 0.0)
    if COLOR:
      out = d_out + rank[:, None] * (1 + G) + o
      grad += tl.load(out, mask=live[:, None] & (o < 1 + G), other=0.0)
    g = shared.product(tl.trans(hidden), grad, TYPE, PRECISION)
    shared.store_tile(
        g_density1, g, block, H * (1 + G), 0, 0, H, 1 + G, H_PAD, O_PAD
    )
    w = shared.load_tile(
        density1, slot, H * (1 + G), 0, 0, H, 1 + G, H_PAD, O_PAD
    )
    grad = shared.product(grad, tl.trans(w), TYPE, PRECISION)
    grad = tl.where(hidden > 0, grad, 0.0)
    x = tl.load(at, mask=inside, other=0.0)
    g = shared.product(tl.trans(x), grad, TYPE, PRECISION)
    shared.store_tile(g_density0, g, block, E * H, 0, 0, E, H, E_PAD, H_PAD)
    w = shared.load_tile(density0, slot, E * H, 0, 0, E, H, E_PAD, H_PAD)
    grad = shared.product(grad, tl.trans(w), TYPE, PRECISION)
    tl.store(to, grad, mask=known)


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
    BLOCK_I: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
  """total[g] = sum of values[order[i]] over i in [starts[g], ends[g]).

  In a fixed order, so that the bits do not change from run to run; without
  ORDERED order[i] is i. BLOCK_I rows at a time, or a group of many rows would
  wait for memory once a row.
  """
  group = tl.program_id(0) * BLOCK_G + tl.arange(0, BLOCK_G)
  live = group < num_groups
  start = tl.load(starts + group, mask=live, other=0)
  count = tl.load(ends + group, mask=live, other=0) - start
  column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
  known = column < WIDTH
  acc = tl.zeros([BLOCK_G, BLOCK_W], tl.float32)
  for first in range(0, tl.max(count, 0), BLOCK_I):
    i = first + tl.arange(0, BLOCK_I)[None, :]
    here = i < count[:, None]
    row = start[:, None] + i
    if ORDERED:
      row = tl.load(order + row, mask=here, other=0)
    at = values + row.to(tl.int64)[:, :, None] * WIDTH + column[None]
    rows = tl.load(at, mask=here[:, :, None] & known[None], other=0.0)
    acc += tl.sum(rows, 1)
  out = total + group.to(tl.int64)[:, None] * WIDTH + column
  tl.store(out, acc, mask=live[:, None] & known)
