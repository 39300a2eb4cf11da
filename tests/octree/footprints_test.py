"""Footprints of points: a closed form, and the rays' own footprints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import footprints
from infnerf_jax.scene import scene as scene_lib


def _scene(cameras, positions, visibility=None):
  names = tuple(f'{i}.png' for i in range(len(cameras)))
  positions = np.asarray(positions, np.float64)
  return scene_lib.Scene(
      photos=scene_lib.Photos(names, names, (None,) * len(names)),
      cameras=cameras_lib.stack(cameras),
      points=scene_lib.Points(
          positions, np.zeros((len(positions), 3), np.uint8)
      ),
      visibility=visibility,
      frame={},
      report={},
  )


def _nadir(x, height, **changes):
  arguments = dict(
      focal=500.0,
      width=600,
      height=600,
      cam_to_world=cameras_lib.look_at([x, 0, height], [x, 0, 0]),
  )
  return cameras_lib.make_camera(**{**arguments, **changes})


@pytest.mark.parametrize('pixel_size', [1.0, 3.0])
def test_closed_form_of_a_nadir_photo(pixel_size):
  """radius = p z / (f sqrt(pi)) sqrt(cos a): slope cos^(3/2), distance 1/cos.

  The solid angle of an off-axis pixel shrinks with cos^3, so that the cone's
  slope does with cos^(3/2), and the distance grows with 1 / cos.
  """
  positions = np.array([[0.0, 0, 0], [20, 0, 0], [12, -17, 0], [3, 4, 10]])
  found = footprints.point_footprints(
      _scene([_nadir(0, 40.0)], positions), pixel_size=pixel_size
  )
  depth = 40.0 - positions[:, 2]
  distance = np.linalg.norm(positions - [0, 0, 40.0], axis=-1)
  cosine = depth / distance
  slope = pixel_size / (500 * np.sqrt(np.pi)) * cosine**1.5
  np.testing.assert_allclose(found.footprint, slope * distance, rtol=1e-5)
  np.testing.assert_array_equal(found.num_cameras, 1)
  assert found.from_frustum


def test_smallest_over_the_cameras_that_see_the_point():
  cameras = [_nadir(0, 80.0), _nadir(0, 20.0), _nadir(500, 5.0)]
  positions = [[0.0, 0, 0], [30, 0, 0], [0, 0, 100], [500, 0, 0]]
  found = footprints.point_footprints(_scene(cameras, positions))
  # In both; outside the low frustum; behind all; the third camera's alone.
  np.testing.assert_array_equal(found.num_cameras, [2, 1, 0, 1])
  unit = 1 / (500 * np.sqrt(np.pi))
  assert found.footprint[0] == pytest.approx(20 * unit, rel=1e-5)
  assert found.footprint[1] > 80 * unit * 0.9
  assert np.isinf(found.footprint[2])
  assert found.footprint[3] == pytest.approx(5 * unit, rel=1e-5)


def test_points_far_beside_a_photo_do_not_fold_into_it():
  """Beyond r^2 = -1 / (3 k1) the distorted radius falls again."""
  camera = _nadir(0, 10.0, distortion=(-0.3,), focal=400.0)
  inside, beside = [4.0, 1.0, 0.0], [17.0, 0.0, 0.0]
  pix, depth = cameras_lib.project(camera, np.array([inside, beside]))
  # The polynomial alone would show both in the photo.
  assert np.all((pix > 0) & (pix < 600)) and np.all(depth > 0)
  found = footprints.point_footprints(_scene([camera], [inside, beside]))
  np.testing.assert_array_equal(found.num_cameras, [1, 0])
  assert np.isfinite(found.footprint[0]) and np.isinf(found.footprint[1])


def test_tracks_override_the_frustum():
  cameras = [_nadir(0, 80.0), _nadir(0, 20.0)]
  visibility = scene_lib.Visibility(
      offsets=np.array([0, 1, 1, 3]), photo_idx=np.array([0, 0, 1], np.int32)
  )
  found = footprints.point_footprints(
      _scene(cameras, [[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], visibility)
  )
  unit = 1 / (500 * np.sqrt(np.pi))
  assert not found.from_frustum
  np.testing.assert_array_equal(found.num_cameras, [1, 0, 2])
  assert found.footprint[0] == pytest.approx(80 * unit, rel=1e-5)
  assert np.isinf(found.footprint[1])
  assert found.footprint[2] == pytest.approx(20 * unit, rel=1e-2)


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'distortion': (0.05, -0.02, 1e-3, -1e-3)},
        {'projection': cameras_lib.FISHEYE, 'distortion': (0.02, -0.01)},
        {'projection': cameras_lib.ORTHOGRAPHIC, 'focal': 10.0},
    ],
    ids=['pinhole', 'opencv', 'fisheye', 'orthographic'],
)
def test_same_as_the_ray_through_the_point(changes):
  """One footprint serves building and rendering."""
  camera = _nadir(0, 40.0, **changes)
  positions = np.random.default_rng(0).uniform(-12, 12, (20, 3))
  found = footprints.point_footprints(
      _scene([camera], positions), pixel_size=2.0
  )
  pix, _ = cameras_lib.project(camera, positions)
  device = cameras_lib.to_device(cameras_lib.stack([camera]), np.zeros(3), 1.0)
  rays = jax.jit(cameras_lib.camera_rays)(
      device,
      jnp.zeros(20, jnp.int32),
      jnp.asarray(pix, jnp.float32),
      jnp.full(20, 2.0),
      root_side=1.0,
  )
  t = np.linalg.norm(positions - [0, 0, 40.0], axis=-1)
  ray_footprint = rays.base_radius[:, 0] + t * rays.cone_slope[:, 0]
  np.testing.assert_allclose(found.footprint, ray_footprint, rtol=1e-4)
