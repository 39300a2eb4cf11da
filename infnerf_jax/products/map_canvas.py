"""The pixels of a map: bounds, tiles, and the vertical camera of each tile."""

import math
from typing import Iterator, NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame

# GDAL and all that reads GeoTIFFs count pixels in 32 bits.
_MAX_SIDE = 2**31 - 1
_MAX_PIXELS = 10**12


class Tile(NamedTuple):
  """A rectangle of a canvas: first row and column, and pixels."""

  row: int
  column: int
  height: int
  width: int


class Canvas(NamedTuple):
  """A map's pixels; north is up.

  Attributes:
    left: east coordinate of the left edge, metres.
    top: north coordinate of the upper edge, metres.
    gsd: metres a pixel.
    width: pixels.
    height: pixels.
    tile_size: pixels along a tile's side.
  """

  left: float
  top: float
  gsd: float
  width: int
  height: int
  tile_size: int

  @property
  def bounds(self) -> tuple[float, float, float, float]:
    """West, south, east and north, metres."""
    return self.rectangle(Tile(0, 0, self.height, self.width))

  @property
  def geotransform(self) -> tuple[float, ...]:
    """As GDAL writes it."""
    return (self.left, self.gsd, 0.0, self.top, 0.0, -self.gsd)

  def rectangle(self, tile: Tile) -> tuple[float, float, float, float]:
    """West, south, east and north of a tile, metres."""
    west = self.left + tile.column * self.gsd
    north = self.top - tile.row * self.gsd
    return (
        west,
        north - tile.height * self.gsd,
        west + tile.width * self.gsd,
        north,
    )

  @property
  def num_tiles(self) -> int:
    size = self.tile_size
    return -(-self.width // size) * -(-self.height // size)

  def tiles(self) -> Iterator[Tile]:
    """All tiles, row by row."""
    size = self.tile_size
    for row in range(0, self.height, size):
      for column in range(0, self.width, size):
        yield Tile(
            row,
            column,
            min(size, self.height - row),
            min(size, self.width - column),
        )


def parse_bounds(text: str) -> tuple[float, float, float, float]:
  """West, south, east, north from `W,S,E,N`.

  Raises:
    InputError: not four finite numbers in order.
  """
  try:
    west, south, east, north = (float(x) for x in text.split(','))
    is_good = all(map(math.isfinite, (west, south, east, north)))
    is_good = is_good and west < east and south < north
  except ValueError:
    is_good = False
  if not is_good:
    raise errors.InputError(
        f'--bounds: got {text!r}, expected west,south,east,north in the'
        " map's metres, west < east and south < north"
    )
  return west, south, east, north


def check_gsd(gsd: float) -> None:
  """Refuses a ground sampling distance that is none."""
  if not (math.isfinite(gsd) and gsd > 0):
    raise errors.InputError(
        f'--gsd: got {gsd:g}, expected metres a pixel above 0'
    )


def scene_box(frame: map_frame.MapFrame, sample_aabb) -> np.ndarray:
  """[2, 3] box around a scene's box in map coordinates, metres."""
  picks = np.array(list(np.ndindex(2, 2, 2)))
  corners = np.asarray(sample_aabb, np.float64)[picks, np.arange(3)]
  moved = frame.from_scene(corners)
  return np.stack([moved.min(axis=0), moved.max(axis=0)])


def overlaps(rectangle, box) -> bool:
  """Whether (west, south, east, north) meets a [2, 3] box."""
  west, south, east, north = rectangle
  return bool(
      west < box[1][0]
      and east > box[0][0]
      and south < box[1][1]
      and north > box[0][1]
  )


def make_canvas(gsd: float, bounds, box, *, tile_size: int) -> Canvas:
  """Lays out a map.

  Args:
    gsd: metres a pixel.
    bounds: west, south, east, north in metres; the map begins at its north
      west and covers it. None: the scene's box, on multiples of the gsd, so
      that neighbouring maps share their pixels' grid.
    box: [2, 3] of the scene in map coordinates, metres.
    tile_size: pixels.

  Returns:
    Canvas.

  Raises:
    InputError: the gsd is not positive, bounds miss the scene, or there are
      more pixels than a file can have.
  """
  check_gsd(gsd)
  if bounds is None:
    low = np.floor(box[0, :2] / gsd + 1e-6) * gsd
    high = np.ceil(box[1, :2] / gsd - 1e-6) * gsd
    bounds = (*low.tolist(), *high.tolist())
  west, south, east, north = bounds
  if not overlaps(bounds, box):
    raise errors.InputError(
        f'--bounds: got {west:g},{south:g},{east:g},{north:g} outside the'
        f' scene, expected a part of {box[0][0]:.3f},{box[0][1]:.3f},'
        f'{box[1][0]:.3f},{box[1][1]:.3f}'
    )
  columns, rows = (
      max(1, math.ceil(side / gsd - 1e-6))
      for side in (east - west, north - south)
  )
  if max(columns, rows) > _MAX_SIDE or columns * rows > _MAX_PIXELS:
    raise errors.InputError(
        f'--gsd: got {gsd:g}, which makes {columns:.3g} x {rows:.3g} pixels,'
        f' expected at most {_MAX_PIXELS:.0e} in all'
    )
  return Canvas(west, north, gsd, columns, rows, tile_size)


def tile_camera(
    canvas: Canvas, tile: Tile, frame: map_frame.MapFrame, height: float
) -> cameras_lib.Cameras:
  """An orthographic camera that looks straight down on a tile.

  Where the map's axes are not the scene's, they are taken straight within
  the tile: over a few thousand pixels the curvature of a map projection is
  far below a pixel.

  Args:
    canvas: map.
    tile: of it.
    frame: where the scene lies.
    height: of the camera in map coordinates, metres.

  Returns:
    Cameras, a single row, whose pixels are the tile's.
  """
  west, south, east, north = canvas.rectangle(tile)
  center = np.array([(west + east) / 2, (south + north) / 2, height])
  reach = np.array([east - west, north - south, 1.0])
  ends = center + np.diag(reach) / 2
  starts = center - np.diag(reach) / 2
  axes = (frame.to_scene(ends) - frame.to_scene(starts)) / reach[:, None]
  up = axes[2] / np.linalg.norm(axes[2])
  right = axes[0] - up * (axes[0] @ up)
  scale = float(np.linalg.norm(right))
  right /= scale
  pose = np.stack(
      [right, -np.cross(up, right), -up, frame.to_scene(center)], axis=-1
  )
  return cameras_lib.make_camera(
      focal=1 / (canvas.gsd * scale),
      width=tile.width,
      height=tile.height,
      cam_to_world=pose,
      projection=cameras_lib.ORTHOGRAPHIC,
  )
