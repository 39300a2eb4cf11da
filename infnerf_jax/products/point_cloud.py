"""A trained scene as a coloured point cloud.

Parallel rays from above and from four sides meet the scene, tile by tile; a
point lies where a ray's transmittance falls to one half. A ray is as wide as
the points lie apart, so the octree answers it at the level asked for.
"""

from typing import Any, Callable, NamedTuple, Protocol

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import ply_stream
from infnerf_jax.products import region as region_lib

# Cells along a tile's side: pictures of a few hundred pixels, tens of MB.
_TILE = 192
_OUTPUTS = ('rgb', 'opacity', 'coverage', 'half_distance')
_MIN_OPACITY = 0.5


class Rendered(NamedTuple):
  """What parallel rays meet.

  Attributes:
    rgb: [H, W, 3] in [0, 1].
    distance: [H, W] metres along the ray; infinite where it meets nothing.
    opacity: [H, W] of the scene itself.
  """

  rgb: np.ndarray
  distance: np.ndarray
  opacity: np.ndarray


class RaySource(Protocol):
  """What is turned into points.

  Attributes:
    sample_aabb: [2, 3] of the scene, metres.
    near: metres that a camera keeps from it.
  """

  sample_aabb: np.ndarray
  near: float

  def render(self, camera) -> Rendered:
    """Renders an orthographic camera (a single row)."""


class FieldRays:
  """Rays of a trained scene."""

  def __init__(self, loaded, *, appearance=None, max_memory_gb=None):
    """Renders nothing yet.

    Args:
      loaded: a LoadedScene or StoreScene.
      appearance: name of a photo, None for the mean embedding.
      max_memory_gb: of rendering, None as in training.
    """
    self._loaded = loaded
    self._appearance = loaded.appearance(appearance)
    self._memory = {'max_memory_gb': max_memory_gb} if max_memory_gb else {}
    self.sample_aabb = region_lib.sample_aabb(loaded)
    self.near = 1.01 * loaded.options.near * loaded.spec.half_side

  def render(self, camera) -> Rendered:
    """See `RaySource`."""
    image = self._loaded.render(
        camera, appearance=self._appearance, outputs=_OUTPUTS, **self._memory
    )
    return Rendered(image.rgb, image.half_distance, image.coverage)


def view_directions() -> np.ndarray:
  """[5, 3] unit: straight down, then down at 45 degrees to four sides."""
  slant = np.array([[1, 0, -1], [-1, 0, -1], [0, 1, -1], [0, -1, -1]])
  return np.concatenate([[[0.0, 0.0, -1.0]], slant / np.sqrt(2)])


def parallel_camera(
    direction, box, spacing: float, sample_aabb, near: float
) -> cameras_lib.Cameras:
  """An orthographic camera whose picture covers a box.

  Args:
    direction: [3] unit, of its rays.
    box: [2, 3] metres, what must be in the picture.
    spacing: metres, width of a pixel.
    sample_aabb: [2, 3] metres; rays begin before it.
    near: metres by which they do.

  Returns:
    Cameras, a single row.
  """
  forward = np.asarray(direction, np.float64)
  aside = [0.0, 1.0, 0.0] if abs(forward[2]) > 0.9 else [0.0, 0.0, 1.0]
  right = np.cross(forward, aside)
  right /= np.linalg.norm(right)
  axes = np.stack([right, np.cross(forward, right), forward], axis=-1)
  picks = np.array(list(np.ndindex(2, 2, 2)))
  corners = np.asarray(box)[picks, np.arange(3)] @ axes
  whole = np.asarray(sample_aabb)[picks, np.arange(3)] @ axes
  low, high = corners.min(axis=0), corners.max(axis=0)
  width, height = np.maximum(np.ceil((high - low)[:2] / spacing), 1)
  center = np.array([*(low + high)[:2] / 2, whole[:, 2].min() - near])
  return cameras_lib.make_camera(
      focal=1 / spacing,
      width=int(width),
      height=int(height),
      cam_to_world=np.concatenate([axes, (axes @ center)[:, None]], axis=-1),
      projection=cameras_lib.ORTHOGRAPHIC,
  )


def _points_of_view(source, direction, box, spacing):
  """(positions [N, 3], colours [N, 3]) of one view, within the box."""
  camera = parallel_camera(
      direction, box, spacing, source.sample_aabb, source.near
  )
  seen = source.render(camera)
  columns = np.arange(camera.width) + 0.5 - camera.intrinsics[2]
  rows = np.arange(camera.height) + 0.5 - camera.intrinsics[3]
  pose = camera.cam_to_world
  met = np.isfinite(seen.distance) & (seen.opacity >= _MIN_OPACITY)
  distance = np.where(met, seen.distance, 0.0).astype(np.float64)
  positions = (
      pose[:, 3]
      + spacing * columns[None, :, None] * pose[:, 0]
      + spacing * rows[:, None, None] * pose[:, 1]
      + distance[..., None] * pose[:, 2]
  )  # [H, W, 3]
  inside = (positions >= box[0]) & (positions < box[1])
  met &= inside.all(axis=-1)
  return positions[met], seen.rgb[met]


def tile_points(source: RaySource, box, spacing: float):
  """Points of one tile, one a cell at most.

  Args:
    source: what is met.
    box: [2, 3] metres.
    spacing: metres, a cell's side.

  Returns:
    (positions [N, 3] float64, normals [N, 3] against the rays, colours [N, 3]
    uint8); what is seen from above goes before what is seen from aside.
  """
  parts = []
  for direction in view_directions():
    positions, rgb = _points_of_view(source, direction, box, spacing)
    normals = np.broadcast_to(-direction, positions.shape)
    parts.append((positions, normals, rgb))
  positions, normals, rgb = (np.concatenate(x) for x in zip(*parts))
  cells = np.floor((positions - box[0]) / spacing).astype(np.int64)
  _, first = np.unique(cells, axis=0, return_index=True)
  first.sort()
  colors = np.round(255 * np.clip(rgb[first], 0, 1)).astype(np.uint8)
  return positions[first], normals[first], colors


def write_points(
    source: RaySource,
    region: region_lib.Region,
    out,
    *,
    comments=(),
    progress: Callable[[int], None] | None = None,
    tile: int = _TILE,
) -> dict[str, Any]:
  """Writes the points of a region; memory is that of a tile.

  Args:
    source: what is met.
    region: where, how fine.
    out: FILE.ply; x, y, z in the scene's metres, normals towards the ray that
      met them, colours.
    comments: lines of the file's header.
    progress: called with the number of tiles done.
    tile: cells along a tile's side.

  Returns:
    `points`, `spacing` in metres, `level`, `tiles`.

  Raises:
    InputError: no surface there, or the file cannot be written.
  """
  with ply_stream.PlyStream(out, comments=comments) as stream:
    for i, (first, cells) in enumerate(region.tiles(tile)):
      low = region.low + first * region.spacing
      box = np.stack([low, low + cells * region.spacing])
      stream.add_vertices(*tile_points(source, box, region.spacing))
      if progress is not None:
        progress(i + 1)
    if not stream.num_vertices:
      raise errors.InputError(
          '--bounds: got a region without a surface at level'
          f' {region.level}, expected one where the scene is'
      )
  return {
      'points': stream.num_vertices,
      'spacing': region.spacing,
      'level': region.level,
      'tiles': region.num_tiles(tile),
  }


def num_tiles(region: region_lib.Region) -> int:
  """Tiles of `write_points`, for a progress bar."""
  return region.num_tiles(_TILE)
