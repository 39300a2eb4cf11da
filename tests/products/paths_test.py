"""Camera paths: where they look, how they move, what they refuse."""

import json
import math

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree
from infnerf_jax.products import camera_path, flyover, paths, surroundings
from tests import tiny_model


def _survey():
  """Nadir photos over a plain at z = 0."""
  return cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=500.0,
              width=640,
              height=480,
              cam_to_world=cameras_lib.look_at(
                  [x, y, 50], [x, y, 0], (np.cos(x + y), np.sin(x + y), 0)
              ),
          )
          for x in (-20, 0, 20)
          for y in (-20, 0, 20)
      ]
  )


def _octree():
  ground = np.array([[x, y, 3] for x in range(8) for y in range(8)])
  cells = [np.unique(ground >> (3 - level), axis=0) for level in range(4)]
  return tree.from_coords(cells, center=[0.0, 0, 0], side=80.0, grid_size=64)


def _positions(path):
  return np.asarray(path.cameras.cam_to_world)[:, :, 3]


def _looks_at(path, target):
  pix, depth = cameras_lib.project(path.cameras, np.asarray(target, float))
  center = np.stack([path.cameras.width, path.cameras.height], -1) / 2
  return np.abs(pix - center).max() < 1e-6 and np.all(depth > 0)


def test_zoom_goes_from_far_above_to_the_finest_footprint():
  octree = _octree()
  path = paths.zoom_path(
      _survey(), octree, camera_path.Frames(num=9, width=321, height=0)
  )
  assert path.cameras.width[0] == 320 and path.cameras.height[0] == 240
  target = surroundings.surround(_survey(), octree).target
  assert _looks_at(path, target)
  assert abs(target[2]) <= 10.0  # in a node of the ground
  distance = np.linalg.norm(_positions(path) - target, axis=-1)
  factors = distance[1:] / distance[:-1]
  np.testing.assert_allclose(factors, factors[0], rtol=1e-6)
  focal = path.cameras.intrinsics[0, 0]
  # The root fills a quarter of the width, seen from straight above.
  assert octree.side * focal / distance[0] == pytest.approx(320 / 4)
  np.testing.assert_allclose(
      (_positions(path) - target)[0] / distance[0], [0, 0, 1], atol=1e-9
  )
  finest = octree.node_gsd(3)
  footprint = distance[-1] / focal / np.sqrt(np.pi)
  assert footprint == pytest.approx(finest) or distance[-1] == octree.side / 8
  # Photos of pixels so coarse end it before, within half an octave of theirs.
  coarse = paths.zoom_path(
      _survey(), octree, camera_path.Frames(num=9, width=320, pixel_size=4.0)
  )
  away = np.linalg.norm(_positions(coarse) - target, axis=-1)
  heights = np.linalg.norm(
      np.asarray(_survey().cam_to_world)[:, :, 3] - target, axis=-1
  )
  photo_footprint = np.percentile(heights, 10) * 4.0 / 500.0
  assert away[-1] / focal == pytest.approx(photo_footprint / np.sqrt(2))
  assert away[-1] > distance[-1]
  # North stays up: no picture turns against the one before.
  up = -np.asarray(path.cameras.cam_to_world)[:, :, 1]
  assert np.all(np.sum(up[1:] * up[:-1], axis=-1) > 0.9)


def test_films_are_as_wide_as_training_s_photos_allow():
  for pixel_size, width in ((1.0, 640), (4.0, 226), (1.2, 640)):
    path = paths.spiral_path(
        _survey(), _octree(), camera_path.Frames(num=2, pixel_size=pixel_size)
    )
    assert path.cameras.width[0] == width
    wide = paths.zoom_path(
        _survey(),
        _octree(),
        camera_path.Frames(num=2, width=800, pixel_size=pixel_size),
    )
    assert wide.cameras.width[0] == 800 and wide.cameras.height[0] == 600


def test_spiral_over_a_survey_goes_round_down_to_the_photos_height():
  path = paths.spiral_path(_survey(), _octree(), camera_path.Frames(num=40))
  target = surroundings.surround(_survey(), _octree()).target
  target = np.array([0.0, 0.0, target[2]])  # the middle, not a node's
  assert _looks_at(path, target)
  offset = _positions(path) - target
  angle = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
  assert abs(angle[-1] - angle[0]) == pytest.approx(3 * np.pi, rel=1e-3)
  assert offset[-1, 2] == pytest.approx(50 - target[2])
  assert np.all(np.diff(np.linalg.norm(offset, axis=-1)) < 0)
  # Photos that look straight down show no walls to look at from the side.
  flat = np.linalg.norm(offset[:, :2], axis=-1)
  assert np.all(flat <= 0.6 * offset[:, 2] + 1e-9)


def test_spiral_stays_on_the_side_that_was_photographed():
  cameras = cameras_lib.stack(
      [
          tiny_model.make_camera(angle, distance=5.0)
          for angle in np.linspace(-0.5, 0.5, 7)
      ]
  )
  octree = tiny_model.make_octree()
  path = paths.spiral_path(cameras, octree, camera_path.Frames(num=30))
  view = surroundings.surround(cameras, octree)
  assert _looks_at(path, view.target)
  np.testing.assert_allclose(view.up, [0, 0, 1])
  mean = view.offsets.mean(axis=0)
  away = np.linalg.norm(_positions(path) - view.target - mean, axis=-1)
  farthest = np.linalg.norm(view.offsets - mean, axis=-1).max()
  assert away.max() < farthest * 1.2 and away.max() > 0.1 * farthest


def test_flyover_follows_the_flight_and_looks_ahead():
  # Two lines of a survey, there and back, 30 m apart.
  line = np.stack([np.arange(0, 200, 10.0), np.zeros(20), np.full(20, 50)], -1)
  places = np.concatenate([line, (line + [0, 30, 0])[::-1]])
  cameras = cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=500, width=640, height=480,
              cam_to_world=cameras_lib.look_at(p, p * [1, 1, 0], (0, 1, 0)),
          )
          for p in places
      ]
  )  # fmt: skip
  path = flyover.flyover_path(cameras, _octree(), camera_path.Frames(num=80))
  found = _positions(path)
  np.testing.assert_allclose(found[[0, -1]], places[[0, -1]], atol=0.5)
  steps = np.linalg.norm(np.diff(found, axis=0), axis=-1)
  np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)
  away = np.linalg.norm(found[:, None] - places[None], axis=-1).min(axis=1)
  assert away.max() < 15 and np.ptp(found[:, 2]) < 1e-6
  ahead = np.asarray(path.cameras.cam_to_world)[:, :, 2]
  np.testing.assert_allclose(ahead[:, 2], -np.cos(np.radians(30)))
  assert np.all(ahead[:30, 0] > 0.45) and np.all(ahead[-30:, 0] < -0.45)
  # The view turns with the flight, never by a jump.
  angle = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
  assert abs(abs(angle[-1] - angle[0]) - np.pi) < 0.1
  assert np.abs(np.diff(angle)).max() < np.radians(40)
  one = flyover.flyover_path(cameras, _octree(), camera_path.Frames(num=1))
  assert np.isfinite(_positions(one)).all()


def test_paths_look_where_photos_look_in_a_root_much_larger():
  # The survey lies in one corner of a root of four times its side.
  ground = np.array([[x, y, 3] for x in range(4) for y in range(4)])
  cells = [np.unique(ground >> (5 - level), axis=0) for level in range(6)]
  octree = tree.from_coords(
      cells, center=[140.0, 140.0, 60.0], side=320.0, grid_size=64
  )
  low = octree.center - 160
  assert np.all(low[:2] == -20)
  view = surroundings.surround(_survey(), octree)
  np.testing.assert_allclose(view.middle[:2], 0, atol=1e-6)
  assert np.linalg.norm(view.target[:2]) < 8
  path = paths.spiral_path(_survey(), octree, camera_path.Frames(num=3))
  assert _looks_at(path, view.middle)


def test_photo_path_keeps_the_photos_cameras():
  cameras = _survey()
  path = paths.photo_path(
      cameras, [f'{i}.jpg' for i in range(9)], [0, 8], pixel_size=2.0
  )
  assert path.names == ('0.jpg', '8.jpg') and path.pixel_size == 2.0
  np.testing.assert_array_equal(
      path.cameras.cam_to_world[1], cameras.cam_to_world[8]
  )


def _document(**changes):
  pose = np.eye(4)
  pose[:3, 3] = [1, 2, 3]
  view = {'camera_to_world': pose.reshape(-1).tolist(), 'fov': 60, 'aspect': 1}
  return {
      'camera_type': 'perspective',
      'render_width': 200,
      'render_height': 100,
      'fps': 30,
      'camera_path': [view, view],
      **changes,
  }


def _write(tmp_path, document):
  path = tmp_path / 'camera_path.json'
  path.write_text(json.dumps(document))
  return path


def test_reads_nerfstudio_s_axes_and_vertical_field_of_view(tmp_path):
  path = camera_path.read_camera_path(_write(tmp_path, _document()))
  assert path.fps == 30 and len(path.names) == 2
  assert (path.cameras.width[0], path.cameras.height[0]) == (200, 100)
  camera = cameras_lib.take(path.cameras, 0)
  # The identity in OpenGL looks along -z with y up.
  pix, depth = cameras_lib.project(camera, np.array([1.0, 2, -7]))
  np.testing.assert_allclose(pix, [100, 50])
  assert depth == 10
  top = 10 * math.tan(math.radians(30))
  pix, _ = cameras_lib.project(camera, np.array([1.0, 2 + top, -7]))
  np.testing.assert_allclose(pix, [100, 0], atol=1e-9)
  small = camera_path.read_camera_path(_write(tmp_path, _document()), width=50)
  assert (small.cameras.width[0], small.cameras.height[0]) == (50, 25)


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'camera_path': []}, r'camera_path: got \[\]'),
        ({'camera_type': 'equirectangular'}, "got 'equirectangular'"),
        ({'render_width': None}, 'render_width, render_height'),
        ({'camera_path': [{'fov': 0}]}, r'camera_path\[0\]: fov: got 0'),
        (
            {'camera_path': [{'fov': 50, 'camera_to_world': [1, 2]}]},
            'expected 16 numbers',
        ),
        (
            {
                'camera_path': [
                    {
                        'fov': 50,
                        'camera_to_world': (
                            np.diag([1, 1, -1, 1.0]).reshape(-1).tolist()
                        ),
                    }
                ]
            },
            'expected a rotation',
        ),
        (
            {'camera_path': [{'fov': 50, 'camera_to_world': [math.nan] * 16}]},
            'expected a rotation',
        ),
    ],
)
def test_refusals_name_file_and_field(tmp_path, changes, match):
  with pytest.raises(errors.InputError, match=match) as caught:
    camera_path.read_camera_path(_write(tmp_path, _document(**changes)))
  assert 'camera_path.json' in str(caught.value)
  assert '\n' not in str(caught.value)
