"""Limits of distortions: closed forms and a scan along the radius."""

import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import lens_range


def _camera(distortion=(), projection=cameras_lib.PERSPECTIVE):
  return cameras_lib.make_camera(
      focal=500.0,
      width=800,
      height=600,
      cam_to_world=cameras_lib.look_at([1.0, 2.0, 30.0], [1.0, 2.0, 0.0]),
      distortion=distortion,
      projection=projection,
  )


def _limit(distortion, projection=cameras_lib.PERSPECTIVE):
  table = cameras_lib.stack([_camera(distortion, projection)])
  return lens_range.undistorted_limits(table)[0]


def test_closed_forms():
  # r (1 + k r^2) has its top at r^2 = -1 / (3 k).
  assert _limit((-0.3,)) == pytest.approx(np.sqrt(1 / 0.9))
  assert _limit((-0.3,), cameras_lib.FISHEYE) == pytest.approx(np.sqrt(1 / 0.9))
  assert _limit(()) == np.inf and _limit((0.2,)) == np.inf
  assert _limit((-0.3, 1.0)) == np.inf  # the second term wins in time
  assert _limit((), cameras_lib.FISHEYE) == np.pi
  assert _limit((), cameras_lib.ORTHOGRAPHIC) == np.inf
  # Tangential terms alone fold nothing that is looked at here.
  assert _limit((0.0, 0.0, 1e-3, -1e-3)) == np.inf
  # A pole of the rational model at r^2 = 2.
  assert _limit((0, 0, 0, 0, 0, -0.5)) <= np.sqrt(2)


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize(
    'projection', [cameras_lib.PERSPECTIVE, cameras_lib.FISHEYE]
)
def test_same_as_a_scan(seed, projection):
  """Projected radii grow up to the limit, and no further."""
  rng = np.random.default_rng(seed)
  distortion = rng.normal(size=8) * [0.3, 0.1, 0, 0, 0.03, 0.1, 0.02, 0.01]
  if projection == cameras_lib.FISHEYE:
    distortion = rng.normal(size=4) * [0.2, 0.05, 0.02, 0.01]
  camera = _camera(distortion, projection)
  limit = min(_limit(distortion, projection), 3.0)

  def points_at(steps):
    if projection == cameras_lib.FISHEYE:
      local = np.stack([np.sin(steps), 0 * steps, np.cos(steps)], axis=-1)
    else:
      local = np.stack([steps, 0 * steps, 0 * steps + 1], axis=-1)
    pose = camera.cam_to_world
    return pose[:, 3] + local @ pose[:, :3].T

  points = points_at(np.linspace(1e-3, limit, 4000))
  radius = cameras_lib.project(camera, points)[0][:, 0] - 400.0
  assert np.all(np.diff(radius) > 0)
  assert lens_range.within_limits(camera, points, limit)[:-1].all()
  if limit < 3.0:
    beyond = points_at(np.array([1.001, 1.002]) * limit)
    assert not lens_range.within_limits(camera, beyond, limit).any()
    turned = cameras_lib.project(camera, beyond)[0][:, 0] - 400.0
    # Turned back, or gone through a pole to the other side.
    assert turned[1] < turned[0]


def test_rows_keep_their_order_and_points_behind_are_out():
  table = cameras_lib.stack([_camera((k,)) for k in (-0.3, 0.0, -0.1, -0.3)])
  limits = lens_range.undistorted_limits(table)
  np.testing.assert_allclose(
      limits, [np.sqrt(1 / 0.9), np.inf, np.sqrt(1 / 0.3), np.sqrt(1 / 0.9)]
  )
  behind = lens_range.within_limits(
      cameras_lib.take(table, 0), np.array([1.0, 2.0, 40.0]), limits[0]
  )
  assert not behind
