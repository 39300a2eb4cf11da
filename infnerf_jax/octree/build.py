"""Builds the octree top-down from sparse points and their footprints."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import boxes
from infnerf_jax.octree import footprints as footprints_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import scene as scene_lib

_OCTANTS = np.array([[o >> 2 & 1, o >> 1 & 1, o & 1] for o in range(8)])
# Strays of structure from motion lie outside these percentiles.
_ROOT_PERCENTILES = (0.5, 99.5)
_ROOT_MARGIN = 1.05
_DEEPEST_UNCUT = 10
_SAMPLE_PERCENTILES = (0.01, 99.99)
# Share of points that an automatic grid size refines to the target depth.
_AUTO_PERCENTILE = 35.0


@dataclasses.dataclass(frozen=True)
class BuildOptions:
  """How a tree is built; lengths are metres.

  Attributes:
    max_depth: deepest level allowed (the root is level 0).
    grid_size: cells along a node at its finest scale (2048 in the paper); 0
      derives it so that the points' footprints reach `target_depth`.
    target_depth: deepest level that an automatic grid size aims at.
    max_gsd: the root's node_gsd, 0 derives it from the root's side.
    min_gsd: no level is finer; 0 is no limit.
    scene_bound: half the root's side, 0 derives it from the points.
    root_octaves: doublings of that derived side; pixels coarser than the
      root's cells alias.
    use_pruning: keep only nodes with points; False keeps all down to
      `max_depth`.
    min_points: a node needs more points than this.
    min_cameras: points seen by fewer cameras are dropped.
    max_nodes: trees above this are refused.
    box_margin: how far rays' box goes beyond the points', horizontally, as a
      share of its size.
  """

  max_depth: int = 8
  grid_size: int = 0
  target_depth: int = 3
  max_gsd: float = 0.0
  min_gsd: float = 0.0
  scene_bound: float = 0.0
  root_octaves: int = 0
  use_pruning: bool = True
  min_points: int = 0
  min_cameras: int = 3
  max_nodes: int = 100_000
  box_margin: float = 0.25


class BuiltOctree(NamedTuple):
  """A tree and what is known of its making.

  Attributes:
    octree: the tree.
    sample_aabb: [2, 3] float64, metres; rays are clipped to it.
    report: counts and reasons for `scene_report.json`.
  """

  octree: tree_lib.Octree
  sample_aabb: np.ndarray
  report: dict[str, Any]


def _root_cube(points, options):
  """([3] centre, side) of the root around the bulk of the points."""
  box = boxes.percentile_aabb(points, *_ROOT_PERCENTILES)
  center = box.mean(axis=0)
  side = float(np.max(box[1] - box[0])) * _ROOT_MARGIN
  side *= 2.0**options.root_octaves
  if options.scene_bound:
    side = 2 * options.scene_bound
  if not side > 0:
    raise errors.InputError(
        'sparse points: all lie at one place, expected points of a scene with'
        ' an extent'
    )
  return _uncut(center, box[1] - box[0], side), side


def _uncut(center, extent, side):
  """Moves the root so that no thin axis of a capture is cut early.

  A landscape in the middle of its root would be split into an upper and a
  lower half at every level: twice the nodes, and surfaces that cross from one
  node into the other. Along an axis where the points fill less than half of
  the root they are put into the middle of the smallest cell that holds them.
  """
  thin = np.maximum(extent * _ROOT_MARGIN, side / 2.0**_DEEPEST_UNCUT)
  level = np.floor(np.log2(side / thin))
  return center - np.where(level >= 1, side / 2.0 ** (level + 1), 0.0)


def points_aabb(points, box_margin):
  """[2, 3] the points' box, widened in the horizontal."""
  box = boxes.percentile_aabb(points, *_SAMPLE_PERCENTILES)
  size = box[1] - box[0]
  margin = size * np.array([box_margin, box_margin, 0.0])
  margin += 0.02 * size.max()  # points stop at surfaces; leave them some air
  return np.stack([box[0] - margin, box[1] + margin])


def _grid_size(side, footprint, sightings, options):
  """Cells along a node's side at its finest grid scale."""
  if options.max_gsd:
    grid_size = round(side / (2 * options.max_gsd))
    limit = options.grid_size or 2048
    if not 1 <= grid_size <= limit:
      raise errors.InputError(
          f'octree.max_gsd: got {options.max_gsd} m, which needs a grid of'
          f' {grid_size} over a root of {side:.6g} m, expected at most'
          f' grid_size = {limit}'
      )
    return grid_size
  if options.grid_size:
    return options.grid_size
  if not np.any(np.isfinite(footprint)):
    return 256
  typical = np.percentile(footprint[np.isfinite(footprint)], _AUTO_PERCENTILE)
  finest = side / (2 * typical)
  depth = min(options.target_depth, options.max_depth)
  cells = finest / 2.0**depth
  middle = sightings[1]
  if one_altitude(sightings):
    # All photos show the same detail: put it into the middle of an octave, so
    # that a ray does not change nodes with every jitter of its footprint.
    octave = np.log2(side / (2 * middle) / cells)
    cells *= 2.0 ** (octave - np.floor(octave) - 0.5)
  return int(np.clip(np.ceil(cells / 16) * 16, 32, 2048))


def one_altitude(sightings) -> bool:
  """Whether (nearly) all sightings of points are within an octave."""
  near, _, far = sightings
  return bool(np.isfinite(near) and far < 2 * near)


def max_level_of(side: float, grid_size: int, options: BuildOptions) -> int:
  """Deepest level that max_depth and min_gsd allow."""
  root_gsd = side / (2 * grid_size)
  level = options.max_depth
  if options.min_gsd:
    # A relative tolerance keeps an exact power of two on its level.
    level = min(
        level, int(np.floor(np.log2(root_gsd / options.min_gsd) + 1e-9))
    )
  return max(level, 0)


def existing_cells(
    points, footprint, *, center, side, grid_size, max_level, min_points=0
) -> list[np.ndarray]:
  """Cells that the points justify, level by level.

  A child exists if more than `min_points` points whose footprint is below its
  parent's node_gsd lie in it.

  Args:
    points: [P, 3] metres.
    footprint: [P] metres.
    center: [3] metres.
    side: metres.
    grid_size: cells along a node's side at its finest grid scale.
    max_level: deepest level.
    min_points: see above.

  Returns:
    One [N_level, 3] int array a level, from the root.
  """
  unit = (points - (np.asarray(center) - side / 2)) / side
  inside = np.all((unit >= 0) & (unit < 1), axis=-1)
  unit, footprint = unit[inside], footprint[inside]
  cells = [np.zeros((1, 3), np.int64)]
  for level in range(1, max_level + 1):
    parent_gsd = side / (2 * grid_size) / 2.0 ** (level - 1)
    fine = footprint < parent_gsd
    unit, footprint = unit[fine], footprint[fine]
    coord = np.floor(unit * 2.0**level).astype(np.int64)
    found, count = np.unique(coord, axis=0, return_counts=True)
    found = found[count > min_points]
    if not len(found):
      break
    cells.append(found)
  return cells


def _full_cells(max_level, max_nodes):
  """All cells down to a level."""
  num_nodes = (8 ** (max_level + 1) - 1) // 7
  if num_nodes > max_nodes:
    raise errors.InputError(
        f'octree.use_pruning: got False with max_depth {max_level}, which'
        f' makes {num_nodes} nodes, expected at most {max_nodes}'
    )
  cells = [np.zeros((1, 3), np.int64)]
  for _ in range(max_level):
    cells.append((2 * cells[-1][:, None] + _OCTANTS).reshape(-1, 3))
  return cells


def _kept(seen, min_cameras):
  """[P] bool: points that enough cameras see."""
  kept = seen.num_cameras >= min_cameras
  # Fewer than three photos can never give three views of a point.
  if not np.any(kept):
    kept = seen.num_cameras > 0
  if not np.any(kept):
    raise errors.InputError(
        'sparse points: no camera sees any of them, expected points in front'
        ' of the cameras (do poses and points share a frame?)'
    )
  return kept


def seen_points(
    scene: scene_lib.Scene, options: BuildOptions, pixel_size: float
) -> tuple[footprints_lib.PointFootprints, np.ndarray, np.ndarray]:
  """Points that enough photos see, and the finest that they see there.

  Args:
    scene: photos, cameras, points.
    options: see `BuildOptions`.
    pixel_size: width of a training pixel in full-size pixels.

  Returns:
    (of all points, [K, 3] metres, [K] footprints in metres).

  Raises:
    InputError: no photo sees any of them.
  """
  seen = footprints_lib.point_footprints(scene, pixel_size=pixel_size)
  kept = _kept(seen, options.min_cameras)
  return seen, scene.points.positions[kept], seen.footprint[kept]


def build_octree(
    scene: scene_lib.Scene,
    options: BuildOptions = BuildOptions(),
    *,
    pixel_size: float = 1.0,
) -> BuiltOctree:
  """Builds the octree of a scene from its sparse points.

  A scene without points gets a root around its cameras' common view and no
  children: nothing says where detail is; the report tells so.

  Args:
    scene: photos, cameras, points.
    options: see `BuildOptions`.
    pixel_size: width of a training pixel in full-size pixels.

  Returns:
    BuiltOctree.

  Raises:
    InputError: a tree that the options forbid.
  """
  if scene.points is None or not len(scene.points.positions):
    return _build_without_points(scene, options)
  seen, points, footprint = seen_points(scene, options, pixel_size)
  center, side = _root_cube(points, options)
  grid_size = _grid_size(side, footprint, seen.sightings, options)
  max_level = max_level_of(side, grid_size, options)
  automatic = not (options.grid_size or options.max_gsd)
  automatic = automatic and options.use_pruning
  if automatic and one_altitude(seen.sightings):
    # The nearest few sightings would open a level that hardly any ray sees.
    max_level = min(max_level, options.target_depth)
  if options.use_pruning:
    cells = existing_cells(
        points,
        footprint,
        center=center,
        side=side,
        grid_size=grid_size,
        max_level=max_level,
        min_points=options.min_points,
    )
  else:
    cells = _full_cells(max_level, options.max_nodes)
  octree = tree_lib.from_coords(
      cells, center=center, side=side, grid_size=grid_size
  )
  if octree.num_nodes > options.max_nodes:
    raise errors.InputError(
        f'octree: got {octree.num_nodes} nodes, expected at most'
        f' octree.max_nodes = {options.max_nodes}: raise grid_size or min_gsd'
    )
  report = {
      'points': len(scene.points.positions),
      'points_kept': len(points),
      'visibility': 'frustum' if seen.from_frustum else 'tracks',
      'footprint_median': float(np.median(footprint)),
      'one_altitude': one_altitude(seen.sightings),
      'nodes_by_level': np.bincount(octree.level).tolist(),
      'grid_size': int(grid_size),
      'root_side': float(side),
      'root_gsd': float(octree.root_gsd),
  }
  return BuiltOctree(octree, points_aabb(points, options.box_margin), report)


def _build_without_points(scene, options):
  """A lone root where the cameras look, for scenes without sparse points."""
  pose = np.asarray(scene.cameras.cam_to_world)
  centers, forward = pose[:, :, 3], pose[:, :, 2]
  # Least-squares meeting point of the optical axes.
  normal = np.eye(3) - forward[:, :, None] * forward[:, None, :]
  normal_sum = normal.sum(axis=0) + 1e-6 * len(pose) * np.eye(3)
  target = np.linalg.solve(
      normal_sum,
      np.einsum('nij,nj->i', normal, centers)
      + 1e-6 * len(pose) * centers.mean(axis=0),
  )
  distance = np.linalg.norm(centers - target, axis=-1)
  bound = options.scene_bound or max(float(np.median(distance)), 1e-3)
  octree = tree_lib.from_coords(
      [np.zeros((1, 3), np.int64)],
      center=target,
      side=2 * bound,
      grid_size=options.grid_size or 512,
  )
  report = {
      'points': 0,
      'octree': (
          'root only: the scene has no sparse points, so nothing says where'
          ' detail is; the root is centred where the cameras look'
      ),
      'nodes_by_level': [1],
      'grid_size': int(octree.grid_size),
      'root_side': float(octree.side),
      'root_gsd': float(octree.root_gsd),
  }
  far = np.array([[-1.0] * 3, [1.0] * 3]) * 8 * bound + target
  return BuiltOctree(octree, far, report)
