"""Recorded paths, and that the film's reader takes them."""

import json

import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import camera_path
from infnerf_jax.viewer import path_record, views


def _keys(num, seed=0):
  rng = np.random.default_rng(seed)
  keys = []
  for i in range(num):
    position = np.array([4.0 * i, 3.0 * i * i, 20 - i]) + rng.normal(size=3)
    pose = cameras_lib.look_at(position, [10, 10, 0])
    keys.append(path_record.Key(position, pose[:, :3], 0.6 + 0.1 * i))
  return keys


def test_a_path_is_read_back(tmp_path):
  keys = _keys(4)
  content = path_record.to_nerfstudio(
      keys, width=640, height=360, fps=10.0, seconds_per_key=2.0
  )
  file = tmp_path / 'camera_path.json'
  file.write_text(json.dumps(content))
  path = camera_path.read_camera_path(file)
  assert len(path.names) == 61 and path.fps == 10
  assert content['seconds'] == 6 and len(content['keyframes']) == 4
  assert path.cameras.width[0] == 640 and path.cameras.height[0] == 360
  for i, key in enumerate(keys):
    row = cameras_lib.take(path.cameras, 20 * i)
    pose = np.concatenate([key.rotation, key.position[:, None]], axis=1)
    np.testing.assert_allclose(row.cam_to_world, pose, atol=1e-9)
    fov = 2 * np.arctan(0.5 * 360 / row.intrinsics[1])
    np.testing.assert_allclose(fov, key.fov)


def test_one_key_is_one_frame():
  content = path_record.to_nerfstudio(
      _keys(1), width=64, height=48, fps=24, seconds_per_key=3
  )
  assert len(content['camera_path']) == 1


def test_straight_and_even_between_keys_on_a_line():
  turn = np.eye(3)
  keys = [
      path_record.Key(np.array([2.0 * i, 0, 1]), turn, 0.5) for i in range(5)
  ]
  frames = path_record.interpolate(keys, 41)
  inner = np.stack([frame.position for frame in frames])[10:31]
  np.testing.assert_allclose(np.diff(inner[:, 0]), 0.2, atol=1e-12)
  np.testing.assert_allclose(inner[:, 1:], [[0, 1]] * 21)


def test_turns_take_the_shorter_way_at_an_even_pace():
  half = lambda angle: np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
  for second in (half(1.2), -half(1.2)):
    found = path_record.slerp(half(0.2), second, 0.25)
    np.testing.assert_allclose(abs(found @ half(0.45)), 1, atol=1e-12)
  np.testing.assert_allclose(
      path_record.slerp(half(0.3), half(0.3), 0.7), half(0.3)
  )


def test_fields_of_view_do_not_overshoot():
  keys = [k._replace(fov=f) for k, f in zip(_keys(4), (0.3, 0.3, 1.2, 1.2))]
  fovs = [frame.fov for frame in path_record.interpolate(keys, 50)]
  assert min(fovs) >= 0.3 - 1e-9 and max(fovs) <= 1.2 + 1e-9


def test_orthographic_views_are_recorded_at_their_scale():
  rotation = cameras_lib.look_at([0, -5, 5], [0, 0, 0])[:, :3]
  view = views.View(np.array([0, -5.0, 5]), rotation, 0.8, 100, 80, np.zeros(3))
  key = path_record.key_of(views.orthographic(view), 0.8)
  np.testing.assert_allclose(key.position, view.position, atol=1e-9)
  assert key.fov == pytest.approx(0.8)
