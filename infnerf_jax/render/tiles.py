"""Proposals of a picture's tiles: corners far apart first, then those between.

What corners `first_stride` pixels apart see says where along the ray those
`proposal_stride` apart need to look.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.render import ray_block as ray_block_lib
from infnerf_jax.render import render_rays, shared_proposals

# Tiles fill so many blocks of rays at least: pictures with fewer corners, of
# whatever size, are one program.
CORNER_BLOCKS = 4
# Corners and tiles come in smaller blocks than pixels, so that few are idle.
_PARTS = 8


class Tiles(NamedTuple):
  """Intervals of a picture's tiles, row by row.

  Attributes:
    sdist: [T, S + 1] interval ends of the last round, normalised.
    columns: tiles in a row.
    stride: pixels along a tile.
  """

  sdist: jax.Array
  columns: int
  stride: int

  def of_pixels(self, block: ray_block_lib.Block, ray_block: int):
    """[ray_block, S + 1] intervals of a block's pixels."""
    column, row = _places(block, ray_block)
    # Places within the tile that the picture's crop begins in.
    column = (column + block.left % self.stride) // self.stride
    row = (row + block.top % self.stride) // self.stride
    return _rows(self.sdist, row * self.columns + column)


class Corners(NamedTuple):
  """Proposals at the corners of tiles, row by row.

  Attributes:
    weights: [C, S] float16.
    columns: corners in a row.
    rows: in all.
    left: column of the whole picture's tiles that the first one is.
    top: likewise for rows.
  """

  weights: jax.Array
  columns: int
  rows: int
  left: int
  top: int

  def of_tiles(self, column, row):
    """[T, S] largest weights of tiles (columns and rows [T] of the picture's).

    A corner on the picture's right or lower end belongs to the tile before.
    """
    column = np.minimum(column - self.left, self.columns - 2)
    row = np.minimum(row - self.top, self.rows - 2)
    first = (row * self.columns + column).astype(np.int32)
    return _largest(self.weights, np.int32(self.columns), first)


# Places are computed here, not on the device: within its fused loops XLA would
# divide anew for each number that it gathers.
def _places(block, ray_block: int):
  """([R] column, [R] row) of a block of pixels or corners, in its crop."""
  index = np.arange(ray_block, dtype=np.int32) + block.start
  index = np.minimum(index, block.num_rays - 1)
  return index % block.width, index // block.width


@jax.jit
def _rows(table, index):
  return table.at[index].get(mode='promise_in_bounds')


_largest = jax.jit(shared_proposals.corners_largest)


@functools.partial(
    jax.jit,
    static_argnames=('spec', 'options', 'stride', 'ray_block', 'counts'),
)
def propose_block(
    model,
    cameras,
    block,
    largest=None,
    *,
    spec,
    options,
    stride,
    ray_block,
    counts=False,
):
  """Proposal weights at one block of tiles' corners.

  Args:
    model: scene.
    cameras: DeviceCameras [1].
    block: Block whose rows and columns are corners: their pixels are
      `pixel_size` wide and `stride` apart.
    largest: [ray_block, S] weights of corners farther apart around each, which
      say where to look; None: look everywhere.
    spec: static facts.
    options: sampling.
    stride: pixels along a tile.
    ray_block: rays.
    counts: whether touched slots are wanted.

  Returns:
    ([ray_block, S] float16 weights, [num_slots] bool touched slots or None).
  """
  # Places count tiles here; the footprint is a pixel's.
  tiles = block._replace(pixel_size=block.pixel_size * stride)
  rays, is_real = ray_block_lib.block_rays(
      cameras, tiles, model.sample_aabb, ray_block, spec.root_side, 0.0
  )
  rays = rays._replace(
      base_radius=rays.base_radius / stride, cone_slope=rays.cone_slope / stride
  )
  looks = None
  if largest is not None:
    looks = shared_proposals.is_worth_a_look(largest)
  samples = shared_proposals.proposal_round(model, spec, rays, options, looks)
  weights = render_rays.proposal_weights(
      model, spec, samples, stop_below=options.stop_below
  )
  touched = None
  if counts:
    num_slots = jax.tree.leaves(model.nodes)[0].shape[0]
    touched = ray_block_lib.touched_slots((samples,), is_real, num_slots)
  return weights.astype(jnp.float16), touched


_tile_intervals = jax.jit(
    shared_proposals.tile_intervals, static_argnames='options'
)


def _part_size(ray_block: int) -> int:
  return max(ray_block // _PARTS, 1)


def _joined(parts):
  """Arrays of one shape in a row, and spare ones up to a power of two."""
  count = max(1 << (len(parts) - 1).bit_length(), CORNER_BLOCKS * _PARTS)
  return jnp.concatenate(parts + [parts[0]] * (count - len(parts)))


def _corners(scene, options, place, stride, coarse=None, *, counts=False):
  """(Corners `stride` apart that a crop has, touched slots by block)."""
  (model, spec, cameras), (crop, pixel_size, ray_block) = scene, place
  # Tiles are those of the whole picture, whatever is cropped.
  left, top = crop[0] // stride, crop[1] // stride
  columns = -(-crop[2] // stride) + 1 - left
  rows = -(-crop[3] // stride) + 1 - top
  weights, touched = [], []
  ray_block = _part_size(ray_block)
  for start in range(0, columns * rows, ray_block):
    integers = (start, left, top, columns, columns * rows)
    block = ray_block_lib.Block(
        *(np.int32(i) for i in integers), np.float32(pixel_size)
    )
    largest = None
    if coarse is not None:
      column, row = _places(block, ray_block)
      ratio = options.first_stride // stride
      largest = coarse.of_tiles((column + left) // ratio, (row + top) // ratio)
    part, slots = propose_block(
        model, cameras, block, largest,
        spec=spec, options=options, stride=stride, ray_block=ray_block,
        counts=counts,
    )  # fmt: skip
    weights.append(part)
    touched.append(slots)
  return Corners(_joined(weights), columns, rows, left, top), touched


def check(options: render_rays.RenderOptions) -> None:
  """Refuses options whose proposals tiles cannot share.

  Raises:
    ValueError: other than two rounds, or strides that do not fit together.
  """
  stride, first = options.proposal_stride, options.first_stride
  if len(options.num_samples) != 2 or stride < 1:
    raise ValueError(
        f'proposal_stride: got {stride} with sampling rounds'
        f' {options.num_samples}, expected 1, or more with two rounds'
    )
  if first % stride:
    raise ValueError(
        f'first_stride: got {first}, expected 0 or a multiple of the'
        f' proposal_stride {stride}'
    )


def make_tiles(
    model, spec, cameras, options, crop, pixel_size, ray_block, *, counts=False
) -> tuple[Tiles | None, np.ndarray | bool]:
  """Intervals of a picture's tiles.

  Args:
    model: scene.
    spec: static facts.
    cameras: DeviceCameras [1].
    options: sampling.
    crop: left, top, right, bottom in pixels.
    pixel_size: width of a pixel in full-size pixels.
    ray_block: rays of one device call.
    counts: whether touched slots are wanted.

  Returns:
    (Tiles, None where pixels do not share proposals; [num_slots] bool touched
    slots or False).
  """
  if options.proposal_stride == 1:
    return None, False
  check(options)
  scene, place = (model, spec, cameras), (crop, pixel_size, ray_block)
  stride, first = options.proposal_stride, options.first_stride
  corners_of = functools.partial(_corners, scene, options, place, counts=counts)
  coarse, touched = corners_of(first) if first > stride else (None, [])
  corners, more = corners_of(stride, coarse)
  columns, rows = corners.columns - 1, corners.rows - 1
  block, sdist = _part_size(ray_block), []
  for start in range(0, columns * rows, block):
    tile = np.minimum(np.arange(start, start + block), columns * rows - 1)
    largest = corners.of_tiles(
        tile % columns + corners.left, tile // columns + corners.top
    )
    sdist.append(_tile_intervals(largest, options=options))
  tiles = Tiles(_joined(sdist), columns, stride)
  if not counts:
    return tiles, False
  return tiles, np.logical_or.reduce([np.asarray(t) for t in touched + more])
