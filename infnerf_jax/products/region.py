"""The part of a scene that is exported, and its tiles."""

import math
from typing import Iterator, NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import map_canvas

# Radius of a disc of a square pixel's area, in pixels.
_DISC = 1 / math.sqrt(math.pi)


class Region(NamedTuple):
  """What is exported, on a grid of one spacing.

  Attributes:
    low: [3] float64, lower corner in the scene's metres.
    size: [3] int64, cells.
    spacing: metres between neighbouring points.
    level: octree level whose samples are so far apart.
  """

  low: np.ndarray
  size: np.ndarray
  spacing: float
  level: int

  @property
  def high(self) -> np.ndarray:
    """[3] float64, upper corner in the scene's metres."""
    return self.low + self.size * self.spacing

  def tiles(self, cells: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """([3] first cell, [3] cells) of tiles of at most `cells` a side."""
    for start in np.ndindex(*(-(-self.size // cells))):
      first = np.array(start, np.int64) * cells
      yield first, np.minimum(cells, self.size - first)

  def num_tiles(self, cells: int) -> int:
    """How many tiles there are."""
    return int(np.prod(-(-self.size // cells)))


def sample_aabb(loaded) -> np.ndarray:
  """[2, 3] box of a LoadedScene's or StoreScene's points, metres."""
  header = getattr(getattr(loaded, 'store', None), 'header', None)
  box = header.sample_aabb if header else loaded.sample_aabb
  return np.asarray(box, np.float64)


def parse_bounds(text: str) -> tuple[float, ...]:
  """`west,south,east,north[,low,high]` in the map's metres.

  Raises:
    InputError: not four or six finite numbers in order.
  """
  parts = text.split(',')
  if len(parts) != 6:
    return map_canvas.parse_bounds(text)
  plane = map_canvas.parse_bounds(','.join(parts[:4]))
  try:
    low, high = float(parts[4]), float(parts[5])
  except ValueError:
    low = high = math.nan
  if not (math.isfinite(low) and math.isfinite(high) and low < high):
    raise errors.InputError(
        f'--bounds: got heights {parts[4]},{parts[5]}, expected low < high in'
        " the map's metres"
    )
  return (*plane, low, high)


def level_spacing(loaded, level: int) -> float:
  """Metres between samples that a level answers: its pixel's width.

  Args:
    loaded: a LoadedScene or StoreScene.
    level: octree level.

  Returns:
    The narrowest pixel of parallel rays whose footprint asks for it.
  """
  spec = loaded.spec
  bias = getattr(loaded.options.level_policy, 'bias', 0.0)
  gsd = spec.root_gsd / 2.0**level
  # Just above, so that rounding does not choose the level below.
  return float(1.001 * gsd * 2.0**-bias / _DISC)


def make_region(
    loaded, frame: map_frame.MapFrame, *, bounds=None, level: int | None = None
) -> Region:
  """The region of an export.

  Args:
    loaded: a LoadedScene or StoreScene.
    frame: where the scene lies.
    bounds: see `parse_bounds`; None is the scene's whole box.
    level: octree level; None is the finest.

  Returns:
    Region; it covers the bounds within the scene's box.

  Raises:
    InputError: bounds outside the scene, or no such level.
  """
  finest = loaded.spec.max_level
  level = finest if level is None else level
  if not 0 <= level <= finest:
    raise errors.InputError(
        f'--level: got {level}, expected a level of the octree, 0 to {finest}'
    )
  box = sample_aabb(loaded)
  if bounds is not None:
    box = _within(box, frame, bounds)
  spacing = level_spacing(loaded, level)
  size = np.maximum(np.ceil((box[1] - box[0]) / spacing - 1e-9), 1)
  return Region(box[0], size.astype(np.int64), spacing, level)


def _within(box, frame: map_frame.MapFrame, bounds) -> np.ndarray:
  """The scene's box cut by bounds on the map."""
  on_map = map_canvas.scene_box(frame, box)
  heights = bounds[4:] or (on_map[0, 2], on_map[1, 2])
  wanted = np.array([[*bounds[:2], heights[0]], [*bounds[2:4], heights[1]]])
  low = np.maximum(wanted[0], on_map[0])
  high = np.minimum(wanted[1], on_map[1])
  if not (low < high).all():
    found = ','.join(f'{x:g}' for x in bounds)
    raise errors.InputError(
        f'--bounds: got {found} outside the scene, expected a part of'
        f' {",".join(f"{x:.3f}" for x in on_map[:, :2].ravel())} with heights'
        f' {on_map[0, 2]:.3f} to {on_map[1, 2]:.3f}'
    )
  picks = np.array(list(np.ndindex(2, 2, 2)))
  corners = frame.to_scene(np.stack([low, high])[picks, np.arange(3)])
  return np.stack(
      [
          np.maximum(corners.min(axis=0), box[0]),
          np.minimum(corners.max(axis=0), box[1]),
      ]
  )
