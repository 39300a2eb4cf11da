"""Footprints of sparse points: the finest detail that the photos show there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import lens_range
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


def _slopes(cameras: cameras_lib.Cameras, pix) -> np.ndarray:
  """[...] cone slope of one full-size pixel at pixels of given cameras."""
  as_f32 = lambda x: jnp.asarray(np.asarray(x, np.float32))
  _, slope = jax.jit(cameras_lib.pixels_to_directions)(
      as_f32(pix),
      jnp.asarray(cameras.projection),
      as_f32(cameras.intrinsics),
      as_f32(cameras.distortion),
  )
  return np.asarray(slope, np.float64)


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
  positions = scene.points.positions
  num_points, num_cameras = len(positions), len(scene.photos.names)
  limits = lens_range.undistorted_limits(scene.cameras)
  smallest = np.full(num_points, np.inf)
  count = np.zeros(num_points, np.int32)
  if scene.visibility is not None:
    point_idx = np.repeat(
        np.arange(num_points), np.diff(scene.visibility.offsets)
    )
    footprint, _ = _observed_footprint(
        scene.cameras,
        limits,
        scene.visibility.photo_idx,
        positions[point_idx],
        pixel_size,
    )
    np.minimum.at(smallest, point_idx, footprint)
    count = np.diff(scene.visibility.offsets).astype(np.int32)
    return PointFootprints(smallest, count, False, _spread(footprint))
  spreads = []
  for camera in range(num_cameras):
    idx = np.full(num_points, camera)
    footprint, inside = _observed_footprint(
        scene.cameras, limits, idx, positions, pixel_size
    )
    smallest = np.where(inside, np.minimum(smallest, footprint), smallest)
    count += inside
    spreads.append(_spread(footprint[inside]))
  # Exact percentiles of all sightings would need all of them at once.
  spread = np.nanmedian(np.array(spreads), axis=0) if count.any() else None
  return PointFootprints(
      smallest, count, True, _spread([]) if spread is None else spread
  )
