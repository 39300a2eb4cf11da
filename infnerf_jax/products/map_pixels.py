"""What a map is made of: vertical rays through a trained scene."""

import dataclasses
import pathlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from infnerf_jax.octree import tree
from infnerf_jax.products import photo_coverage

TILE_SIZES = (1024, 512, 256, 128)
# Of a tile's pixel on the host: outputs, their copies, rasters, GDAL's blocks.
_PIXEL_BYTES = 160
_TILE_SHARE = 0.15
_CACHE_SHARE, CACHE_RANGE = 0.08, (16e6, 256e6)
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

  def count_photos(self, camera, distance) -> np.ndarray | None:
    """Photos that see a camera's pixels; None where nothing is known of it.

    Args:
      camera: as rendered.
      distance: [H, W] metres down to the surface; infinite without one.

    Returns:
      [H, W].
    """


class FieldPixels:
  """Pixels of a trained scene."""

  def __init__(
      self,
      loaded,
      *,
      appearance: str | None = None,
      max_memory_gb: float | None = None,
      supersampling: int = 0,
      min_photos: int = photo_coverage.MIN_PHOTOS,
  ):
    """Renders nothing yet.

    Args:
      loaded: a LoadedScene or StoreScene.
      appearance: name of a photo, None for the mean embedding.
      max_memory_gb: cap of the whole map, None or 0 is none.
      supersampling: rays along a side of a pixel; 0: so many that they are as
        fine as the finest level, at most 4. So no map costs more than one of
        the finest pixels that differ.
      min_photos: that must see what is shown; 0: all is shown.
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
    self.min_photos = min(min_photos, len(loaded.photo_names))
    self.identity['min_photos'] = self.min_photos
    self._coverage = None
    if self.min_photos:
      self._coverage = photo_coverage.PhotoCoverage(loaded.cameras)
    self._supersampling = supersampling
    octree, policy = loaded.octree, options.level_policy
    finest = float(octree.node_gsd(int(octree.level.max())))
    self._finest_footprint = finest / 2.0 ** getattr(policy, 'bias', 0.0)
    # The finest nodes hold points: they lie where surfaces are.
    nodes = np.flatnonzero(octree.level == octree.level.max())
    centers = tree.node_aabb(octree, nodes).mean(axis=-2)
    self._ground = np.median(centers, axis=0)

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

  def count_photos(self, camera, distance) -> np.ndarray | None:
    """See `Pixels`; where no surface is, of the ground."""
    if self._coverage is None:
      return None
    pose = np.asarray(camera.cam_to_world, np.float64)
    fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
    ground = float((self._ground - pose[:, 3]) @ pose[:, 2])
    down = photo_coverage.surroundings_of(distance, ground)

    def places(rows, columns):
      x, y = (columns + 0.5 - cx) / fx, (rows + 0.5 - cy) / fy
      return (
          pose[:, 3]
          + x[None, :, None] * pose[:, 0]
          + y[:, None, None] * pose[:, 1]
          + down[np.ix_(rows, columns)][..., None] * pose[:, 2]
      )

    return self._coverage.counts(places, distance.shape)

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
    return TILE_SIZES[0], int(CACHE_RANGE[1])
  cap = 1e9 * max_memory_gb
  cache = int(np.clip(_CACHE_SHARE * cap, *CACHE_RANGE))
  for size in TILE_SIZES:
    if size**2 * _PIXEL_BYTES <= _TILE_SHARE * cap:
      break
  return size, cache
