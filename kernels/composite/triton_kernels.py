"""Bodies of the Triton kernels of compositing (import needs triton).

A program owns BLOCK_R rays and walks along them BLOCK_T samples at a time. Ray
r's samples lie at [starts[r], ends[r]) of flat arrays; with NUM_SAMPLES > 0
every ray has that many and starts and ends are not read.
"""

import triton
import triton.language as tl


@triton.jit
def _extent(starts, ends, ray, num_rays, NUM_SAMPLES: tl.constexpr):
  """First sample (int64) and number of samples of rays."""
  live = ray < num_rays
  if NUM_SAMPLES > 0:
    first = ray.to(tl.int64) * NUM_SAMPLES
    count = tl.where(live, NUM_SAMPLES, 0)
  else:
    start = tl.load(starts + ray, mask=live, other=0)
    count = tl.load(ends + ray, mask=live, other=0) - start
    first = start.to(tl.int64)
  return first, count


@triton.jit
def _alpha(optical):
  """1 - exp(-x), by its series where that would cancel."""
  tail = 0.5 - optical * (1 / 6 - optical * (1 / 24 - optical / 120))
  series = optical * (1 - optical * tail)
  return tl.where(optical < 0.125, series, 1 - tl.exp(-optical))


@triton.jit
def composite_forward(
    density,
    delta,
    rgb,
    distance,
    starts,
    ends,
    num_rays,
    weights,
    after,
    color,
    opacity,
    mean,
    MIN_TRANSMITTANCE: tl.constexpr,
    NUM_SAMPLES: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
  """Weights [S], colour [R, 3], opacity [R] and distance [R].

  With KEEP also after [S], what the backward pass needs: transmittance behind
  each sample, 0 where its weight was cut off.
  """
  ray = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
  first, count = _extent(starts, ends, ray, num_rays, NUM_SAMPLES)
  before = tl.zeros([BLOCK_R], tl.float32)
  red = tl.zeros([BLOCK_R], tl.float32)
  green = tl.zeros([BLOCK_R], tl.float32)
  blue = tl.zeros([BLOCK_R], tl.float32)
  total = tl.zeros([BLOCK_R], tl.float32)
  far = tl.zeros([BLOCK_R], tl.float32)
  for lowest in range(0, tl.max(count, 0), BLOCK_T):
    i = lowest + tl.arange(0, BLOCK_T)
    at = first[:, None] + i[None, :]
    inside = i[None, :] < count[:, None]
    clear = tl.where(lowest < count, tl.exp(-before), 0.0)
    if tl.max(clear, 0) > MIN_TRANSMITTANCE:
      # The sum before a sample is that of the samples one place earlier: an
      # inclusive sum less the sample itself cancels behind an opaque one.
      earlier = inside & (i[None, :] > 0)
      previous = tl.load(density + at - 1, mask=earlier, other=0.0)
      previous *= tl.load(delta + at - 1, mask=earlier, other=0.0)
      optical = tl.load(density + at, mask=inside, other=0.0)
      optical *= tl.load(delta + at, mask=inside, other=0.0)
      depth = before[:, None] + tl.cumsum(previous, 1)
      through = tl.exp(-depth)
      through = tl.where(through > MIN_TRANSMITTANCE, through, 0.0)
      weight = _alpha(optical) * through
      before += tl.sum(previous, 1)
      total += tl.sum(weight, 1)
      t = tl.load(distance + at, mask=inside, other=0.0)
      far += tl.sum(weight * t, 1)
      red += tl.sum(weight * tl.load(rgb + 3 * at, inside, other=0.0), 1)
      green += tl.sum(weight * tl.load(rgb + 3 * at + 1, inside, other=0.0), 1)
      blue += tl.sum(weight * tl.load(rgb + 3 * at + 2, inside, other=0.0), 1)
      tl.store(weights + at, weight, mask=inside)
      if KEEP:
        tl.store(after + at, through * tl.exp(-optical), mask=inside)
    else:
      zero = tl.zeros([BLOCK_R, BLOCK_T], tl.float32)
      tl.store(weights + at, zero, mask=inside)
      if KEEP:
        tl.store(after + at, zero, mask=inside)
  live = ray < num_rays
  ray = ray.to(tl.int64)
  tl.store(color + 3 * ray, red, mask=live)
  tl.store(color + 3 * ray + 1, green, mask=live)
  tl.store(color + 3 * ray + 2, blue, mask=live)
  tl.store(opacity + ray, total, mask=live)
  tl.store(mean + ray, far, mask=live)


@triton.jit
def composite_backward(
    density,
    delta,
    rgb,
    distance,
    weights,
    after,
    d_weights,
    d_color,
    d_opacity,
    d_mean,
    starts,
    ends,
    num_rays,
    d_density,
    d_delta,
    d_rgb,
    d_distance,
    NUM_SAMPLES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
  """Cotangents of density, delta and distance [S] and of rgb [S, 3].

  With v the cotangent that one unit of a sample's weight meets,
  d optical_i = after_i v_i - sum over j > i of weights_j v_j: from the last
  block of samples to the first.
  """
  ray = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
  first, count = _extent(starts, ends, ray, num_rays, NUM_SAMPLES)
  live = ray < num_rays
  ray = ray.to(tl.int64)
  d_red = tl.load(d_color + 3 * ray, mask=live, other=0.0)
  d_green = tl.load(d_color + 3 * ray + 1, mask=live, other=0.0)
  d_blue = tl.load(d_color + 3 * ray + 2, mask=live, other=0.0)
  d_total = tl.load(d_opacity + ray, mask=live, other=0.0)
  d_far = tl.load(d_mean + ray, mask=live, other=0.0)
  behind = tl.zeros([BLOCK_R], tl.float32)
  num_blocks = tl.cdiv(tl.max(count, 0), BLOCK_T)
  for block in range(num_blocks):
    i = (num_blocks - 1 - block) * BLOCK_T + tl.arange(0, BLOCK_T)
    at = first[:, None] + i[None, :]
    inside = i[None, :] < count[:, None]
    weight = tl.load(weights + at, mask=inside, other=0.0)
    value = tl.load(d_weights + at, mask=inside, other=0.0)
    value += d_total[:, None]
    t = tl.load(distance + at, mask=inside, other=0.0)
    value += d_far[:, None] * t
    tl.store(d_distance + at, weight * d_far[:, None], mask=inside)
    value += d_red[:, None] * tl.load(rgb + 3 * at, inside, other=0.0)
    value += d_green[:, None] * tl.load(rgb + 3 * at + 1, inside, other=0.0)
    value += d_blue[:, None] * tl.load(rgb + 3 * at + 2, inside, other=0.0)
    tl.store(d_rgb + 3 * at, weight * d_red[:, None], mask=inside)
    tl.store(d_rgb + 3 * at + 1, weight * d_green[:, None], mask=inside)
    tl.store(d_rgb + 3 * at + 2, weight * d_blue[:, None], mask=inside)
    share = weight * value
    # What lies behind an opaque sample weighs nothing, so that the sample's
    # own share cancels exactly there.
    later = tl.cumsum(share, 1, reverse=True) - share + behind[:, None]
    behind += tl.sum(share, 1)
    left = tl.load(after + at, mask=inside, other=0.0)
    d_optical = left * value - later
    length = tl.load(delta + at, mask=inside, other=0.0)
    tl.store(d_density + at, d_optical * length, mask=inside)
    dense = tl.load(density + at, mask=inside, other=0.0)
    tl.store(d_delta + at, d_optical * dense, mask=inside)
