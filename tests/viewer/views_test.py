"""Browsers' views as cameras: the same rays, the same scale."""

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import views

_BOX = np.array([[-10.0, -8, -1], [12, 9, 5]])


def _rotation(seed):
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
  return q * np.linalg.det(q)


def _view(seed=0, **changes):
  rotation = _rotation(seed)
  position = np.array([3.0, -20.0, 15.0])
  view = views.View(
      position, rotation, 0.9, 320, 200, position + 12.0 * rotation[:, 2]
  )
  return view._replace(**changes)


def _directions(camera, pix):
  """World rays of a camera by the device's own function."""
  row = cameras_lib.Cameras(*(np.asarray(x)[None] for x in camera))
  device = cameras_lib.to_device(row, np.zeros(3), 1.0)
  rays = cameras_lib.camera_rays(
      device, jnp.zeros(len(pix), jnp.int32), jnp.asarray(pix, jnp.float32),
      jnp.ones(len(pix)), root_side=1.0,
  )  # fmt: skip
  origin = np.asarray(rays.origins, float) + np.asarray(rays.origins_lo, float)
  return origin, np.asarray(rays.directions)


@pytest.mark.parametrize('seed', range(6))
def test_quaternions_round_trip(seed):
  rotation = _rotation(seed)
  wxyz = views.rotation_to_quaternion(rotation)
  np.testing.assert_allclose(np.linalg.norm(wxyz), 1)
  np.testing.assert_allclose(
      views.quaternion_to_rotation(3 * wxyz), rotation, atol=1e-12
  )


@pytest.mark.parametrize('axis', range(3))
def test_half_turns_have_quaternions(axis):
  rotation = -np.eye(3)
  rotation[axis, axis] = 1
  wxyz = views.rotation_to_quaternion(rotation)
  np.testing.assert_allclose(abs(wxyz), np.eye(4)[axis + 1], atol=1e-12)


def test_a_known_quaternion():
  """A quarter turn about z takes x to y."""
  turn = views.quaternion_to_rotation([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
  np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_field_of_view_is_vertical():
  view = _view()
  camera = views.to_camera(view, _BOX, 0.1)
  pix = np.array([[160.0, 0.0], [160.0, 200.0], [160.0, 100.0]])
  _, direction = _directions(camera, pix)
  angle = np.arccos(direction[0] @ direction[1])
  np.testing.assert_allclose(angle, 0.9, atol=1e-5)
  np.testing.assert_allclose(direction[2], view.rotation[:, 2], atol=1e-6)


@pytest.mark.parametrize('orthographic', [False, True])
def test_rays_of_places(orthographic):
  view = _view(1)
  if orthographic:
    view = views.orthographic(view)
  camera = views.to_camera(view, _BOX, 0.1)
  place = np.array([[0.1, 0.7], [0.5, 0.5], [1.0, 0.0]])
  origin, direction = _directions(camera, place * [320, 200])
  for i, (u, v) in enumerate(place):
    found, way = views.pixel_ray(camera, u, v)
    np.testing.assert_allclose(found, origin[i], atol=1e-4)
    np.testing.assert_allclose(way, direction[i], atol=1e-6)
    one = views.pixel_camera(camera, u, v)
    assert one.width == one.height == 1
    again = _directions(one, np.array([[0.5, 0.5]]))
    np.testing.assert_allclose(again[0][0], origin[i], atol=1e-4)
    np.testing.assert_allclose(again[1][0], direction[i], atol=1e-6)


def test_parts_have_the_same_rays():
  camera = views.to_camera(_view(2), _BOX, 0.1)
  part = views.part_of(camera, 40, 60, 100, 30)
  assert (part.width, part.height) == (100, 30)
  pix = np.array([[3.5, 7.5], [99.0, 29.0]])
  np.testing.assert_allclose(
      _directions(part, pix)[1], _directions(camera, pix + [40, 60])[1],
      atol=1e-6,
  )  # fmt: skip


def test_parallel_rays_keep_the_scale_and_begin_before_the_scene():
  view = _view(3)
  flat = views.orthographic(view)
  np.testing.assert_allclose(
      views.pixels_per_metre(flat), views.pixels_per_metre(view)
  )
  camera = views.to_camera(flat, _BOX, 0.25)
  assert camera.projection == cameras_lib.ORTHOGRAPHIC
  np.testing.assert_allclose(
      camera.intrinsics[:2], views.pixels_per_metre(view)
  )
  corners = _BOX[np.array(list(np.ndindex(2, 2, 2))), np.arange(3)]
  ahead = (corners - camera.cam_to_world[:, 3]) @ view.rotation[:, 2]
  np.testing.assert_allclose(ahead.min(), 0.25)
  # The target stays in the middle.
  pix, _ = cameras_lib.project(camera, view.target)
  np.testing.assert_allclose(pix, [160, 100], atol=1e-9)
  back = views.perspective(flat, view.fov)
  np.testing.assert_allclose(back.position, view.position, atol=1e-9)


def test_maps_have_north_up_whatever_the_axes():
  level = views.make_level([0.2, -0.3, 0.9])
  np.testing.assert_allclose(
      level.rotation @ level.rotation.T, np.eye(3), atol=1e-12
  )
  np.testing.assert_allclose(np.linalg.det(level.rotation), 1)
  view = views.top_view(_view(), level)
  camera = views.to_camera(view, _BOX, 0.1)
  step = level.to_world([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 4.0]])
  pix, _ = cameras_lib.project(camera, view.target + step)
  scale = views.pixels_per_metre(view)
  expected = np.array([[2, 0], [0, -3], [0, 0]]) * scale + [160, 100]
  np.testing.assert_allclose(pix, expected, atol=1e-6)
  assert np.allclose(views.make_level([0, 0, 2.0]).rotation, np.eye(3))


def test_vertical_cameras_lie_where_they_should():
  level = views.make_level([0.1, 0.2, 1.0])
  camera = views.vertical_camera(level, (5, 7), (0, 2), 40, 20, 0.5, 30.0)
  # Rows run north; columns to their right, east.
  place = level.to_world([[5 + 0.25, 7 + 0.25, 3], [5 + 4.0, 7 + 10.0, 1]])
  pix, depth = cameras_lib.project(camera, place)
  np.testing.assert_allclose(pix, [[0.5, 0.5], [20, 8]], atol=1e-9)
  np.testing.assert_allclose(depth, [27, 29])


def test_photos_fit_the_canvas():
  pose = np.concatenate([_rotation(5), [[1.0], [2], [3]]], axis=1)
  photo = cameras_lib.make_camera(
      focal=(400, 410), width=640, height=480, cam_to_world=pose
  )
  for size in ((900, 300), (300, 900)):
    view = _view(width=size[0], height=size[1])
    seen = views.of_photo(photo, view, 7.0)
    camera = views.to_camera(seen, _BOX, 0.1)
    corners = np.array([[0, 0], [640, 480]])
    rays = [views.pixel_ray(photo, *(c / [640, 480]))[1] for c in corners]
    pix, _ = cameras_lib.project(camera, pose[:, 3] + np.array(rays))
    assert np.all(pix > -1e-6) and np.all(pix < np.array(size) + 1e-6)
    # It fills one of the two directions.
    share = (pix[1] - pix[0]) / size
    np.testing.assert_allclose(share.max(), 1, atol=1e-6)


def test_nonsense_is_no_view():
  assert views.is_valid(_view())
  for changes in (
      {'fov': 0.0}, {'fov': float('nan')}, {'fov': 3.2}, {'width': 0},
      {'height': 10**6}, {'position': np.array([np.inf, 0, 0])},
      {'target': np.array([0, 1e13, 0])},
  ):  # fmt: skip
    assert not views.is_valid(_view(**changes))


@pytest.mark.parametrize(
    'metres,nice', [(7.3, 5), (5, 5), (1.99, 1), (240, 200), (0.034, 0.02)]
)
def test_scale_bars_are_round(metres, nice):
  np.testing.assert_allclose(views.nice_length(metres), nice)
