"""Extends an octree by what new points ask for: same root, same grid.

Nodes keep their `node_key`, which is permanent; their rows change, for rows run
level by level in Morton order.
"""

import numpy as np

from infnerf_jax import errors
from infnerf_jax.octree import build
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import scene as scene_lib

# Strays of structure from motion; more points than this outside of the root
# are a part of the capture, which only the root's background would show.
_MAX_OUTSIDE = 0.01


def with_cells(
    octree: tree_lib.Octree, cells: list[np.ndarray]
) -> tree_lib.Octree:
  """The tree with more cells.

  Args:
    octree: tree.
    cells: one [N_level, 3] array a level from the root; the parent of each is
      among them or in the tree.

  Returns:
    Octree.
  """
  coords = []
  for level in range(max(octree.num_levels, len(cells))):
    parts = [octree.coord[octree.level == level]]
    parts += [cells[level]] if level < len(cells) else []
    coords.append(np.unique(np.concatenate(parts), axis=0))
  return tree_lib.from_coords(
      coords,
      center=octree.center,
      side=octree.side,
      grid_size=octree.grid_size,
  )


def rows_of_keys(octree: tree_lib.Octree, keys) -> np.ndarray:
  """Rows of nodes by their permanent keys.

  Args:
    octree: tree.
    keys: [...] int64.

  Returns:
    [...] int64; -1 where the tree has no such node.
  """
  own = tree_lib.node_key(octree.level, octree.coord)
  order = np.argsort(own)
  at = np.minimum(np.searchsorted(own[order], keys), len(own) - 1)
  return np.where(own[order][at] == keys, order[at], -1)


def _level_limit(octree, sightings, options):
  """Deepest level that the new photos may open."""
  limit = build.max_level_of(octree.side, octree.grid_size, options)
  automatic = not (options.grid_size or options.max_gsd)
  if automatic and build.one_altitude(sightings):
    # The nearest few sightings would open a level that hardly any ray sees.
    typical = np.ceil(np.log2(octree.root_gsd / sightings[1]))
    limit = min(limit, max(0, int(typical)))
  return limit


def extend_octree(
    octree: tree_lib.Octree,
    sample_aabb,
    scene: scene_lib.Scene,
    options: build.BuildOptions,
    *,
    pixel_size: float,
    name: str,
) -> tuple[tree_lib.Octree, np.ndarray]:
  """Adds the nodes that a scene's points justify.

  Args:
    octree: tree.
    sample_aabb: [2, 3] metres, box of its rays.
    scene: new photos and points, in the tree's frame.
    options: as the tree was built.
    pixel_size: width of a training pixel in full-size pixels.
    name: of the scene, for messages.

  Returns:
    (Octree, [2, 3] box of the old and the new rays).

  Raises:
    InputError: no points; points beyond the root; too many nodes.
  """
  if scene.points is None or not len(scene.points.positions):
    raise errors.InputError(
        f'{name}: sparse points: got none, expected some: they say where nodes'
        ' are to grow'
    )
  seen, points, footprint = build.seen_points(scene, options, pixel_size)
  unit = (points - octree.root_min) / octree.side
  outside = 1 - np.mean(np.all((unit >= 0) & (unit < 1), axis=-1))
  if outside > _MAX_OUTSIDE:
    raise errors.InputError(
        f'{name}: sparse points: got {outside:.0%} of them outside of the'
        " octree's root, which stays as it is, expected at most"
        f' {_MAX_OUTSIDE:.0%}: a run that is to be extended to the side needs'
        ' config.root_octaves or config.scene_bound from its start'
    )
  cells = []
  if options.use_pruning:
    cells = build.existing_cells(
        points,
        footprint,
        center=octree.center,
        side=octree.side,
        grid_size=octree.grid_size,
        max_level=_level_limit(octree, seen.sightings, options),
        min_points=options.min_points,
    )
  extended = with_cells(octree, cells)
  if extended.num_nodes > options.max_nodes:
    raise errors.InputError(
        f'{name}: octree: got {extended.num_nodes} nodes, expected at most'
        f' octree.max_nodes = {options.max_nodes}'
    )
  box = build.points_aabb(points, options.box_margin)
  old = np.asarray(sample_aabb, np.float64)
  box = np.stack([np.minimum(old[0], box[0]), np.maximum(old[1], box[1])])
  return extended, box
