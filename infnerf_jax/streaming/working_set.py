"""The nodes that a view can touch, found from the root down.

A node is touched if a sample of the view lies in its box, its footprint asks
for the node's level or a finer one, and nothing finer exists there. For each
octant of a node the view's tiles give the range of distances, hence of
footprints, hence of levels; octants outside of all tiles, or too far away to
be asked for, end the search. Work follows the nodes found, not the tree.
"""

import functools
from typing import NamedTuple, Protocol

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import levels as levels_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import tree_pages
from infnerf_jax.streaming import view_tiles as view_tiles_lib

_OCTANTS = np.array([[o >> 2 & 1, o >> 1 & 1, o & 1] for o in range(8)])
# Steps an octave at which a policy is tabulated.
_STEPS = 64
# Octaves beyond the tree's own at which the table ends.
_ENDS = 12
# Float32 places samples by at most this share of their distance elsewhere.
_ROUNDING = 1e-6


class Tree(Protocol):
  """What holds a tree's nodes (`storage.tree_pages`)."""

  def child_masks(self, keys) -> np.ndarray:
    """[K] uint8: bit `o` is set where the child of octant `o` exists."""


class Frame(NamedTuple):
  """Where a tree lies, and which samples rays take.

  Attributes:
    root_min: [3] float64 metres.
    root_side: metres.
    root_gsd: metres.
    max_level: deepest level.
    sample_aabb: [2, 3] metres that bound the samples, None without.
    near: metres.
    far: metres.
    policy: footprint to level; must not rise with the footprint.
    finer: octaves by which a sample's footprint may be smaller than the ray's.
    coarser: octaves by which it may be larger.
  """

  root_min: np.ndarray
  root_side: float
  root_gsd: float
  max_level: int
  sample_aabb: np.ndarray | None = None
  near: float = 0.0
  far: float = np.inf
  policy: levels_lib.LevelPolicy = levels_lib.determine_lod_level
  finer: float = 0.0
  coarser: float = 0.0


class WorkingSet(NamedTuple):
  """Nodes that a view can touch.

  Attributes:
    keys: [W] int64 node keys, rising, hence coarse before fine; the root is
      always there.
    bias: octaves by which the view was coarsened.
  """

  keys: np.ndarray
  bias: float = 0.0


def make_frame(
    octree: tree_lib.Octree,
    spec,
    options,
    sample_aabb,
    *,
    level_jitter: float = 0.0,
) -> Frame:
  """The frame of a model and its render options.

  Args:
    octree: gives place and size; its nodes are not looked at.
    spec: ModelSpec.
    options: RenderOptions.
    sample_aabb: [2, 3] metres.
    level_jitter: octaves by which footprints may be perturbed either way;
      pictures have none, a training step's rays half of one.

  Returns:
    Frame: its levels are those of the options' policy, its bias and its
    blending included, in every sampling round.
  """
  bias = float(options.proposal_bias)
  blend = float(getattr(options.level_policy, 'blend', 0.0))
  return Frame(
      root_min=octree.root_min,
      root_side=spec.root_side,
      root_gsd=spec.root_gsd,
      max_level=spec.max_level,
      sample_aabb=np.asarray(sample_aabb) if options.clip_to_box else None,
      near=options.near * spec.half_side,
      far=options.far * spec.half_side,
      policy=options.level_policy,
      finer=max(-bias, 0.0) + level_jitter,
      coarser=max(bias, 0.0) + blend + level_jitter,
  )


@functools.lru_cache(maxsize=64)
def _thresholds(policy, root_gsd: float, max_level: int) -> np.ndarray:
  """[max_level] log2 footprints below which levels 1, 2, ... are asked for.

  Infinite where even the table's ends do (or do not) ask for a level.
  """
  # A policy's bias shifts all of its levels.
  octaves = np.arange(-(max_level + _ENDS) * _STEPS, _ENDS * _STEPS + 1)
  octaves = octaves / _STEPS
  target = np.asarray(
      policy(
          (root_gsd * 2.0**octaves).astype(np.float32),
          root_gsd=root_gsd,
          max_level=max_level,
      )
  )
  if np.any(np.diff(target) > 0):
    raise ValueError('level policy: got levels that rise with the footprint')
  asked = target[None] >= np.arange(1, max_level + 1)[:, None]
  # The first footprint of the table that no longer asks for the level.
  ends = np.concatenate([[-np.inf], octaves[1:], [np.inf]])
  return ends[asked.sum(axis=1)] + np.log2(root_gsd)


def _level_range(frame: Frame, low, high):
  """Coarsest and finest level that footprints [...] low to high ask for."""
  # A table's step on either side.
  edges = -_thresholds(frame.policy, frame.root_gsd, frame.max_level)
  low = np.log2(np.maximum(low, 1e-300)) - frame.finer - 1 / _STEPS
  high = np.log2(np.maximum(high, 1e-300)) + frame.coarser + 1 / _STEPS
  return np.searchsorted(edges, -high), np.searchsorted(edges, -low, 'right')


def _slabs(components, low, high):
  """Distances between which rays may be between boxes' opposite faces.

  Args:
    components: [T, 2, 3] of tiles' directions.
    low: [B, 3] lower corners from the rays' origin, metres.
    high: [B, 3].

  Returns:
    ([B, T] nearest, [B, T] farthest) metres; farther than the farthest where
    no ray of a tile meets a box.
  """
  near = np.zeros((len(low), len(components)))
  far = np.full_like(near, np.inf)
  with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
    for axis in range(3):
      # Both ways: towards rising coordinates and towards falling ones.
      for slowest, fastest, enter, leave in (
          (components[:, 0, axis], components[:, 1, axis],
           low[:, axis], high[:, axis]),
          (-components[:, 1, axis], -components[:, 0, axis],
           -high[:, axis], -low[:, axis]),
      ):  # fmt: skip
        ahead, passed = enter[:, None] > 0, leave[:, None]
        reached = np.where(fastest > 0, enter[:, None] / fastest, np.inf)
        near = np.where(ahead, np.maximum(near, reached), near)
        left = np.where(slowest > 0, passed / slowest, np.inf)
        far = np.minimum(far, left)
  return near, far


def _distances(tiles, low, high, frame: Frame):
  """Distances at which tiles' rays may be in boxes.

  Args:
    tiles: ViewTiles.
    low: [B, 3] lower corners, metres.
    high: [B, 3].
    frame: limits.

  Returns:
    ([B, T] nearest, [B, T] farthest, [B, T] whether at all), metres.
  """
  if frame.sample_aabb is not None:
    margin = _ROUNDING * frame.root_side
    low = np.maximum(low, frame.sample_aabb[0] - margin)
    high = np.minimum(high, frame.sample_aabb[1] + margin)
  center, half = 0.5 * (low + high) - tiles.origin, 0.5 * (high - low)
  reach = np.linalg.norm(np.abs(center) + half, axis=-1)
  seen = np.all(half >= 0, axis=-1)[:, None] | np.zeros(len(tiles.axis), bool)
  half = np.maximum(half, 0) + _ROUNDING * reach[:, None]
  for side in range(4):
    normal = tiles.normals[:, side]
    inside = center @ normal.T + half @ np.abs(normal).T
    seen &= (inside + tiles.offsets[:, side] >= 0) | ~tiles.is_bounded
  depth = center @ tiles.axis.T
  thick = half @ np.abs(tiles.axis).T
  parallel = np.all(tiles.slope == 0)
  near, far = depth - thick, (depth + thick) / tiles.min_cos
  near = np.where(tiles.is_bounded, near, 0.0)
  far = np.where(tiles.is_bounded, far, np.inf)
  if not parallel:
    gap = np.linalg.norm(np.maximum(np.abs(center) - half, 0), axis=-1)
    near = np.maximum(near, gap[:, None])
    far = np.minimum(far, reach[:, None])
    first, last = _slabs(tiles.components, center - half, center + half)
    near = np.maximum(near, np.where(tiles.is_bounded, first, 0.0))
    far = np.minimum(far, np.where(tiles.is_bounded, last, np.inf))
  near = np.maximum(near, frame.near * (1 - _ROUNDING))
  far = np.minimum(far, frame.far * (1 + _ROUNDING))
  return near, far, seen & (far >= near)


def _octant_levels(tiles, frame, low, high, bias):
  """([B, T] coarsest, [B, T] finest, [B, T] seen) levels asked for in boxes."""
  near, far, seen = _distances(tiles, low, high, frame)
  factor = 2.0**bias
  smallest = tiles.base[:, 0] + near * tiles.slope[:, 0]
  largest = tiles.base[:, 1] + far * tiles.slope[:, 1]
  coarsest, finest = _level_range(frame, factor * smallest, factor * largest)
  return coarsest, finest, seen


def find(
    tree: Tree,
    frame: Frame,
    tiles: view_tiles_lib.ViewTiles,
    *,
    bias: float = 0.0,
    max_nodes: int | None = None,
) -> WorkingSet | None:
  """The nodes that a view can touch.

  Args:
    tree: what nodes exist.
    frame: where they lie.
    tiles: the view.
    bias: octaves that are added to every footprint.
    max_nodes: give up beyond this many.

  Returns:
    WorkingSet; None where there are more than `max_nodes`.
  """
  keys = np.array([tree_pages.ROOT_KEY], np.int64)
  cells = np.zeros((1, 3), np.int64)
  found, count = [], 0
  for level in range(frame.max_level + 1):
    masks = tree.child_masks(keys)
    exists = (masks[:, None] >> np.arange(8) & 1).astype(bool)  # [N, 8]
    octants = (2 * cells[:, None] + _OCTANTS).reshape(-1, 3)
    side = frame.root_side / 2.0 ** (level + 1)
    low = frame.root_min + octants * side
    coarsest, finest, seen = _octant_levels(tiles, frame, low, low + side, bias)
    asked = seen & (finest >= level)
    here = np.where(exists.reshape(-1)[:, None], coarsest <= level, True)
    touched = np.any(asked & here, axis=-1).reshape(-1, 8).any(axis=-1)
    if level == 0:
      touched[:] = True  # the root holds all that lies outside
    found.append(keys[touched])
    count += int(touched.sum())
    if max_nodes is not None and count > max_nodes:
      return None
    down = np.any(seen & (finest > level), axis=-1) & exists.reshape(-1)
    if not down.any():
      break
    keys = ((keys[:, None] << 3) | np.arange(8)).reshape(-1)[down]
    cells = octants[down]
  return WorkingSet(np.concatenate(found), bias)


def of_camera(
    tree: Tree,
    frame: Frame,
    camera: cameras_lib.Cameras,
    *,
    pixel_size: float = 1.0,
    bias: float = 0.0,
    max_nodes: int | None = None,
) -> WorkingSet | None:
  """`find` for a camera; pixels are `pixel_size` full-size pixels wide."""
  tiles = view_tiles_lib.view_tiles(camera, pixel_size=pixel_size)
  return find(tree, frame, tiles, bias=bias, max_nodes=max_nodes)


def that_fits(
    tree: Tree,
    frame: Frame,
    tiles: view_tiles_lib.ViewTiles,
    max_nodes: int,
    *,
    step: float = 1 / 16,
) -> WorkingSet:
  """The working set at the smallest level bias that fits.

  Args:
    tree: what nodes exist.
    frame: where they lie.
    tiles: the view.
    max_nodes: at least 1.
    step: octaves; the bias is a multiple.

  Returns:
    WorkingSet with its bias.
  """
  whole = find(tree, frame, tiles, max_nodes=max_nodes)
  if whole is not None:
    return whole
  # Beyond the last level plus what blending widens, only the root is left.
  low, high = 0, 1
  fitting = None
  while fitting is None:
    fitting = find(tree, frame, tiles, bias=high * step, max_nodes=max_nodes)
    if fitting is None:
      if high * step > 64:
        root = np.array([tree_pages.ROOT_KEY], np.int64)
        return WorkingSet(root, high * step)
      low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    trial = find(tree, frame, tiles, bias=middle * step, max_nodes=max_nodes)
    if trial is None:
      low = middle
    else:
      high, fitting = middle, trial
  return fitting
