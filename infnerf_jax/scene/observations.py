"""Where photos see sparse points: rays whose distance is known.

Structure from motion has measured how far its points lie; a ray through such
a point knows where it should end (depth supervision, Deng et al. 2022).
"""

from typing import NamedTuple

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import view_cones
from infnerf_jax.scene import scene as scene_lib

# Bytes must not grow with the number of photos: 64 MB of observations.
_MAX_OBSERVATIONS = 4_000_000
# A point this much behind the nearest of its cell is taken for hidden.
_HIDDEN_BEYOND = 1.05
# Points that a cell of the depth buffer holds on average.
_POINTS_A_CELL = 4


class Observations(NamedTuple):
  """K sightings of points, sorted by photo.

  Attributes:
    offsets: [N + 1] int64; photo i has rows `offsets[i]:offsets[i + 1]`.
    pix: [K, 2] float32, full-size pixel coordinates.
    distance: [K] float32, metres from the camera along the ray.
  """

  offsets: np.ndarray
  pix: np.ndarray
  distance: np.ndarray


def _see(cameras, photo_idx, points):
  """([K, 2] pix, [K] distance, [K] inside) of point k in its photo."""
  seen_by = cameras_lib.take(cameras, photo_idx)
  pix, depth = cameras_lib.project(seen_by, points)
  inside = (
      (depth > 0)
      & (pix >= 0).all(axis=-1)
      & (pix[:, 0] < seen_by.width)
      & (pix[:, 1] < seen_by.height)
  )
  centre = np.asarray(seen_by.cam_to_world, np.float64)[:, :, 3]
  distance = np.linalg.norm(points - centre, axis=-1)
  # Orthographic rays begin in the camera's plane.
  kind = np.asarray(seen_by.projection) == cameras_lib.ORTHOGRAPHIC
  return pix, np.where(kind, depth, distance), inside


def _unhidden(pix, distance, size):
  """[K] whether no much nearer point lies in the same part of the photo."""
  if not len(pix):
    return np.zeros(0, bool)
  cell = np.sqrt(np.prod(size) * _POINTS_A_CELL / len(pix))
  num = np.ceil(np.asarray(size) / cell).astype(np.int64)
  x, y = np.minimum((pix / cell).astype(np.int64), num - 1).T
  nearest = np.full(num + 2, np.inf)
  np.minimum.at(nearest, (x + 1, y + 1), distance)
  around = np.full(len(pix), np.inf)
  for dx in range(3):
    for dy in range(3):
      around = np.minimum(around, nearest[x + dx, y + dy])
  return distance <= _HIDDEN_BEYOND * around


def point_observations(
    scene: scene_lib.Scene,
    aabb,
    *,
    max_observations: int = _MAX_OBSERVATIONS,
) -> Observations:
  """Sightings of the points that lie in a box.

  Where the scene says which photos see a point, these are taken; else every
  photo in whose frustum it lies, unless a nearer point hides it.

  Args:
    scene: N photos, with points.
    aabb: [2, 3] metres; points outside are strays.
    max_observations: an even share of each photo's is kept beyond this.

  Returns:
    Observations.
  """
  num_photos = len(scene.photos.names)
  none = Observations(
      np.zeros(num_photos + 1, np.int64),
      np.zeros((0, 2), np.float32),
      np.zeros(0, np.float32),
  )
  if scene.points is None or not len(scene.points.positions):
    return none
  positions = np.asarray(scene.points.positions, np.float64)
  lower, upper = np.asarray(aabb)
  kept = ((positions >= lower) & (positions <= upper)).all(axis=-1)
  most = max(1, max_observations // max(num_photos, 1))
  points_of = _visible_points(scene, kept)
  parts = []
  for photo in range(num_photos):
    idx = points_of(photo)
    camera = np.full(len(idx), photo)
    pix, distance, good = _see(scene.cameras, camera, positions[idx])
    pix, distance = pix[good], distance[good]
    if scene.visibility is None:
      size = (scene.cameras.width[photo], scene.cameras.height[photo])
      good = _unhidden(pix, distance, size)
      pix, distance = pix[good], distance[good]
    stride = -(-len(pix) // most) if len(pix) else 1
    parts.append((pix[::stride], distance[::stride]))
  counts = [len(distance) for _, distance in parts]
  return Observations(
      offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
      pix=np.concatenate([pix for pix, _ in parts]).astype(np.float32),
      distance=np.concatenate([d for _, d in parts]).astype(np.float32),
  )


def _visible_points(scene, kept):
  """Function of a photo to the rows of points that it may see."""
  if scene.visibility is None:
    rows = np.flatnonzero(kept)
    cloud = view_cones.PointCloud(scene.points.positions[rows])
    angles = view_cones.cone_angles(scene.cameras)
    return lambda photo: rows[
        cloud.in_cone(scene.cameras.cam_to_world[photo], angles[photo])
    ]
  photo_idx = scene.visibility.photo_idx
  point_idx = np.repeat(np.arange(len(kept)), np.diff(scene.visibility.offsets))
  wanted = kept[point_idx]
  photo_idx, point_idx = photo_idx[wanted], point_idx[wanted]
  order = np.argsort(photo_idx, kind='stable')
  point_idx = point_idx[order]
  ends = np.searchsorted(
      photo_idx[order], np.arange(len(scene.photos.names) + 1)
  )
  return lambda photo: point_idx[ends[photo] : ends[photo + 1]]
