"""Footprints of sparse points: the finest detail that the photos show there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import lens_range, view_cones
from infnerf_jax.scene import scene as scene_lib


class PointFootprints(NamedTuple):
  """Footprints of P points.

  Attributes:
    footprint: [P] float64, metres, the smallest over the cameras that see the
      point; inf where none does.
    num_cameras: [P] int32, cameras that see the point.
    from_frustum: whether frustums stood in for missing visibility.
    sightings: [3] 5th, 50th and 95th percentile over all sightings, metres.
  """

  footprint: np.ndarray
  num_cameras: np.ndarray
  from_frustum: bool
  sightings: np.ndarray


# Sightings that are looked at together: host memory does not grow with them.
_BLOCK = 1 << 18


def _slopes(cameras: cameras_lib.Cameras, pix) -> np.ndarray:
  """[K] cone slope of one full-size pixel at pixels of given cameras."""
  if not len(pix):
    return np.zeros(0)
  # Few shapes: each is compiled anew.
  spare = (1 << (len(pix) - 1).bit_length()) - len(pix)

  def padded(x, dtype):
    x = np.asarray(x, dtype)
    return jnp.asarray(
        np.pad(x, [(0, spare)] + [(0, 0)] * (x.ndim - 1), 'edge')
    )

  _, slope = jax.jit(cameras_lib.pixels_to_directions)(
      padded(pix, np.float32),
      padded(cameras.projection, np.int32),
      padded(cameras.intrinsics, np.float32),
      padded(cameras.distortion, np.float32),
  )
  return np.asarray(slope, np.float64)[: len(pix)]


def _observed_footprint(cameras, limits, photo_idx, points, pixel_size):
  """([K] footprint, [K] seen) of point k in camera photo_idx[k]."""
  seen_by = cameras_lib.take(cameras, photo_idx)
  pix, depth = cameras_lib.project(seen_by, points)
  inside = (
      (depth > 0)
      & np.all(pix >= 0, axis=-1)
      & (pix[..., 0] < seen_by.width)
      & (pix[..., 1] < seen_by.height)
      & lens_range.within_limits(seen_by, points, limits[photo_idx])
  )
  distance = np.linalg.norm(
      points - np.asarray(seen_by.cam_to_world)[..., 3], axis=-1
  )
  slope = _slopes(seen_by, pix) * pixel_size
  orthographic = np.asarray(seen_by.projection) == cameras_lib.ORTHOGRAPHIC
  return np.where(orthographic, slope, slope * distance), inside


def _in_blocks(observe, photo_idx, point_idx):
  """`observe` of K sightings, a block at a time."""
  if not len(point_idx):
    return np.zeros(0), np.zeros(0, bool)
  parts = [
      observe(photo_idx[i : i + _BLOCK], point_idx[i : i + _BLOCK])
      for i in range(0, len(point_idx), _BLOCK)
  ]
  footprint, inside = zip(*parts, strict=True)
  return np.concatenate(footprint), np.concatenate(inside)


def _spread(footprint):
  """[3] percentiles 5, 50 and 95; not numbers where there is nothing."""
  if not len(footprint):
    return np.full(3, np.nan)
  return np.percentile(footprint, (5, 50, 95))


def point_footprints(
    scene: scene_lib.Scene, *, pixel_size: float = 1.0
) -> PointFootprints:
  """Smallest footprint of every sparse point over the cameras that see it.

  The footprint is that of a ray's sample there: the same cone slope serves
  building and rendering. Without visibility a camera sees the points in its
  frustum.

  Args:
    scene: with points.
    pixel_size: width of a training pixel in full-size pixels (the downscale).

  Returns:
    PointFootprints.
  """
  limits = lens_range.undistorted_limits(scene.cameras)

  def observe(photo_idx, point_idx):
    return _observed_footprint(
        scene.cameras,
        limits,
        photo_idx,
        scene.points.positions[point_idx],
        pixel_size,
    )

  if scene.visibility is None:
    return _from_frustums(scene, observe)
  return _from_tracks(scene, observe)


def _from_tracks(scene, observe) -> PointFootprints:
  """Of scenes that say which photos see a point."""
  count = np.diff(scene.visibility.offsets)
  point_idx = np.repeat(np.arange(len(count)), count)
  footprint, _ = _in_blocks(observe, scene.visibility.photo_idx, point_idx)
  smallest = np.full(len(count), np.inf)
  np.minimum.at(smallest, point_idx, footprint)
  return PointFootprints(
      smallest, count.astype(np.int32), False, _spread(footprint)
  )


def _from_frustums(scene, observe) -> PointFootprints:
  """Of scenes that do not: a camera sees what lies in its frustum."""
  cloud = view_cones.PointCloud(scene.points.positions)
  angles = view_cones.cone_angles(scene.cameras)
  smallest = np.full(len(cloud.positions), np.inf)
  count = np.zeros(len(cloud.positions), np.int32)
  spreads = []
  for camera, angle in enumerate(angles):
    rows = cloud.in_cone(scene.cameras.cam_to_world[camera], angle)
    footprint, inside = _in_blocks(observe, np.full(len(rows), camera), rows)
    rows, footprint = rows[inside], footprint[inside]
    smallest[rows] = np.minimum(smallest[rows], footprint)
    count[rows] += 1
    spreads.append(_spread(footprint))
  # Exact percentiles of all sightings would need all of them at once.
  spread = np.nanmedian(np.array(spreads), axis=0) if count.any() else None
  return PointFootprints(
      smallest, count, True, _spread([]) if spread is None else spread
  )
