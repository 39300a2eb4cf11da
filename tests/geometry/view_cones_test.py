"""View cones lose no point that a photo shows, and most that it does not."""

import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import lens_range, view_cones

_LENSES = {
    'pinhole': {},
    'off centre': {'center': (10.0, 590.0)},
    'barrel': {'distortion': (-0.2, 0.03, 1e-3, -1e-3)},
    'pincushion': {'distortion': (0.2, 0.05)},
    'fisheye': {
        'projection': cameras_lib.FISHEYE,
        'focal': 180.0,
        'distortion': (0.02, -0.01),
    },
    'orthographic': {'projection': cameras_lib.ORTHOGRAPHIC, 'focal': 20.0},
}


def _seen(cameras, limits, points):
  pix, depth = cameras_lib.project(cameras, points)
  size = np.stack([cameras.width, cameras.height], axis=-1)
  inside = (depth > 0) & np.all((pix >= 0) & (pix < size), axis=-1)
  return inside & lens_range.within_limits(cameras, points, limits)


@pytest.mark.parametrize('name', _LENSES)
def test_all_that_a_photo_shows_lies_in_its_cone(name):
  rng = np.random.default_rng(3)
  far_off = np.array([4e5, 5.6e6, 120.0])  # metres, as in map coordinates
  cameras = cameras_lib.stack(
      [
          cameras_lib.make_camera(
              **{
                  **dict(
                      focal=500.0,
                      width=800,
                      height=600,
                      cam_to_world=cameras_lib.look_at(
                          far_off + rng.uniform(-30, 30, 3),
                          far_off + rng.uniform(-30, 30, 3),
                      ),
                  ),
                  **_LENSES[name],
              }
          )
          for _ in range(6)
      ]
  )
  points = far_off + rng.uniform(-60, 60, (20_000, 3))
  limits = lens_range.undistorted_limits(cameras)
  angles = view_cones.cone_angles(cameras)
  cloud = view_cones.PointCloud(points)
  for row, angle in enumerate(angles):
    camera = cameras_lib.take(cameras, row)
    seen = np.flatnonzero(_seen(camera, limits[row], points))
    found = cloud.in_cone(camera.cam_to_world, angle)
    assert len(seen) and np.isin(seen, found).all()
    if name in ('pinhole', 'barrel'):
      # The circle around a photo of 4 to 3 has twice its area.
      assert len(found) < 3 * len(seen)


def test_lenses_without_a_border_have_no_cone():
  camera = cameras_lib.make_camera(
      focal=100.0,
      width=800,
      height=600,
      cam_to_world=np.eye(4),
      distortion=(-5.0,),  # folds long before the border
  )
  (angle,) = view_cones.cone_angles(cameras_lib.stack([camera]))
  points = np.random.default_rng(0).normal(size=(2000, 3))
  limit = lens_range.undistorted_limits(cameras_lib.stack([camera]))[0]
  seen = np.flatnonzero(_seen(camera, limit, points))
  found = view_cones.PointCloud(points).in_cone(camera.cam_to_world, angle)
  assert len(seen) and np.isin(seen, found).all()


def test_no_points():
  cloud = view_cones.PointCloud(np.zeros((0, 3)))
  assert len(cloud.in_cone(np.eye(4)[:3], 0.5)) == 0
