"""Triton kernels of the lazy Adam (import needs triton).

A contribution c = 8 * sample + corner adds to one row. While a step runs, the
steps of a touched row hold FIRST + c of its lowest contribution c, its
representative: what belongs to the row for the time of a step (sum, old steps)
lies at c in buffers of 8 * S entries. So nothing is sorted, nothing is as large
as a table, and work follows the samples.

1. `claim`: every contribution lowers its row's steps to FIRST + c.
2. `accumulate`: every contribution adds to its representative's sum.
3. `update`: representatives take their row's step and restore its steps.
"""

import triton
import triton.language as tl

from kernels.hash_lookup import triton_kernels as grid

FIRST = tl.constexpr(-(2**31))


@triton.jit
def contributions(
    position, slot, layout, rule, num_samples, num_slots, num_rows, BLOCK
):
  """Number, sample, flat row, weight and validity of a block of them."""
  c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
  sample = c >> 3
  inside = sample < num_samples
  node = tl.load(slot + sample, mask=inside, other=-1)
  # No slot is valid where nothing is to be applied.
  live = (node >= 0) & (node < tl.load(rule + 3).to(tl.int32) * num_slots)
  x, y, z, u, v, w, resolution, dense = grid.cells(
      position, sample, node, live, layout, num_slots, False
  )
  dx, dy, dz = c & 1, (c >> 1) & 1, (c >> 2) & 1
  row = grid.corner_row(
      x + dx.to(tl.uint32),
      y + dy.to(tl.uint32),
      z + dz.to(tl.uint32),
      resolution,
      dense,
      layout,
  )
  weight = tl.where(dx != 0, u, 1 - u) * tl.where(dy != 0, v, 1 - v)
  weight *= tl.where(dz != 0, w, 1 - w)
  return c, sample, grid.flat_row(node, row, num_rows), weight, live


@triton.jit
def claim(
    position,
    slot,
    layout,
    rule,
    steps_in,
    num_samples,
    num_slots,
    num_rows,
    steps,
    seen,
    total,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Marks touched rows in `steps`.

  seen [8 S]: old steps, at the one contribution that found them, else -1.
  total [8 S, F]: zeros.
  """
  c, sample, at, weight, live = contributions(
      position, slot, layout, rule, num_samples, num_slots, num_rows, BLOCK
  )
  mark = FIRST + c
  # What is lower already needs no atomic; a stale value is higher.
  now = tl.load(steps + at, mask=live, other=0)
  wanted = live & (now > mark)
  old = tl.atomic_min(steps + at, mark, mask=wanted, sem="relaxed")
  inside = sample < num_samples
  tl.store(seen + c, tl.where(wanted, tl.maximum(old, -1), -1), mask=inside)
  f = tl.arange(0, WIDTH)[None, :]
  if EXACT:
    total = total.to(tl.pointer_type(tl.int64))
  zero = tl.zeros((BLOCK, WIDTH), total.dtype.element_ty)
  out = total + c.to(tl.int64)[:, None] * F + f
  tl.store(out, zero, mask=inside[:, None] & (f < F))


@triton.jit
def accumulate(
    position,
    slot,
    layout,
    rule,
    steps,
    seen,
    feature_grad,
    total_in,
    num_samples,
    num_slots,
    num_rows,
    before,
    total,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """Sums contributions and old steps at their representatives.

  EXACT: in fixed point, 64 bits: the same sum in any order.
  """
  c, sample, at, weight, live = contributions(
      position, slot, layout, rule, num_samples, num_slots, num_rows, BLOCK
  )
  owner = (tl.load(steps + at, mask=live, other=FIRST) - FIRST).to(tl.int64)
  found = tl.load(seen + c, mask=live, other=-1)
  tl.store(before + owner, found, mask=live & (found >= 0))
  f = tl.arange(0, WIDTH)[None, :]
  wanted = live[:, None] & (f < F)
  grad = feature_grad + sample.to(tl.int64)[:, None] * F + f
  value = tl.load(grad, mask=wanted, other=0.0) * weight[:, None]
  out = owner[:, None] * F + f
  if EXACT:
    value = (value * tl.load(rule + 1)).to(tl.int64)
    total = total.to(tl.pointer_type(tl.int64))
  tl.atomic_add(total + out, value, mask=wanted, sem="relaxed")


@triton.jit
def adam(value, m, v, grad, rate, step, B1, B2, EPS, LOG_B1, LOG_B2):
  """One step of Adam; `step` counts from 1 and broadcasts."""
  m = B1 * m + (1 - B1) * grad
  v = B2 * v + (1 - B2) * grad * grad
  m_hat = m / (1 - tl.exp2(step * LOG_B1))
  v_hat = v / (1 - tl.exp2(step * LOG_B2))
  return value - rate * m_hat / (tl.sqrt(v_hat) + EPS), m, v


@triton.jit
def update(
    position,
    slot,
    layout,
    rule,
    before,
    total,
    table_in,
    moments_in,
    steps_in,
    num_samples,
    num_slots,
    num_rows,
    table,
    moments,
    steps,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    EXACT: tl.constexpr,
    B1: tl.constexpr,
    B2: tl.constexpr,
    EPS: tl.constexpr,
    LOG_B1: tl.constexpr,
    LOG_B2: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """The step of every touched row, by its representative."""
  c, sample, at, weight, live = contributions(
      position, slot, layout, rule, num_samples, num_slots, num_rows, BLOCK
  )
  # Another's row may hold its new steps already: not negative, never equal.
  live &= tl.load(steps + at, mask=live, other=0) == FIRST + c
  count = tl.load(before + c, mask=live, other=0) + 1
  f = tl.arange(0, WIDTH)[None, :]
  wanted = live[:, None] & (f < F)
  mine = c.to(tl.int64)[:, None] * F + f
  if EXACT:
    total = total.to(tl.pointer_type(tl.int64))
    grad = tl.load(total + mine, mask=wanted, other=0)
    grad = grad.to(tl.float32) * tl.load(rule + 2)
  else:
    grad = tl.load(total + mine, mask=wanted, other=0.0)
  values = table + at[:, None] * F + f
  firsts = moments + at[:, None] * (2 * F) + f
  new, m, v = adam(
      tl.load(values, mask=wanted, other=0.0),
      tl.load(firsts, mask=wanted, other=0.0),
      tl.load(firsts + F, mask=wanted, other=0.0),
      grad,
      tl.load(rule),
      count.to(tl.float32)[:, None],
      B1,
      B2,
      EPS,
      LOG_B1,
      LOG_B2,
  )
  tl.store(values, new, mask=wanted)
  tl.store(firsts, m, mask=wanted)
  tl.store(firsts + F, v, mask=wanted)
  tl.store(steps + at, count, mask=live)


@triton.jit
def slot_adam(
    grad,
    old_steps,
    touched,
    rule,
    weights_in,
    moments_in,
    weights,
    moments,
    SIZE: tl.constexpr,
    B1: tl.constexpr,
    B2: tl.constexpr,
    EPS: tl.constexpr,
    LOG_B1: tl.constexpr,
    LOG_B2: tl.constexpr,
    BLOCK: tl.constexpr,
):
  """A block of the weights of one slot; nothing is read where untouched."""
  node = tl.program_id(1)
  if (tl.load(touched + node) != 0) & (tl.load(rule + 3) != 0):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < SIZE
    at = node.to(tl.int64) * SIZE + i
    first = moments + node.to(tl.int64) * (2 * SIZE) + i
    step = (tl.load(old_steps + node) + 1).to(tl.float32)
    new, m, v = adam(
        tl.load(weights + at, mask=live, other=0.0),
        tl.load(first, mask=live, other=0.0),
        tl.load(first + SIZE, mask=live, other=0.0),
        tl.load(grad + at, mask=live, other=0.0),
        tl.load(rule),
        step,
        B1,
        B2,
        EPS,
        LOG_B1,
        LOG_B2,
    )
    tl.store(weights + at, new, mask=live)
    tl.store(first, m, mask=live)
    tl.store(first + SIZE, v, mask=live)
