"""Renders parts of pictures of one scene, whose shapes compile once.

Whatever a client's canvas is, pictures are cut into bands and these into
blocks of rays of one shape; orthographic views and single pixels are the same
program. A run's workdir and a node store render alike.
"""

from typing import Any, NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_pool
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import memory, render_image, shared_proposals
from infnerf_jax.viewer import meter as meter_lib
from infnerf_jax.viewer import schedule, views

# Small enough that a moving camera waits for tens of milliseconds.
_RAY_BLOCK = 2048
# Pictures of all clients under a cap: share of it, and bytes of a pixel (the
# picture, the one before, what is encoded and sent).
_PICTURE_SHARE = 0.12
PIXEL_BYTES = 24
# All outputs of one program: a mode or a measurement compiles nothing.
_OUTPUTS = (
    'rgb', 'depth', 'distance', 'half_distance', 'level', 'opacity',
    'statistics',
)  # fmt: skip


class Spot(NamedTuple):
  """What lies under one pixel.

  Attributes:
    point: [3] metres, world; None where there is no surface.
    distance: metres along the ray.
    gsd: metres a pixel of the picture there.
    level: octree level that answered.
  """

  point: np.ndarray | None
  distance: float
  gsd: float
  level: float


class Renderer:
  """A scene as the viewer renders it; not to be shared among threads.

  Attributes:
    loaded: a LoadedScene or StoreScene.
    box: [2, 3] metres of the scene.
    near: metres that parallel rays keep before it.
    ray_block: rays of one device call.
    picture_bytes: that clients' pictures may take in all, 0: no cap.
  """

  def __init__(self, loaded, *, max_memory_gb: float | None = None):
    """Compiles nothing yet.

    Args:
      loaded: a LoadedScene or StoreScene.
      max_memory_gb: cap of all that is held; None or 0 is the run's.

    Raises:
      InputError: the cap does not hold the scene.
    """
    cap = max_memory_gb or loaded.config['max_memory_gb'] or None
    self.picture_bytes = int(_PICTURE_SHARE * 1e9 * cap) if cap else 0
    self._render_gb = cap and cap - self.picture_bytes / 1e9
    self._set(loaded)
    self.box = np.asarray(
        loaded.store.header.sample_aabb if self.is_store else loaded.sample_aabb
    )
    self.near = 1.01 * loaded.options.near * loaded.spec.half_side

  def _set(self, loaded) -> None:
    options = shared_proposals.fast(loaded.options)
    if hasattr(loaded, 'pager'):
      loaded.max_memory_gb = self._render_gb
      block = loaded.pager(options).budget.ray_block
    else:
      block = memory.choose_ray_block(
          loaded.model, loaded.spec, options, self._render_gb
      )
    self.ray_block = min(block, _RAY_BLOCK)
    self.loaded, self._options = loaded, options

  @property
  def limits(self) -> schedule.Limits:
    """Of pictures that are all rendered by one program."""
    return schedule.Limits(
        render_image.CORNER_BLOCKS * self.ray_block,
        self._options.proposal_stride,
    )

  @property
  def is_store(self) -> bool:
    return hasattr(self.loaded, 'pager')

  @property
  def max_level(self) -> int:
    return self.loaded.spec.max_level

  @property
  def num_nodes(self) -> int:
    """Of the whole tree."""
    if self.is_store:
      return self.loaded.num_nodes
    return self.loaded.octree.num_nodes

  @property
  def row_bytes(self) -> int:
    """Bytes of a node in memory."""
    return node_pool.row_bytes(self.loaded.spec.field)['parameters']

  @property
  def num_steps(self) -> int | None:
    """Training steps done; None of a store."""
    return getattr(self.loaded, 'num_steps', None)

  def replace(self, loaded) -> None:
    """Goes on with a newer state of the same scene.

    Raises:
      InputError: the cap does not hold it.
    """
    self._set(loaded)

  def render(
      self, camera: cameras_lib.Cameras, pixel_size: float, appearance
  ) -> render_image.ImageOutputs:
    """Renders a camera (a single row) with all outputs that the viewer uses."""
    return self.loaded.render(
        camera,
        appearance=appearance,
        options=self._options,
        outputs=_OUTPUTS,
        pixel_size=pixel_size,
        ray_block=self.ray_block,
        max_memory_gb=self._render_gb,
    )

  def band(
      self, camera, stage: schedule.Stage, band: tuple[int, int], appearance
  ) -> tuple[render_image.ImageOutputs, meter_lib.Meter]:
    """Renders some rows of a picture.

    Args:
      camera: of the whole picture, a single row.
      stage: picture.
      band: top and bottom row of it.
      appearance: [A].

    Returns:
      (ImageOutputs of the rows, what they touched).
    """
    size, (top, bottom) = stage.pixel_size, band
    part = views.part_of(
        camera, 0.0, top * size, stage.width * size, (bottom - top) * size
    )
    image = self.render(part, size, appearance)
    return image, self._meter(image)

  def _meter(self, image) -> meter_lib.Meter:
    touched = image.statistics.touched_slots
    if self.is_store:
      keys = self.loaded.resident_keys()[touched]
      report = self.loaded.frame_report
      bias, rows = report['level_bias'], report['rows_read']
    else:
      # Everything is resident: slots are rows of the tree.
      rows_touched = np.flatnonzero(touched)
      octree = self.loaded.octree
      keys = tree_lib.node_key(
          octree.level[rows_touched], octree.coord[rows_touched]
      )
      bias, rows = 0.0, 0
    return meter_lib.Meter(
        np.unique(keys[keys > 0]), self.num_nodes, self.row_bytes, bias, rows
    )

  def spot(self, camera, u: float, v: float, appearance) -> Spot:
    """What lies under a place of a picture.

    Args:
      camera: of the picture, without distortion.
      u: 0 (left) to 1 (right).
      v: 0 (top) to 1 (bottom).
      appearance: [A].

    Returns:
      Spot.
    """
    one = views.pixel_camera(camera, u, v)
    image = self.render(one, 1.0, appearance)
    distance = float(image.half_distance[0, 0])
    origin, direction = views.pixel_ray(camera, u, v)
    pose, focal = np.asarray(camera.cam_to_world), float(camera.intrinsics[1])
    if int(camera.projection) == cameras_lib.ORTHOGRAPHIC:
      gsd = 1 / focal
    else:
      gsd = distance * float(direction @ pose[:, 2]) / focal
    known = np.isfinite(distance)
    return Spot(
        origin + distance * direction if known else None,
        distance,
        gsd if known else float('nan'),
        float(image.level[0, 0]),
    )

  def heights(self, camera, level: views.Level, appearance) -> np.ndarray:
    """Heights of the surface under a camera that looks straight down.

    Args:
      camera: see `views.vertical_camera`.
      level: axes.
      appearance: [A].

    Returns:
      [H, W] float64 metres, NaN where there is no surface.
    """
    distance = self.render(camera, 1.0, appearance).half_distance
    top = float(level.to_level(camera.cam_to_world[:, 3])[2])
    return np.where(np.isfinite(distance), top - distance, np.nan)

  def top(self, level: views.Level) -> float:
    """Metres up from where vertical rays begin."""
    corners = np.array(
        [
            [self.box[i, 0], self.box[j, 1], self.box[k, 2]]
            for i, j, k in np.ndindex(2, 2, 2)
        ]
    )
    return float(level.to_level(corners)[:, 2].max()) + self.near

  def all_keys(self) -> np.ndarray:
    """[N] keys of the whole tree; of a store, of what is resident."""
    if self.is_store:
      keys = self.loaded.resident_keys()
      return np.sort(keys[keys > 0])[: meter_lib.MAX_BOXES]
    octree = self.loaded.octree
    keys = tree_lib.node_key(octree.level, octree.coord)
    return keys[: meter_lib.MAX_BOXES]

  def appearance(self, photo: str | None) -> np.ndarray:
    """[A] embedding of a photo, or the mean.

    Raises:
      InputError: no such photo, or it cannot be read.
    """
    try:
      return np.asarray(self.loaded.appearance(photo), np.float32)
    except OSError as e:
      raise errors.InputError(f'{self.loaded.workdir}: {e}') from e


def memory_use(renderer: Renderer) -> dict[str, Any] | None:
  """A store's memory report; None of a run's workdir."""
  return renderer.loaded.memory_report() if renderer.is_store else None
