"""True orthophotos and surface models of a trained scene.

Every pixel is the mean of a few vertical rays, each as wide as its share of
the pixel, so the octree answers it at the level of its ground size: a map of
any ground sampling distance is free of aliasing, and walls do not lean.
"""

import contextlib
import dataclasses
import os
import time
from typing import Any, Callable

import numpy as np

from infnerf_jax import errors, progress
from infnerf_jax.geometry import map_boundary, map_frame
from infnerf_jax.products import (
    map_canvas,
    map_files,
    map_pixels,
)

# Below this opacity a pixel shows nothing.
_MIN_OPACITY = 0.5
# Steps of the accuracy map, which compresses by what it does not resolve.
_OPACITY_STEPS, _LEVEL_STEPS = 256, 16
# Bytes a pixel that were measured on disk: tiles and mosaic side by side.
_DISK_BYTES = 24
# Places along a side of a scene that are looked up for what photos see.
_LOOK = 128


@dataclasses.dataclass(frozen=True)
class MapJob:
  """A map to be made.

  Attributes:
    pixels: what it is made of.
    frame: where the scene lies.
    canvas: its pixels.
    box: [2, 3] of the scene in map coordinates, metres.
    boundary: what lies outside is left empty; None is no boundary.
  """

  pixels: map_pixels.Pixels
  frame: map_frame.MapFrame
  canvas: map_canvas.Canvas
  box: np.ndarray
  boundary: map_boundary.Boundary | None = None

  @property
  def identity(self) -> dict[str, Any]:
    """All that decides the map, for its journal."""
    shapes = self.boundary.shapes if self.boundary else None
    return {
        'version': 1,
        **self.pixels.identity,
        **self.canvas._asdict(),
        'crs': self.frame.wkt,
        'boundary': shapes,
    }


def plan_map(
    pixels: map_pixels.Pixels,
    frame: map_frame.MapFrame,
    *,
    gsd: float,
    bounds=None,
    boundary: map_boundary.Boundary | None = None,
    tile_size: int = map_pixels.TILE_SIZES[0],
) -> MapJob:
  """Lays out a map.

  Args:
    pixels: what it is made of.
    frame: where the scene lies.
    gsd: metres a pixel.
    bounds: west, south, east, north in the map's metres; None is the
      boundary's, or else what photos see of the scene's box.
    boundary: what lies outside is left empty.
    tile_size: pixels.

  Returns:
    MapJob.

  Raises:
    InputError: see `map_canvas.make_canvas`.
  """
  box = map_canvas.scene_box(frame, pixels.sample_aabb)
  if bounds is None and boundary is not None:
    if not map_canvas.overlaps(boundary.bounds, box):
      raise errors.InputError(
          f'--boundary: got {boundary.bounds} outside the scene, expected a'
          f' part of {box[:, :2].ravel().tolist()}'
      )
    low, high = np.array(boundary.bounds).reshape(2, 2)
    low, high = np.maximum(low, box[0, :2]), np.minimum(high, box[1, :2])
    bounds = (*low.tolist(), *high.tolist())
  seen = box if bounds is not None else _seen_box(pixels, frame, box)
  canvas = map_canvas.make_canvas(gsd, bounds, seen, tile_size=tile_size)
  return MapJob(pixels, frame, canvas, box, boundary)


def _seen_box(pixels: map_pixels.Pixels, frame, box) -> np.ndarray:
  """[2, 3] part of a scene's box that photos see from above."""
  step = float((box[1] - box[0])[:2].max()) / _LOOK
  bounds = (*box[0, :2].tolist(), *box[1, :2].tolist())
  canvas = map_canvas.make_canvas(step, bounds, box, tile_size=2 * _LOOK)
  (tile,) = canvas.tiles()
  camera = map_canvas.tile_camera(canvas, tile, frame, float(box[1, 2]))
  nowhere = np.full((tile.height, tile.width), np.inf)
  photos = pixels.count_photos(camera, nowhere)
  if photos is None or not (photos >= pixels.min_photos).any():
    return box
  rows, columns = (
      np.flatnonzero((photos >= pixels.min_photos).any(axis=k)) for k in (1, 0)
  )
  seen = box.copy()
  # A step around it: between places that were looked at there is more.
  seen[0, 0] = max(box[0, 0], canvas.left + (columns[0] - 1) * step)
  seen[1, 0] = min(box[1, 0], canvas.left + (columns[-1] + 2) * step)
  seen[1, 1] = min(box[1, 1], canvas.top - (rows[0] - 1) * step)
  seen[0, 1] = max(box[0, 1], canvas.top - (rows[-1] + 2) * step)
  return seen


def render_tile(job: MapJob, tile: map_canvas.Tile):
  """The rasters of a tile.

  Args:
    job: map.
    tile: of its canvas.

  Returns:
    An array [bands, H, W] for each of `map_files.LAYERS`, or None where
    nothing of the scene is.
  """
  if not map_canvas.overlaps(job.canvas.rectangle(tile), job.box):
    return None
  inside = np.ones((tile.height, tile.width), bool)
  if job.boundary is not None:
    west, _, _, north = job.canvas.rectangle(tile)
    inside = job.boundary.inside(
        west, north, job.canvas.gsd, (tile.height, tile.width)
    )
    if not inside.any():
      return None
  top = float(job.box[1, 2]) + job.pixels.near
  camera = map_canvas.tile_camera(job.canvas, tile, job.frame, top)
  maps = job.pixels.render(camera)
  inside &= _in_box(job, camera)
  photos = job.pixels.count_photos(camera, maps.distance)
  if photos is not None:
    photos = np.floor(photos + 0.5)  # between two counts the nearer one
    inside &= photos >= job.pixels.min_photos
  if not inside.any():
    return None
  shows = inside & (maps.shown >= _MIN_OPACITY)
  rgb = np.round(255 * np.clip(maps.rgb, 0, 1)).astype(np.uint8)
  rgb[~shows] = 0
  alpha = np.where(shows, 255, 0).astype(np.uint8)
  has_surface = inside & np.isfinite(maps.distance)
  height = top - np.where(has_surface, maps.distance, 0.0).astype(np.float64)
  nodata = map_files.NODATA
  steps = lambda x, num: np.round(np.asarray(x, np.float32) * num) / num
  accuracy = np.stack(
      [
          steps(maps.opacity, _OPACITY_STEPS),
          steps(maps.level, _LEVEL_STEPS),
          np.full(inside.shape, nodata, np.float32),
      ]
  )
  if photos is not None:
    accuracy[2] = np.where(inside, photos, nodata)
  seen = inside & (maps.opacity > 0.5 / _OPACITY_STEPS)
  accuracy[0] = np.where(inside, accuracy[0], nodata)
  accuracy[1] = np.where(seen, accuracy[1], nodata)
  return (
      np.concatenate([np.moveaxis(rgb, -1, 0), alpha[None]]),
      np.where(has_surface, height, nodata).astype(np.float32)[None],
      accuracy,
  )


def _in_box(job: MapJob, camera) -> np.ndarray:
  """[H, W] bool, pixels whose rays pass through the scene's box."""
  focal, pose = camera.intrinsics[0], camera.cam_to_world
  columns = (np.arange(camera.width) + 0.5 - camera.intrinsics[2]) / focal
  rows = (np.arange(camera.height) + 0.5 - camera.intrinsics[3]) / focal
  enter, leave = 0.0, np.inf
  low, high = job.pixels.sample_aabb
  for axis in range(3):
    start = (
        pose[axis, 3]
        + columns[None] * pose[axis, 0]
        + rows[:, None] * pose[axis, 1]
    )
    step = pose[axis, 2]
    step = step if abs(step) > 1e-12 else 1e-12
    ends = (low[axis] - start) / step, (high[axis] - start) / step
    enter = np.maximum(enter, np.minimum(*ends))
    leave = np.minimum(leave, np.maximum(*ends))
  return enter < leave


def estimate(job: MapJob, *, sample_size: int = 128) -> dict[str, Any]:
  """What a map would take, by rendering a small piece of its middle.

  Args:
    job: map.
    sample_size: pixels along the side of that piece.

  Returns:
    `pixels`, `tiles`, `seconds`, `disk_bytes`.
  """
  canvas = job.canvas
  middle = map_canvas.Tile(
      max(0, canvas.height // 2 - sample_size // 2),
      max(0, canvas.width // 2 - sample_size // 2),
      min(sample_size, canvas.height),
      min(sample_size, canvas.width),
  )
  render_tile(job, middle)  # Compiles.
  start = time.perf_counter()
  render_tile(job, middle)
  seconds = time.perf_counter() - start
  pixels = canvas.width * canvas.height
  return {
      'pixels': pixels,
      'tiles': canvas.num_tiles,
      'seconds': seconds * pixels / (middle.width * middle.height),
      'disk_bytes': pixels * _DISK_BYTES,
  }


def write_map(
    job: MapJob,
    out,
    *,
    cache_bytes: int = int(map_pixels.CACHE_RANGE[0]),
    show_progress: bool = True,
    on_tile: Callable[[int], None] | None = None,
) -> dict[str, Any]:
  """Makes a map: FILE.tif, FILE_dsm.tif, FILE_accuracy.tif.

  A map that was interrupted goes on where it stopped; until it is complete
  all of it lies in FILE.tif.part.

  Args:
    job: map.
    out: FILE.tif.
    cache_bytes: that GDAL may hold.
    show_progress: draw a progress bar.
    on_tile: called with the number of tiles done after each.

  Returns:
    `files`, `width`, `height`, `tiles`, `tiles_resumed`, `tiles_empty`,
    `seconds`, `pixels_per_second`.

  Raises:
    InputError: what cannot be written, or the unfinished map of another job.
  """
  start = time.perf_counter()
  out = map_files.check_out(out)
  canvas, rendered = job.canvas, 0
  with contextlib.ExitStack() as stack:
    stack.enter_context(map_files.gdal_options(cache_bytes))
    store = stack.enter_context(map_files.TileStore(out, canvas, job.identity))
    resumed = len(store.done)
    bar = None
    if show_progress:
      bar = stack.enter_context(
          progress.Progress(
              canvas.num_tiles, first=resumed, description='map (tiles)'
          )
      )
    for tile in canvas.tiles():
      if store.is_done(tile):
        continue
      store.add(tile, render_tile(job, tile))
      rendered += tile.height * tile.width
      if bar is not None:
        bar.update(len(store.done))
      if on_tile is not None:
        on_tile(len(store.done))
    seconds = time.perf_counter() - start
    tags = {
        'SOFTWARE': 'infnerf_jax',
        'VERTICAL_DATUM': job.frame.vertical_datum,
        'COORDINATES': job.frame.note,
        'GSD': f'{canvas.gsd:g} m',
    }
    files = map_files.write_mosaics(store, canvas, job.frame.wkt, tags)
    store.remove()
  return {
      'files': [os.fspath(path) for path in files],
      'width': canvas.width,
      'height': canvas.height,
      'tiles': canvas.num_tiles,
      'tiles_resumed': resumed,
      'tiles_empty': sum(store.done.values()),
      'seconds': time.perf_counter() - start,
      'pixels_per_second': rendered / max(seconds, 1e-9),
  }
