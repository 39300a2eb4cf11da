"""Calls of the node field's Triton kernels, with their rules for vmap."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import triton

from kernels import batching
from kernels.hash_lookup import triton_hash_lookup
from kernels.node_field import specs, triton_backward
from kernels.node_field import triton_kernels as body
from kernels.triton_support import calls, capability

# Samples of a block. Forward: the rows that Hopper's tensor cores take at once.
# Backward: fewer, since with 64 registers spill before Hopper.
_FORWARD, _BACKWARD = 64, 32
# Encoded features looked up at once: the inputs of one tensor-core step.
_CHUNK = 16
# Where products are exact, three in place of one, which hold the parts of three
# inputs: samples of a block and columns of a width at once. More of either
# spill, but for forward blocks on Hopper, whose tensor cores read the weights
# from shared memory if a block has 64 rows.
_EXACT_BLOCK, _EXACT_PART = 16, 32
_EXACT_FORWARD = {90: 64}
_TYPES = {
    "float16": ("float16", "tf32"),
    "bfloat16": ("bfloat16", "tf32"),
    "tensorfloat32": ("float32", "tf32"),
    # Three products on tensor cores, as exact as float32: those of the plain
    # units, "ieee", spill seven kilobytes a thread.
    "float32": ("float32", "tf32x3"),
}


class Operands(NamedTuple):
  """What forward and backward read.

  features: [L, S, F] sorted by slot, or the table [N, rows, F].
  position: [S, 3]; read with the table only.
  weights: of the density layers, then of the colour layers or none.
  ray_idx: [S], ray_inputs: [R, D]; read with colour only.
  order, block_slot, block_first, block_count: see blocks.Plan.
  """

  features: jax.Array
  position: jax.Array
  weights: tuple[jax.Array, ...]
  ray_idx: jax.Array
  ray_inputs: jax.Array
  order: jax.Array
  block_slot: jax.Array
  block_first: jax.Array
  block_count: jax.Array


def block_size(
    num_samples: int, spec: specs.FieldSpec, *, gradient: bool = False
) -> int:
  """Samples of a block of the forward or the backward pass."""
  size = _BACKWARD if gradient else _FORWARD
  if spec.compute_dtype == "float32":
    size = _EXACT_BLOCK
    if not gradient:
      size = _EXACT_FORWARD.get(capability.compute_capability(), size)
  return calls.block_size(num_samples, size)


def _pad(size: int) -> int:
  return max(16, triton.next_power_of_2(size))


def _part(width: int, spec: specs.FieldSpec) -> int:
  """Columns of a width that the forward pass multiplies at once."""
  whole = _pad(width)
  return min(whole, _EXACT_PART) if spec.compute_dtype == "float32" else whole


def _constants(spec: specs.FieldSpec, operands: Operands, gradient) -> dict:
  """Constants of the kernels of the forward or the backward pass."""
  compute = spec.compute_dtype
  if gradient and compute != "float32":
    # Cotangents span more octaves than half precision holds.
    compute = "tensorfloat32"
  kind, precision = _TYPES[compute]
  encoded, geometry = spec.grid.encoded_dim, spec.num_geometry
  return dict(
      COLOR=len(operands.weights) > 2,
      E=encoded,
      F=spec.grid.num_features,
      H=spec.hidden_width,
      G=geometry,
      D=spec.ray_input_dim,
      E_PAD=_pad(encoded),
      H_PAD=_pad(spec.hidden_width),
      O_PAD=_pad(1 + geometry),
      D_PAD=_pad(spec.ray_input_dim),
      TYPE=kind,
      PRECISION=precision,
      BLOCK=block_size(operands.order.shape[0], spec, gradient=gradient),
      num_warps=4,
  )


def _five_weights(weights):
  """Colour weights that nothing reads where there are none."""
  return (*weights, *(weights[0],) * (5 - len(weights)))


def _fold(size, batched, operands: Operands, lookup: bool):
  """Operands of a batch as those of one call."""
  flags = Operands(*batched)
  own_weights = any(flags.weights) or (lookup and flags.features)
  num_slots, num_samples = operands.weights[0].shape[-3], _count(
      operands, flags
  )
  num_rays = operands.ray_inputs.shape[-2]
  shift = lambda by: jnp.arange(size, dtype=jnp.int32)[:, None] * by
  full = lambda name: batching.spread(
      getattr(operands, name), getattr(flags, name), size
  )
  merge = lambda x: x.reshape((-1,) + x.shape[2:])
  weights, features, slot = operands.weights, operands.features, None
  slot = full("block_slot")
  if own_weights:
    pairs = zip(weights, flags.weights)
    weights = tuple(batching.merge(w, b, size) for w, b in pairs)
    slot = jnp.where(slot >= 0, slot + shift(num_slots), -1)
    if lookup:
      features = batching.merge(features, flags.features, size)
  if not lookup:
    features = jnp.moveaxis(full("features"), 0, 1)  # [L, B, S, F]
    features = features.reshape((features.shape[0], -1, features.shape[3]))
  ray_idx, ray_inputs = full("ray_idx"), operands.ray_inputs
  if flags.ray_inputs:
    inside = (ray_idx >= 0) & (ray_idx < num_rays)
    ray_idx = jnp.where(inside, ray_idx + shift(num_rays), -1)
    ray_inputs = merge(ray_inputs)
  return Operands(
      features=features,
      position=merge(full("position")),
      weights=weights,
      ray_idx=merge(ray_idx),
      ray_inputs=ray_inputs,
      order=merge(full("order") + shift(num_samples)),
      block_slot=merge(slot),
      block_first=merge(full("block_first") + shift(num_samples)),
      block_count=merge(full("block_count")),
  )


def _count(operands, flags) -> int:
  """Samples of one element of a batch."""
  return operands.order.shape[1 if flags.order else 0]


@functools.cache
def forward(spec: specs.FieldSpec, lookup: bool, tree_slots: int | None = None):
  """Function of Operands: (raw [S], rgb [S, 3] or [1, 3] without colour).

  Args:
    spec: sizes.
    lookup: whether `features` is the table.
    tree_slots: slots of one tree where vmap has stacked several.

  Returns:
    Function with a rule for vmap.
  """

  @jax.custom_batching.custom_vmap
  def run(operands: Operands):
    num_samples = operands.order.shape[0]
    constants = _constants(spec, operands, False)
    slots = operands.weights[0].shape[0]
    pixels = num_samples if constants["COLOR"] else 1
    width = triton_hash_lookup.width(spec.grid.num_features)
    counts = spec.grid.row_counts
    hashed = [c for s, c in enumerate(counts) if not all(spec.grid.is_dense(s))]
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return calls.triton_call(
        body.field_forward,
        operands.features,
        operands.position,
        triton_hash_lookup.layout(spec.grid),
        *_five_weights(operands.weights),
        operands.order,
        operands.ray_idx,
        operands.ray_inputs,
        *operands[6:],
        num_samples,
        operands.ray_inputs.shape[0],
        spec.grid.num_rows,
        tree_slots or slots,
        out=[f32(num_samples), f32(pixels, 3)],
        grid=(operands.block_slot.shape[0],),
        LOOKUP=lookup,
        L=spec.grid.num_grid_scales,
        SCALES=max(1, _CHUNK // width),
        WIDTH=width,
        POWER_OF_TWO=all(int(c) & (int(c) - 1) == 0 for c in hashed),
        H_PART=_part(spec.hidden_width, spec),
        D_PART=_part(spec.ray_input_dim, spec),
        **_without(constants, "E", "E_PAD"),
    )

  @run.def_vmap
  def _(size, batched, operands):
    (batched,) = batched
    trees = tree_slots or operands.weights[0].shape[-3]
    folded = _fold(size, batched, operands, lookup)
    raw, rgb = forward(spec, lookup, trees)(folded)
    color = len(operands.weights) > 2
    raw = raw.reshape((size, -1))
    return (raw, rgb.reshape((size, -1, 3)) if color else rgb), (True, color)

  return run


def _without(constants: dict, *names: str) -> dict:
  return {k: v for k, v in constants.items() if k not in names}


def _color_backward(constants, operands: Operands, d_rgb, with_rays: bool):
  """[g_out, rays, weights ...]; see the kernel."""
  num_samples, blocks = operands.order.shape[0], operands.block_slot.shape[0]
  geometry, dim = 1 + constants["G"], constants["D"]
  out = [(num_samples, geometry), (num_samples if with_rays else 1, dim)]
  out += [(blocks, *w.shape[1:]) for w in operands.weights[2:]]
  return calls.triton_call(
      triton_backward.color_backward,
      operands.features,
      *operands.weights,
      operands.order,
      operands.ray_idx,
      operands.ray_inputs,
      *operands[6:],
      d_rgb,
      num_samples,
      operands.ray_inputs.shape[0],
      out=[jax.ShapeDtypeStruct(s, jnp.float32) for s in out],
      grid=(blocks,),
      RAYS=with_rays,
      **_without(constants, "COLOR"),
  )


@functools.cache
def backward(spec: specs.FieldSpec, with_rays: bool):
  """Function of Operands and cotangents of raw and rgb.

  Returns (features [L, S, F], rays [S, D], then weights [blocks, ...]); what
  is not wanted has one row.

  Args:
    spec: sizes.
    with_rays: whether the rays' cotangent is wanted; needs colour.
  """

  @jax.custom_batching.custom_vmap
  def run(operands: Operands, d_raw, d_rgb):
    constants = _constants(spec, operands, True)
    d_out, rays, colors = d_rgb, jnp.zeros((1, 1)), ()
    if constants["COLOR"]:
      d_out, rays, *colors = _color_backward(
          constants, operands, d_rgb, with_rays
      )
    blocks = operands.block_slot.shape[0]
    out = [operands.features.shape]
    out += [(blocks, *w.shape[1:]) for w in operands.weights[:2]]
    features, *weights = calls.triton_call(
        triton_backward.density_backward,
        operands.features,
        *operands.weights[:2],
        operands.order,
        *operands[6:],
        d_raw,
        d_out,
        operands.order.shape[0],
        out=[jax.ShapeDtypeStruct(s, jnp.float32) for s in out],
        grid=(blocks,),
        **_without(constants, "D", "D_PAD"),
    )
    return features, rays, *weights, *colors

  @run.def_vmap
  def _(size, batched, operands, d_raw, d_rgb):
    folded = _fold(size, batched[0], operands, False)
    d_raw = batching.merge(d_raw, batched[1], size)
    d_rgb = batching.merge(d_rgb, batched[2], size)
    features, rays, *weights = run(folded, d_raw, d_rgb)
    features = features.reshape(
        (features.shape[0], size, -1, features.shape[2])
    )
    unfold = lambda x: x.reshape((size, -1) + x.shape[1:])
    weights = [unfold(w) for w in weights]
    rays = unfold(rays) if with_rays else rays
    out = (jnp.moveaxis(features, 1, 0), rays, *weights)
    return out, (True, with_rays, *(True for _ in weights))

  return run


@jax.custom_batching.custom_vmap
def sum_rows(values, order, starts, ends):
  """Sums of rows in a fixed order, by Triton.

  Args:
    values: [M, W] float32.
    order: [M] int32, places among values, or [0]: as they lie.
    starts, ends: [G] int32: group g holds order[starts[g]:ends[g]].

  Returns:
    [G, W] float32.
  """
  groups, width = starts.shape[0], values.shape[1]
  if not values.size:
    return jnp.zeros((groups, width), jnp.float32)
  block_w, ordered = min(triton.next_power_of_2(width), 128), order.shape[0] > 0
  # Weights: a slot may have thousands of blocks, read 32 values a thread at
  # once. Rays have tens of samples and few columns: several fill the threads.
  block_g = max(1, 512 // block_w) if ordered else 1
  block_i = 4 if ordered else 4096 // block_w
  block_g = calls.block_size(groups, block_g)
  (total,) = calls.triton_call(
      triton_backward.sum_rows,
      values,
      order if ordered else starts,
      starts,
      ends,
      groups,
      out=[jax.ShapeDtypeStruct((groups, width), jnp.float32)],
      grid=(-(-groups // block_g), -(-width // block_w)),
      WIDTH=width,
      ORDERED=ordered,
      BLOCK_G=block_g,
      BLOCK_I=block_i,
      BLOCK_W=block_w,
  )
  return total


@sum_rows.def_vmap
def _(size, batched, *args):
  values, order, starts, ends = (
      batching.spread(a, b, size) for a, b in zip(args, batched)
  )
  rows = values.shape[1]
  shift = jnp.arange(size, dtype=jnp.int32)[:, None]
  total = sum_rows(
      values.reshape((-1, values.shape[2])),
      (order + shift * rows).reshape(-1),
      (starts + shift * rows).reshape(-1),
      (ends + shift * rows).reshape(-1),
  )
  return total.reshape((size, -1, total.shape[1])), True
