"""Sightings of sparse points: projection, visibility, hidden points, draws."""

import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import pyramid, ray_batches, readers
from infnerf_jax.scene import scene as scene_lib
from tests.scene import builders

BOX = np.array([[-1e3] * 3, [1e3] * 3])


@pytest.fixture(name='scene')
def _scene(tmp_path):
  return readers.load_scene(builders.infnerf(tmp_path / 'scene', num_photos=4))


def _with_points(scene, positions, visibility=None):
  positions = np.asarray(positions, np.float64)
  points = scene_lib.Points(positions, np.zeros(positions.shape, np.uint8))
  return scene._replace(points=points, visibility=visibility)


def _in_front(scene, photo, distance, across=0.0):
  """A point before a photo's camera, `across` to its right."""
  pose = np.asarray(scene.cameras.cam_to_world[photo])
  return pose[:, 3] + distance * pose[:, 2] + across * pose[:, 0]


def test_sightings_lie_where_the_points_project(scene):
  rng = np.random.default_rng(0)
  target = _in_front(scene, 0, 5.0)
  scene = _with_points(scene, target + rng.normal(size=(40, 3)))
  everyone = scene_lib.Visibility(
      np.arange(41) * 4, np.tile(np.arange(4, dtype=np.int32), 40)
  )
  seen = observations_lib.point_observations(
      scene._replace(visibility=everyone), BOX
  )
  assert seen.offsets[-1] == len(seen.distance) > 40
  for photo in range(4):
    camera = cameras_lib.take(scene.cameras, [photo])
    pix, depth = cameras_lib.project(camera, scene.points.positions)
    size = np.array([camera.width[0], camera.height[0]])
    good = (depth > 0) & (pix >= 0).all(-1) & (pix < size).all(-1)
    rows = slice(seen.offsets[photo], seen.offsets[photo + 1])
    np.testing.assert_allclose(seen.pix[rows], pix[good], rtol=1e-5)
    centre = scene.cameras.cam_to_world[photo][:, 3]
    expected = np.linalg.norm(scene.points.positions[good] - centre, axis=-1)
    np.testing.assert_allclose(seen.distance[rows], expected, rtol=1e-5)


def test_visibility_says_who_sees_a_point(scene):
  scene = _with_points(scene, [_in_front(scene, 2, 4.0)] * 3)
  only = scene_lib.Visibility(np.array([0, 1, 1, 1]), np.array([2], np.int32))
  seen = observations_lib.point_observations(
      scene._replace(visibility=only), BOX
  )
  assert np.diff(seen.offsets).tolist() == [0, 0, 1, 0]


def test_points_behind_others_are_hidden_without_visibility(scene):
  rng = np.random.default_rng(1)
  wall = [_in_front(scene, 1, 4.0, x) for x in rng.uniform(-0.3, 0.3, 60)]
  behind = [_in_front(scene, 1, 8.0, x) for x in rng.uniform(-0.3, 0.3, 60)]
  seen = observations_lib.point_observations(
      _with_points(scene, wall + behind), BOX
  )
  distance = seen.distance[seen.offsets[1] : seen.offsets[2]]
  assert len(distance) >= 60 and distance.max() < 4.5


def test_strays_and_crowds_are_left_out(scene):
  positions = [_in_front(scene, 0, d) for d in np.linspace(4, 4.1, 100)]
  scene = _with_points(scene, positions)
  assert not len(
      observations_lib.point_observations(scene, BOX * 0 + 1e6).distance
  )
  few = observations_lib.point_observations(scene, BOX, max_observations=40)
  assert 0 < np.diff(few.offsets).max() <= 10
  nothing = scene._replace(points=None)
  assert observations_lib.point_observations(nothing, BOX).offsets[-1] == 0


def test_rays_go_through_the_points_that_they_name(scene, tmp_path):
  rng = np.random.default_rng(2)
  target = _in_front(scene, 0, 5.0)
  scene = _with_points(scene, target + 0.5 * rng.normal(size=(200, 3)))
  photos, _, _ = pyramid.build(
      scene,
      tmp_path / 'cache',
      cache_gb=1.0,
      downscale=2.0,
      num_levels=2,
      show_progress=False,
  )
  seen = observations_lib.point_observations(scene, BOX)
  rows = np.array([0, 2, 3])
  options = ray_batches.BatchOptions(
      num_rays=64, pyramid_ray_share=(1, 1), point_ray_share=0.25
  )
  batch = ray_batches.sample_batch(photos, rows, options, 5, seen)
  assert (batch.distance > 0).sum() == 16
  assert set(batch.pyramid_level[batch.distance > 0]) == {0, 1}
  for i in np.flatnonzero(batch.distance):
    photo = batch.photo_idx[i]
    assert photo in rows
    part = slice(seen.offsets[photo], seen.offsets[photo + 1])
    same = np.isclose(seen.distance[part], batch.distance[i])
    beside = np.abs(seen.pix[part][same] - batch.pix[i]).max(axis=-1)
    # At most half of the ray's own pixel.
    assert beside.min() <= 0.501 * batch.pixel_size[i]
  without = ray_batches.sample_batch(photos, rows, options, 5)
  assert not without.distance.any()
