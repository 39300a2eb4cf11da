"""An octree that says what is empty, for samples placed by traversal.

`kernels.traverse` walks an octree whose nodes have 4^3 bits each. This module
makes one from a scene's `occupancy.Occupancy`: the model's own nodes, and below
and beside them nodes without parameters, as deep as the grid's cells are fine,
so that a leap is as exact as the grid. A node's bit is set where any cell of
the grid that it meets is occupied.

The cube that is walked has four times the root's side, from -1 to 3 in root
units: rays are clipped to a box that reaches beyond the root, where most of it
is air. The root is the node two levels down.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import scene_model
from infnerf_jax.octree import levels as levels_lib
from infnerf_jax.render import occupancy as occupancy_lib
from kernels.traverse import occupancy as bricks

# Levels above the root, and where the walked cube begins, root units.
LEVELS_ABOVE = 2
SIDE = 1 << LEVELS_ABOVE
LOW = -1.0
# Rows of the nodes above the root; row n + 2 is the model's node n.
_ABOVE = 2
# Octants in which the way down to the root lies.
_TO_ROOT = (0, 7)
_OCTANTS = np.array(list(np.ndindex(2, 2, 2)))
_CELLS = np.array(list(np.ndindex(3 * (bricks.BRICK,))))
# Of a cell: samples are placed in float32.
_SLACK = 1e-3


class Traversal(NamedTuple):
  """A tree to walk; node n of the model is row n + 2.

  Attributes:
    children: [M, 8] int32, -1 absent.
    slot_of_node: [M] int32; rows 0 and 1 have the root's, nodes that the model
      lacks -1.
    words: [M, 2] int32, see `kernels.traverse.pack_occupancy`.
    level_of_node: [M] int32, level in the model; 0 of what it lacks.
    levels_below: [D] zeros, one for each level that is deeper than the model's.
  """

  children: jax.Array
  slot_of_node: jax.Array
  words: jax.Array
  level_of_node: jax.Array
  levels_below: jax.Array


class _Counts:
  """How many cells of a grid, and of them occupied ones, meet boxes."""

  def __init__(self, grid: occupancy_lib.Occupancy, outside: bool):
    self.shape = np.asarray(grid.shape)
    cells = np.asarray(grid.occupied).reshape(self.shape)
    cells = np.pad(cells, 1, constant_values=outside)
    sums = cells.astype(np.int32)
    for axis in range(3):
      sums = np.cumsum(sums, axis=axis, dtype=np.int32)
    self.sums = np.pad(sums, ((1, 0),) * 3)
    self.low = np.asarray(grid.low, np.float64)
    self.cell = np.asarray(grid.cell, np.float64)

  def of_boxes(self, low, side: float):
    """([...] occupied, [...] all) of cubes at low [..., 3], root units."""
    first = np.floor((low - self.low) / self.cell - _SLACK)
    last = np.ceil((low + side - self.low) / self.cell + _SLACK)
    # One cell stands for all that lies beyond the grid on its side.
    first = np.clip(first, -1, self.shape).astype(int) + 1
    last = np.clip(last, 0, self.shape + 1).astype(int) + 1
    found = 0
    for corner in _OCTANTS:
      index = np.where(corner, last, first)
      sign = (-1) ** (3 - corner.sum())
      found = found + sign * self.sums[tuple(np.moveaxis(index, -1, 0))]
    return found, np.prod(last - first, axis=-1)


class _Rows:
  """Rows of a Traversal as they are found."""

  def __init__(self, model_children, slot_of_node):
    num = _ABOVE + len(model_children)
    self.children = np.full((num, 8), -1, np.int32)
    self.words = np.zeros((num, 2), np.int32)
    self.levels = np.zeros(num, np.int32)
    slots = np.asarray(slot_of_node, np.int32)
    self.slots = np.concatenate([np.full(_ABOVE, slots[0], np.int32), slots])

  def add(self, num: int) -> np.ndarray:
    """Rows of new nodes that the model lacks."""
    first, grow = len(self.children), lambda a, fill: np.concatenate(
        [a, np.full((num,) + a.shape[1:], fill, np.int32)]
    )
    self.children, self.words = grow(self.children, -1), grow(self.words, 0)
    self.levels, self.slots = grow(self.levels, 0), grow(self.slots, -1)
    return np.arange(first, first + num)


def _model_octants(rows, model_children) -> np.ndarray:
  """[M, 8] rows of the children that the model has, -1 absent."""
  inside = (rows >= _ABOVE) & (rows < _ABOVE + len(model_children))
  own = model_children[np.where(inside, rows - _ABOVE, 0)]
  found = np.where(inside[:, None] & (own >= 0), own + _ABOVE, -1)
  for row, octant in enumerate(_TO_ROOT):
    found[rows == row, octant] = row + 1
  return found


def make_traversal(
    model: scene_model.SceneModel,
    grid: occupancy_lib.Occupancy,
    *,
    outside: bool = False,
) -> Traversal:
  """The tree that rays walk through a scene.

  Args:
    model: scene, all of whose nodes are resident.
    grid: where its densities are, see `occupancy.make_occupancy`.
    outside: whether what lies beyond the grid counts as occupied; without
      matter where rays end at its box.

  Returns:
    Traversal.
  """
  counts = _Counts(grid, outside)
  model_children = np.asarray(model.tree.children)
  found = _Rows(model_children, model.tree.slot_of_node)
  # Bits of the deepest nodes are no wider than the grid's cells.
  deepest = int(np.ceil(np.log2(1 / counts.cell.min()) - 1e-6))
  rows, cells, level = np.zeros(1, int), np.zeros((1, 3), int), 0
  while len(rows):
    side = SIDE * 0.5**level
    low = LOW + cells * side  # [n, 3]
    part = side / bricks.BRICK
    full, _ = counts.of_boxes(low[:, None] + _CELLS * part, part)
    found.words[rows] = bricks.pack_occupancy(
        (full > 0).reshape((-1,) + 3 * (bricks.BRICK,))
    )
    found.levels[rows] = max(level - LEVELS_ABOVE, 0)
    children = _model_octants(rows, model_children)
    if level < deepest:
      some, all_cells = counts.of_boxes(
          low[:, None] + _OCTANTS * (side / 2), side / 2
      )
      new = (children < 0) & (some > 0) & (some < all_cells)
      children[new] = found.add(np.count_nonzero(new))
    found.children[rows] = children
    parent, octant = np.nonzero(children >= 0)
    rows = children[parent, octant]
    cells, level = 2 * cells[parent] + _OCTANTS[octant], level + 1
  depth = level - 1 - LEVELS_ABOVE - int(found.levels[found.slots >= 0].max())
  return Traversal(
      *(jnp.asarray(a) for a in (found.children, found.slots, found.words)),
      level_of_node=jnp.asarray(np.where(found.slots < 0, 0, found.levels)),
      levels_below=jnp.zeros(max(depth, 0), jnp.int32),
  )


def level_footprints(
    policy: levels_lib.LevelPolicy, *, root_gsd: float, max_level: int
) -> np.ndarray:
  """A policy as the footprints below which it enters levels 1 to max_level.

  Args:
    policy: footprint to level, coarser for larger footprints.
    root_gsd: metres.
    max_level: deepest level.

  Returns:
    [max_level] float32, metres, found by bisection to float32's last digits.
  """
  low = np.full(max_level, np.log2(root_gsd) - 60.0)
  high = low + 120.0
  wanted = np.arange(1, max_level + 1)
  with jax.ensure_compile_time_eval():
    for _ in range(48):
      middle = (low + high) / 2
      level = policy(
          np.exp2(middle).astype(np.float32),
          root_gsd=root_gsd, max_level=max_level,
      )  # fmt: skip
      enters = np.asarray(level) >= wanted
      low, high = np.where(enters, middle, low), np.where(enters, high, middle)
  return np.exp2(high).astype(np.float32)
