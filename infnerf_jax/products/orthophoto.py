"""True orthophotos and surface models of a trained scene.

Every pixel is the mean of a few vertical rays, each as wide as its share of
the pixel, so the octree answers it at the level of its ground size: a map of
any ground sampling distance is free of aliasing, and walls do not lean.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from typing import Any, Callable, NamedTuple, Protocol

import numpy as np

from infnerf_jax import errors, progress
from infnerf_jax.geometry import map_boundary, map_frame
from infnerf_jax.products import (
    map_canvas,
    map_files,
)

_TILE_SIZES = (1024, 512, 256, 128)
# Of a tile's pixel on the host: outputs, their copies, rasters, GDAL's blocks.
_PIXEL_BYTES = 160
_TILE_SHARE = 0.15
_CACHE_SHARE, _CACHE_RANGE = 0.08, (16e6, 256e6)
# Below this opacity a pixel shows nothing.
_MIN_OPACITY = 0.5
# Steps of the accuracy map, which compresses by what it does not resolve.
_OPACITY_STEPS, _LEVEL_STEPS = 256, 16
# Bytes a pixel that were measured on disk: tiles and mosaic side by side.
_DISK_BYTES = 24
# Rays along a side of a pixel that is coarser than the finest level. One ray is
# a sample of what a node knows, which has detail down to half its footprint.
_MAX_RAYS = 4
_OUTPUTS = ('rgb', 'opacity', 'coverage', 'half_distance', 'level')


class TileMaps(NamedTuple):
  """What vertical rays see.

  Attributes:
    rgb: [H, W, 3] in [0, 1].
    shown: [H, W] opacity behind the colour.
    distance: [H, W] metres down to the surface; infinite where there is none.
    opacity: [H, W] of the scene itself; NaN where the ray misses its box.
    level: [H, W] octree level that answered.
  """

  rgb: np.ndarray
  shown: np.ndarray
  distance: np.ndarray
  opacity: np.ndarray
  level: np.ndarray


class Pixels(Protocol):
  """What a map is made of.

  Attributes:
    sample_aabb: [2, 3] of the scene, metres.
    near: metres that a camera keeps above it.
    identity: all that decides its answers; JSON.
  """

  sample_aabb: np.ndarray
  near: float
  identity: dict[str, Any]

  def render(self, camera) -> TileMaps:
    """Renders an orthographic camera (a single row)."""


class FieldPixels:
  """Pixels of a trained scene."""

  def __init__(
      self,
      loaded,
      *,
      appearance: str | None = None,
      max_memory_gb: float | None = None,
      supersampling: int = 0,
  ):
    """Renders nothing yet.

    Args:
      loaded: a LoadedScene or StoreScene.
      appearance: name of a photo, None for the mean embedding.
      max_memory_gb: cap of the whole map, None or 0 is none.
      supersampling: rays along a side of a pixel; 0: so many that they are as
        fine as the finest level, at most 4. So no map costs more than one of
        the finest pixels that differ.
    """
    self._loaded = loaded
    self._appearance = loaded.appearance(appearance)
    options = loaded.options
    # Rays begin just above the scene's box, whatever photos need.
    self._options = dataclasses.replace(options, clip_to_box=True)
    self.near = 1.01 * options.near * loaded.spec.half_side
    self.tile_size, cache = memory_plan(max_memory_gb)
    self._render_gb = None
    if max_memory_gb:
      own = self.tile_size**2 * _PIXEL_BYTES + cache
      self._render_gb = max(max_memory_gb - own / 1e9, 1e-6)
    header = getattr(getattr(loaded, 'store', None), 'header', None)
    box = header.sample_aabb if header else loaded.sample_aabb
    self.sample_aabb = np.asarray(box, np.float64)
    self.identity = {
        'scene': str(pathlib.Path(str(loaded.workdir)).absolute()),
        'num_steps': getattr(loaded, 'num_steps', None),
        'generation': getattr(header, 'generation', None),
        'appearance': appearance or 'mean',
        'supersampling': supersampling,
    }
    self._supersampling = supersampling
    octree, policy = loaded.octree, options.level_policy
    finest = float(octree.node_gsd(int(octree.level.max())))
    self._finest_footprint = finest / 2.0 ** getattr(policy, 'bias', 0.0)

  def rays_per_side(self, camera) -> int:
    """Rays along a side of a pixel of an orthographic camera."""
    if self._supersampling:
      return self._supersampling
    footprint = 1 / (np.sqrt(np.pi) * float(camera.intrinsics[0]))
    octaves = footprint / self._finest_footprint
    return int(np.clip(np.ceil(octaves - 1e-6), 1, _MAX_RAYS))

  def render(self, camera) -> TileMaps:
    """See `Pixels`."""
    side = self.rays_per_side(camera)
    if side == 1:
      return self._cast(camera)
    # As many rays at a time as without supersampling: so is the memory.
    height = int(camera.height)
    rows = max(1, height // side**2)
    parts = [
        _mean_of_rays(
            self._cast(_finer(camera, side, top, min(rows, height - top))), side
        )
        for top in range(0, height, rows)
    ]
    return TileMaps(*(np.concatenate(part) for part in zip(*parts)))

  def _cast(self, camera) -> TileMaps:
    """One ray a pixel."""
    image = self._loaded.render(
        camera,
        appearance=self._appearance,
        options=self._options,
        outputs=_OUTPUTS,
        max_memory_gb=self._render_gb,
    )
    return TileMaps(
        image.rgb,
        image.opacity,
        image.half_distance,
        image.coverage,
        image.level,
    )


def _finer(camera, side: int, top: int, num_rows: int):
  """Some rows of a camera, their pixels cut into side x side."""
  shift = np.array([0.0, 0.0, 0.0, top])
  return camera._replace(
      intrinsics=(np.asarray(camera.intrinsics, np.float64) - shift) * side,
      width=np.int32(camera.width * side),
      height=np.int32(num_rows * side),
  )


def _mean_of_rays(maps: TileMaps, side: int) -> TileMaps:
  """Pixels of side x side rays; of the distances an actual one, the median."""

  def rays(values):  # [H, W, side * side, ...]
    height, width = values.shape[0] // side, values.shape[1] // side
    split = values.reshape(height, side, width, side, *values.shape[2:])
    return np.moveaxis(split, 2, 1).reshape(
        height, width, side * side, *values.shape[2:]
    )

  # Between a roof and the street beside it no surface is.
  distance = np.sort(rays(maps.distance), axis=-1)[..., (side * side - 1) // 2]
  return TileMaps(
      rgb=rays(maps.rgb).mean(axis=2),
      shown=rays(maps.shown).mean(axis=2),
      distance=distance,
      opacity=rays(maps.opacity).mean(axis=2),
      level=rays(maps.level).mean(axis=2),
  )


def memory_plan(max_memory_gb: float | None) -> tuple[int, int]:
  """(pixels along a tile's side, bytes of GDAL's cache) under a cap."""
  if not max_memory_gb:
    return _TILE_SIZES[0], int(_CACHE_RANGE[1])
  cap = 1e9 * max_memory_gb
  cache = int(np.clip(_CACHE_SHARE * cap, *_CACHE_RANGE))
  for size in _TILE_SIZES:
    if size**2 * _PIXEL_BYTES <= _TILE_SHARE * cap:
      break
  return size, cache


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

  pixels: Pixels
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
    pixels: Pixels,
    frame: map_frame.MapFrame,
    *,
    gsd: float,
    bounds=None,
    boundary: map_boundary.Boundary | None = None,
    tile_size: int = _TILE_SIZES[0],
) -> MapJob:
  """Lays out a map.

  Args:
    pixels: what it is made of.
    frame: where the scene lies.
    gsd: metres a pixel.
    bounds: west, south, east, north in the map's metres; None is the
      boundary's, or else the scene's box.
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
  canvas = map_canvas.make_canvas(gsd, bounds, box, tile_size=tile_size)
  return MapJob(pixels, frame, canvas, box, boundary)


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
  shows = inside & (maps.shown >= _MIN_OPACITY)
  rgb = np.round(255 * np.clip(maps.rgb, 0, 1)).astype(np.uint8)
  rgb[~shows] = 0
  alpha = np.where(shows, 255, 0).astype(np.uint8)
  has_surface = inside & np.isfinite(maps.distance)
  height = top - np.where(has_surface, maps.distance, 0.0).astype(np.float64)
  nodata = map_files.NODATA
  steps = lambda x, num: np.round(np.asarray(x, np.float32) * num) / num
  accuracy = np.stack(
      [steps(maps.opacity, _OPACITY_STEPS), steps(maps.level, _LEVEL_STEPS)]
  )
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
    cache_bytes: int = int(_CACHE_RANGE[0]),
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
