"""A camera's view as tiles: pyramids of rays with their ranges of footprint.

A picture is cut into tiles. The rays of a tile lie within four planes; their
cone slopes lie between two bounds. This holds for pinholes, lenses with
distortion, fisheyes and orthographic cameras alike, so what follows needs to
know only planes. All bounds are wide of the truth, never inside.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib

# Tiles across and down; more are tighter and slower.
_TILES = (12, 9)
# Rays that are looked at along a tile's side, ends included.
_SIDE = 5
# Between two of those a lens bends less than this share of a tile.
_BEND = 0.04
_SLOPE_MARGIN = 0.01
# Beyond this angle from its axis a tile's planes bound nothing.
_MIN_COS = 0.3


class ViewTiles(NamedTuple):
  """T tiles of one camera.

  A point p lies in a tile if `normals . (p - origin) + offsets >= 0` for all
  four planes. Lengths are metres.

  Attributes:
    origin: [3] float64, the camera's centre.
    normals: [T, 4, 3] float64, inwards, unit.
    offsets: [T, 4].
    axis: [T, 3] unit, the middle of the tile's rays.
    min_cos: [T] of the angle between axis and rays.
    components: [T, 2, 3] smallest and largest of the rays' unit directions'
      components along the world's axes.
    slope: [T, 2] smallest and largest cone slope.
    base: [T, 2] footprint at the origin.
    is_bounded: [T] False where the planes bound nothing.
  """

  origin: np.ndarray
  normals: np.ndarray
  offsets: np.ndarray
  axis: np.ndarray
  min_cos: np.ndarray
  components: np.ndarray
  slope: np.ndarray
  base: np.ndarray
  is_bounded: np.ndarray


@functools.cache
def _rays_of_pixels():
  return jax.jit(cameras_lib.pixels_to_directions)


def _grid_rays(camera, pixel_size, margin):
  """Directions and slopes [rows, columns, ...] over the picture's pixels."""
  across, down = (n * (_SIDE - 1) + 1 for n in _TILES)
  columns = np.linspace(0, float(camera.width) + margin, across)
  rows = np.linspace(0, float(camera.height) + margin, down)
  pix = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float32)
  shape = pix.shape[:2]
  direction, slope = _rays_of_pixels()(
      pix,
      np.broadcast_to(np.int32(camera.projection), shape),
      np.broadcast_to(camera.intrinsics.astype(np.float32), shape + (4,)),
      np.broadcast_to(camera.distortion.astype(np.float32), shape + (8,)),
  )
  direction = np.asarray(direction, np.float64)
  direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
  return direction, np.asarray(slope, np.float64) * pixel_size


def _by_tile(grid):
  """[T, _SIDE * _SIDE, ...] of [rows, columns, ...]; tiles share borders."""
  across, down = (np.arange(n)[:, None] * (_SIDE - 1) for n in _TILES)
  columns, rows = across + np.arange(_SIDE), down + np.arange(_SIDE)
  tiles = grid[rows[:, None, :, None], columns[None, :, None, :]]
  return tiles.reshape((len(rows) * len(columns), _SIDE**2) + grid.shape[2:])


def _orthographic_tiles(camera, rotation, origin, slope, beyond) -> ViewTiles:
  """One prism: all rays are parallel and of one footprint."""
  focal, center = camera.intrinsics[:2], camera.intrinsics[2:]
  low = -center / focal
  high = (np.array([camera.width, camera.height]) + beyond - center) / focal
  margin = 1e-6 * (high - low)
  right, down, forward = rotation.T
  base = float(slope[0, 0])
  return ViewTiles(
      origin=origin,
      normals=np.stack([right, -right, down, -down])[None],
      offsets=np.array(
          [[-low[0], high[0], -low[1], high[1]]] + np.repeat(margin, 2)
      ),
      axis=forward[None],
      min_cos=np.ones(1),
      components=np.stack([forward, forward])[None],
      slope=np.zeros((1, 2)),
      base=np.array([[1 - _SLOPE_MARGIN, 1 + _SLOPE_MARGIN]]) * base,
      is_bounded=np.ones(1, bool),
  )


def view_tiles(
    camera: cameras_lib.Cameras,
    *,
    pixel_size: float = 1.0,
    proposal_stride: int = 1,
) -> ViewTiles:
  """Cuts a camera's view into tiles.

  Args:
    camera: a single row.
    pixel_size: width of a picture's pixel in full-size pixels.
    proposal_stride: of `RenderOptions`; its corners may lie beyond the
      picture's right and lower end, and look there.

  Returns:
    ViewTiles.
  """
  camera = cameras_lib.Cameras(*(np.squeeze(np.asarray(x)) for x in camera))
  pose = camera.cam_to_world.astype(np.float64)
  rotation, origin = pose[:, :3], pose[:, 3]
  beyond = (proposal_stride - 1) * pixel_size
  direction, slope = _grid_rays(camera, pixel_size, beyond)
  if int(camera.projection) == cameras_lib.ORTHOGRAPHIC:
    return _orthographic_tiles(camera, rotation, origin, slope, beyond)
  rays = _by_tile(direction @ rotation.T)  # [T, K, 3]
  slopes = _by_tile(slope)
  axis = rays.mean(axis=1)
  axis /= np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
  cos = np.einsum('tkc,tc->tk', rays, axis)
  bounded = cos.min(axis=-1) > _MIN_COS
  # A frame about the axis, along the picture's rows.
  right = rotation[:, 0] - axis * (axis @ rotation[:, 0])[:, None]
  short = np.linalg.norm(right, axis=-1) < 0.1
  if short.any():
    other = rotation[:, 1] - axis * (axis @ rotation[:, 1])[:, None]
    right = np.where(short[:, None], other, right)
  right /= np.linalg.norm(right, axis=-1, keepdims=True)
  down = np.cross(axis, right)
  normals, span = [], np.zeros(len(axis))
  for side in (right, down):
    tangent = np.einsum('tkc,tc->tk', rays, side) / np.maximum(cos, _MIN_COS)
    low, high = tangent.min(axis=-1), tangent.max(axis=-1)
    margin = _BEND * (high - low) + 1e-9
    span = np.maximum(span, margin)
    normals.append(side - (low - margin)[:, None] * axis)
    normals.append((high + margin)[:, None] * axis - side)
  normals = np.stack(normals, axis=1)
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  widest = np.arccos(np.clip(cos.min(axis=-1), -1, 1)) + span
  factor = np.array([1 - _SLOPE_MARGIN, 1 + _SLOPE_MARGIN])
  # A unit vector that turns moves no component farther than it turns.
  turn = (np.sqrt(2) * span)[:, None]
  components = np.stack([rays.min(axis=1) - turn, rays.max(axis=1) + turn], 1)
  return ViewTiles(
      origin=origin,
      normals=normals,
      offsets=np.zeros((len(axis), 4)),
      axis=axis,
      min_cos=np.where(bounded, np.cos(np.minimum(widest, 1.5)), 1e-3),
      components=components,
      slope=np.stack([slopes.min(-1), slopes.max(-1)], axis=-1) * factor,
      base=np.zeros((len(axis), 2)),
      is_bounded=bounded,
  )
