"""In which nodes rays end, before any training: what paging is planned from.

Sparse points say how far the surfaces of a photo's cells lie; a ray's
footprint there says which node shows them.
"""

from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import ray_batches
from infnerf_jax.training import gradients

# Cells of all photos and pyramid levels; a focus takes some 40 bytes for each.
_MAX_CELLS = 1 << 22
_GRIDS = (32, 16, 8, 4)
_BLOCK = 1 << 14
# Sightings that say where samples fall: at least so many, or 32 a node.
_PAIR_SIGHTINGS, _MAX_PAIR_SIGHTINGS = 1 << 14, 1 << 18
# Samples about a sparse point: octaves of the footprint as training jitters it,
# and distances, a deviation of 3 % as trained densities have it.
_OCTAVES = (np.arange(8) + 0.5) / 8 - 0.5
_SPREAD = 0.03 * np.array([0.16, -1.53, 0.89, -0.49, 1.53, -0.16, -0.89, 0.49])
# Batches that say how much is looked at each node; steps never reach them.
_NUM_BATCHES, _FIRST_BATCH = 32, 1 << 48


class Photographed(NamedTuple):
  """What photos show, and where the nodes are.

  Attributes:
    observations: sightings of sparse points.
    cameras: table [P] of all photos.
    surroundings: tree, cameras and box, of a single device.
    spec: static facts.
    policy: footprint to level.
    pixel_sizes: full-size pixels of each pyramid level.
  """

  observations: observations_lib.Observations
  cameras: cameras_lib.Cameras
  surroundings: gradients.Surroundings
  spec: scene_model.ModelSpec
  policy: Any
  pixel_sizes: Sequence[float]

  @property
  def size(self) -> tuple[np.ndarray, np.ndarray]:
    """([P] widths, [P] heights) in full-size pixels."""
    return np.asarray(self.cameras.width), np.asarray(self.cameras.height)

  def cells(self, grid: int, rows) -> tuple[np.ndarray, ...]:
    """Cells of some photos, grid**2 of each, row by row.

    Args:
      grid: cells along a photo's sides.
      rows: of the photos.

    Returns:
      ([K] photo, [K, 2] centres in full-size pixels, [K] metres as
      `cell_distances` has them).
    """
    width, height = self.size
    distance = cell_distances(self.observations, width, height, grid)[rows]
    photo = np.repeat(rows, grid * grid)
    down, across = np.divmod(np.tile(np.arange(grid * grid), len(rows)), grid)
    pix = np.stack(
        [(across + 0.5) * width[photo], (down + 0.5) * height[photo]], axis=-1
    )
    return photo, pix / grid, distance.reshape(-1)

  def model(self) -> scene_model.SceneModel:
    """The tree with all nodes, of which nothing but places is asked."""
    num_nodes = self.surroundings.joins.shape[0]
    tree = scene_model.TreeArrays(
        self.surroundings.tree.children, jnp.zeros(num_nodes, jnp.int32)
    )
    return scene_model.SceneModel(
        tree, None, None, self.surroundings.sample_aabb
    )


def _cell_of(pix, width, height, grid):
  """[K] cell of positions in full-size pixels, row by row."""
  across = np.clip(pix[..., 0] * grid / width, 0, grid - 1).astype(np.int64)
  down = np.clip(pix[..., 1] * grid / height, 0, grid - 1).astype(np.int64)
  return down * grid + across


def cell_distances(
    observations: observations_lib.Observations, widths, heights, grid: int
) -> np.ndarray:
  """Median distance of the points seen in each cell of each photo.

  Args:
    observations: sightings.
    widths: [P] full-size pixels.
    heights: [P].
    grid: cells along a photo's sides.

  Returns:
    [P, grid**2] float32 metres; of the nearest cells where a cell shows no
    point, 0 in photos that show none.
  """
  num_photos = len(observations.offsets) - 1
  photo = np.repeat(np.arange(num_photos), np.diff(observations.offsets))
  cell = photo * grid * grid + _cell_of(
      observations.pix, widths[photo], heights[photo], grid
  )
  order = np.lexsort((observations.distance, cell))
  found, first, count = np.unique(
      cell[order], return_index=True, return_counts=True
  )
  distance = np.zeros(num_photos * grid * grid, np.float32)
  distance[found] = observations.distance[order][first + count // 2]
  return _fill(distance.reshape(num_photos, grid, grid)).reshape(num_photos, -1)


def _fill(distance):
  """Empty cells get the mean of neighbours that are not, again and again."""
  for _ in range(2 * distance.shape[1]):
    empty = distance == 0
    if not (empty & (distance.max(axis=(1, 2), keepdims=True) > 0)).any():
      break
    wide = np.pad(distance, ((0, 0), (1, 1), (1, 1)))
    around = [wide[:, 1:-1, :-2], wide[:, 1:-1, 2:],
              wide[:, :-2, 1:-1], wide[:, 2:, 1:-1]]  # fmt: skip
    total, count = sum(around), sum((x > 0).astype(np.int32) for x in around)
    distance = np.where(
        empty & (count > 0), total / np.maximum(count, 1), distance
    ).astype(np.float32)
  return distance


def _block(x, start, dtype):
  """Rows from `start` on, filled up with zeros to a block's length."""
  part = x[start : start + _BLOCK].astype(dtype)
  return np.pad(part, [(0, _BLOCK - len(part))] + [(0, 0)] * (x.ndim - 1))


def _locator(shown: Photographed):
  """([B] photo, [B, 2] pix, pixel size, [B] distance) to nodes, jitted."""
  model, cameras = shown.model(), shown.surroundings.cameras

  @jax.jit
  def locate(photo, pix, pixel_size, distance):
    rays = cameras_lib.camera_rays(
        cameras, photo, pix, pixel_size, root_side=shown.spec.root_side
    )
    node_id = render_rays.locate_samples(
        None, model, shown.spec, rays, distance[:, None], policy=shown.policy
    )[0]
    # Nothing is known of photos without points.
    return jnp.where(distance > 0, node_id[:, 0], 0)

  def in_blocks(photo, pix, pixel_size, distance):
    parts = []
    for start in range(0, len(photo), _BLOCK):
      found = locate(
          _block(photo, start, np.int32), _block(pix, start, np.float32),
          np.full(_BLOCK, pixel_size, np.float32),
          _block(distance, start, np.float32),
      )  # fmt: skip
      parts.append(np.asarray(found)[: len(photo) - start])
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)

  return in_blocks


def node_maps(shown: Photographed) -> focus_lib.NodeMaps:
  """In which nodes the rays of cells and of sightings end.

  Args:
    shown: by all photos.
  """
  num_photos, num_levels = len(shown.size[0]), len(shown.pixel_sizes)
  grid = next(
      (g for g in _GRIDS if num_photos * num_levels * g * g <= _MAX_CELLS),
      _GRIDS[-1],
  )
  observations, locate = shown.observations, _locator(shown)
  photo, pix, distance = shown.cells(grid, np.arange(num_photos))
  seen_by = np.repeat(np.arange(num_photos), np.diff(observations.offsets))
  cells, sightings = [], []
  for size in shown.pixel_sizes:
    nodes = locate(photo, pix, size, distance)
    cells.append(nodes.reshape(num_photos, grid * grid))
    sightings.append(
        locate(seen_by, observations.pix, size, observations.distance)
    )
  return focus_lib.NodeMaps(
      grid, np.stack(cells, axis=1), np.stack(sightings, axis=1)
  )


def node_pairs(
    shown: Photographed, maps: focus_lib.NodeMaps, mass: np.ndarray
) -> focus_lib.NodePairs:
  """In which nodes the samples of rays fall that are planned for others.

  Rays through sparse points, whose samples spread about the point and, by the
  jitter of their footprints, over two levels.

  Args:
    shown: by all photos.
    maps: of them.
    mass: [N] of `node_mass`.

  Returns:
    NodePairs; the rays planned for a node have its share of all samples.
  """
  observations = shown.observations
  num_nodes, total = len(mass), len(observations.distance)
  wanted = min(max(_PAIR_SIGHTINGS, 32 * num_nodes), _MAX_PAIR_SIGHTINGS)
  rows = np.arange(0, total, max(1, -(-total // wanted)))
  photo = np.searchsorted(observations.offsets, rows, side='right') - 1
  pix, distance = observations.pix[rows], observations.distance[rows]
  width, height = shown.size
  cell = _cell_of(pix, width[photo], height[photo], maps.grid)
  locate = _locator(shown)
  # Every node with rays has at least its own samples.
  found = [np.flatnonzero(mass > 0) * (num_nodes + 1)]
  counts = [np.full(len(found[0]), 1e-3)]
  for level, size in enumerate(shown.pixel_sizes):
    planned = maps.cells[photo, level, cell].astype(np.int64)
    for octaves, spread in zip(_OCTAVES, _SPREAD, strict=True):
      actual = locate(photo, pix, size * 2.0**octaves, distance * (1 + spread))
      found.append(planned * num_nodes + actual)
      counts.append(np.ones(len(rows)))
  pairs, at = np.unique(np.concatenate(found), return_inverse=True)
  count = np.bincount(at, np.concatenate(counts))
  planned, actual = np.divmod(pairs, num_nodes)
  of_planned = np.bincount(planned, count, num_nodes)
  return focus_lib.NodePairs(
      planned, actual, count / of_planned[planned] * mass[planned]
  )


def node_mass(
    maps: focus_lib.NodeMaps,
    pyramid,
    photo_rows,
    options: ray_batches.BatchOptions,
    observations: observations_lib.Observations | None,
    num_nodes: int,
) -> np.ndarray:
  """Share of ordinary batches' rays that end in each node.

  Args:
    maps: of the photos.
    pyramid: PhotoPyramid.
    photo_rows: [M] training photos.
    options: of the batches.
    observations: as the batches take them.
    num_nodes: of the tree.

  Returns:
    [N] float64, sums to one.
  """
  count = np.zeros(num_nodes)
  everywhere = focus_lib.Focus(maps, np.ones(num_nodes))
  for i in range(_NUM_BATCHES):
    batch = ray_batches.sample_batch(
        pyramid, photo_rows, options, _FIRST_BATCH + i, observations, everywhere
    )
    count += np.bincount(batch.ends_in, minlength=num_nodes)
  return count / count.sum()
