"""Where something is: a grid of cells, made once from a scene's densities.

A sample in an empty cell is not evaluated. The grid is made after training, of
all levels at once, because a view may meet any of them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import node_evaluation, scene_model
from kernels.locate import api as locate_op

# A cell is empty if a ray through it would lose less than this.
MIN_ALPHA = 1e-3
_BLOCK = 1 << 16
# Places in a cell, in cells, that are looked at: irregular, so that layers
# along the axes are not missed.
_PLACES = np.array(
    [[0.5, 0.5, 0.5], [0.1, 0.35, 0.85], [0.85, 0.15, 0.3],
     [0.35, 0.85, 0.1]], np.float32
)  # fmt: skip


class Occupancy(NamedTuple):
  """Cells of a box; root units.

  Attributes:
    occupied: [X * Y * Z] bool, z fastest.
    shape: [3] int32.
    low: [3] float32, lower corner.
    cell: [3] float32, width of a cell.
  """

  occupied: jax.Array
  shape: jax.Array
  low: jax.Array
  cell: jax.Array


def is_occupied(occupancy: Occupancy, rays, t, root_side: float):
  """Whether samples lie in occupied cells; beyond the grid all are.

  Args:
    occupancy: grid.
    rays: [R].
    t: [R, S] metres.
    root_side: metres.

  Returns:
    [R, S] bool.
  """
  origin = (rays.origins - occupancy.low) + rays.origins_lo
  step = rays.directions / root_side
  x = origin[:, None] + t[..., None] * step[:, None]  # [R, S, 3]
  cell = jnp.floor(x / occupancy.cell).astype(jnp.int32)
  inside = jnp.all((cell >= 0) & (cell < occupancy.shape), axis=-1)
  _, y, z = occupancy.shape
  index = (cell[..., 0] * y + cell[..., 1]) * z + cell[..., 2]
  return occupancy.occupied[jnp.where(inside, index, 0)] | ~inside


@functools.partial(jax.jit, static_argnames='spec')
def _densities(model, points, level, *, spec):
  """[P] densities per metre that samples of a level meet at points [P, 3]."""
  num = len(points)
  nothing = jnp.zeros((num, 3), jnp.float32)
  located = locate_op.locate(
      points, nothing, nothing, jnp.zeros((num, 1)),
      jnp.full((num, 1), level, jnp.int32),
      model.tree.children, model.tree.slot_of_node,
      root_side=spec.root_side, max_level=spec.max_level,
      implementation=spec.implementation,
  )  # fmt: skip
  slot = located.slot[:, 0]
  raw = node_evaluation.node_density(
      model.nodes, model.tree, located.position[:, 0], slot,
      jnp.arange(num, dtype=jnp.int32), spec=spec,
  )  # fmt: skip
  return jnp.where(slot < 0, 0.0, scene_model.density(raw, spec))


def _spread(cells):
  """[X, Y, Z] bool, also true beside what is occupied."""
  for axis in range(3):
    edge = [(0, 0)] * 3
    edge[axis] = (1, 1)
    wide = np.pad(cells, edge)
    size = cells.shape[axis]
    part = lambda first: np.take(wide, range(first, first + size), axis)  # noqa: B023
    cells = part(0) | part(1) | part(2)
  return cells


def make_occupancy(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    *,
    resolution: int = 256,
    min_alpha: float = MIN_ALPHA,
) -> Occupancy:
  """Looks at a scene's densities, of every level, in all cells of its box.

  Args:
    model: scene, all of whose nodes are resident.
    spec: static facts.
    resolution: cells along the longest side.
    min_alpha: opacity along a cell's width below which it is empty.

  Returns:
    Occupancy; cells beside occupied ones count as occupied.
  """
  low, high = np.asarray(model.sample_aabb, np.float32)
  width = float((high - low).max()) / resolution
  shape = np.maximum(np.ceil((high - low) / width - 1e-4), 1).astype(np.int32)
  cell = (high - low) / shape
  index = np.stack(np.unravel_index(np.arange(shape.prod()), shape), axis=-1)
  densest = np.zeros(len(index), np.float32)
  for place in _PLACES:
    for start in range(0, len(index), _BLOCK):
      part = index[start : start + _BLOCK]
      points = np.zeros((_BLOCK, 3), np.float32)
      points[: len(part)] = low + (part + place) * cell
      for level in range(spec.max_level + 1):
        found = _densities(model, points, np.int32(level), spec=spec)
        densest[start : start + len(part)] = np.maximum(
            densest[start : start + len(part)], np.asarray(found)[: len(part)]
        )
  alpha = -np.expm1(-densest * width * spec.root_side)
  occupied = _spread((alpha >= min_alpha).reshape(shape))
  return Occupancy(
      jnp.asarray(occupied.reshape(-1)), jnp.asarray(shape), jnp.asarray(low),
      jnp.asarray(cell),
  )  # fmt: skip
