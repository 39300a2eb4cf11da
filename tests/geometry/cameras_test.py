"""Cameras against float64 oracles: projection, cones, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib

_camera_rays = jax.jit(cameras_lib.camera_rays)
_undistort = jax.jit(cameras_lib.undistort)

_MODELS = {
    'pinhole': {},
    'radial': {'distortion': (-0.1, 0.02)},
    'opencv': {'distortion': (0.08, -0.03, 2e-3, -1e-3)},
    'rational': {
        'distortion': (0.3, 0.02, 1e-3, -5e-4, 0.01, 0.2, 0.01, 0.002)
    },
    'fisheye': {
        'projection': cameras_lib.FISHEYE,
        'distortion': (0.03, -0.01, 0.002, -3e-4),
        'focal': (150.0, 152.0),
    },
    'orthographic': {
        'projection': cameras_lib.ORTHOGRAPHIC,
        'focal': (20.0, 25.0),
    },
}


def _camera(**changes):
  arguments = dict(
      focal=(400.0, 410.0),
      width=320,
      height=240,
      center=(163.0, 118.0),
      cam_to_world=cameras_lib.look_at([3, -4, 20], [1, 2, 0]),
  )
  return cameras_lib.make_camera(**{**arguments, **changes})


def _table(camera):
  return cameras_lib.stack([camera])


def _rays(
    camera, pix, pixel_size=1.0, *, root_min=(-10.0,) * 3, root_side=30.0
):
  device = cameras_lib.to_device(_table(camera), root_min, root_side)
  # One shape for all tests: one compilation.
  padded = np.zeros((256, 2), np.float32)
  padded[: len(pix)] = pix
  rays = _camera_rays(
      device,
      jnp.zeros(256, jnp.int32),
      jnp.asarray(padded),
      jnp.full(256, pixel_size, jnp.float32),
      root_side=root_side,
  )
  return jax.tree.map(lambda x: x[: len(pix)], rays)


def _world_points(rays, t, root_min=(-10.0,) * 3, root_side=30.0):
  origins = np.asarray(rays.origins, np.float64) + np.asarray(
      rays.origins_lo, np.float64
  )
  return (
      origins * root_side
      + root_min
      + t * np.asarray(rays.directions, np.float64)
  )


def _pixels(camera, count=200, margin=0.0, seed=0):
  rng = np.random.default_rng(seed)
  size = np.array([camera.width, camera.height])
  return rng.uniform(margin, size - margin, (count, 2))


@pytest.mark.parametrize('name', _MODELS)
def test_points_on_rays_project_back_to_their_pixels(name):
  camera = _camera(**_MODELS[name])
  pix = _pixels(camera)
  rays = _rays(camera, pix)
  np.testing.assert_allclose(
      np.linalg.norm(rays.directions, axis=-1), 1, atol=1e-6
  )
  for t in (5.0, 17.0):
    back, depth = cameras_lib.project(camera, _world_points(rays, t))
    np.testing.assert_allclose(back, pix, atol=4e-3)
    assert np.all(depth > 0)


def test_distortion_is_opencv_s_own_formula():
  """Projects by the formula of OpenCV's documentation, written out."""
  camera = _camera(**_MODELS['rational'])
  point = np.array([2.0, 1.0, 1.5])
  rotation, center = camera.cam_to_world[:, :3], camera.cam_to_world[:, 3]
  x, y, z = rotation.T @ (point - center)
  x, y = x / z, y / z
  k1, k2, p1, p2, k3, k4, k5, k6 = camera.distortion
  r2 = x**2 + y**2
  radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (
      1 + k4 * r2 + k5 * r2**2 + k6 * r2**3
  )
  u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
  v = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
  pix, depth = cameras_lib.project(camera, point)
  np.testing.assert_allclose(pix, [400 * u + 163, 410 * v + 118], rtol=1e-12)
  assert depth == pytest.approx(z)


def test_fisheye_angle_follows_its_polynomial():
  camera = _camera(**_MODELS['fisheye'])
  rays = _rays(camera, _pixels(camera))
  local = np.asarray(rays.directions) @ camera.cam_to_world[:, :3]
  theta = np.arccos(local[:, 2])
  k = camera.distortion[:4]
  distorted = theta + sum(k[i] * theta ** (2 * i + 3) for i in range(4))
  plane = (_pixels(camera) - [163.0, 118.0]) / [150.0, 152.0]
  np.testing.assert_allclose(
      distorted, np.linalg.norm(plane, axis=-1), atol=2e-5
  )
  assert theta.max() > 1.0  # the photo reaches well off the axis


def _brute_slope(camera, pix, size):
  """Radius of the disc with a pixel's area on the unit sphere, by corners.

  The pixel's quadrilateral is cut into spherical triangles (Van Oosterom and
  Strackee's formula) on a grid of 8 x 8 parts, all in float64.
  """
  steps = np.linspace(-0.5, 0.5, 9) * size
  grid = np.stack(np.meshgrid(steps, steps, indexing='xy'), -1) + pix
  directions = _directions64(camera, grid)
  a, b = directions[:-1, :-1], directions[:-1, 1:]
  c, d = directions[1:, 1:], directions[1:, :-1]

  def area(u, v, w):
    triple = np.abs(np.sum(u * np.cross(v, w), -1))
    dots = 1 + np.sum(u * v, -1) + np.sum(v * w, -1) + np.sum(u * w, -1)
    return 2 * np.arctan2(triple, dots)

  return np.sqrt(np.sum(area(a, b, c) + area(a, c, d)) / np.pi)


def _directions64(camera, pix):
  """Unit directions by bisection or fixed-point inversion in float64."""
  plane = (pix - camera.intrinsics[2:]) / camera.intrinsics[:2]
  if camera.projection == cameras_lib.FISHEYE:
    radius = np.linalg.norm(plane, axis=-1)
    low, high = np.zeros_like(radius), np.full_like(radius, 2.0)
    for _ in range(60):
      theta = 0.5 * (low + high)
      k = camera.distortion[:4]
      value = theta + sum(k[i] * theta ** (2 * i + 3) for i in range(4))
      low, high = np.where(value < radius, theta, low), np.where(
          value < radius, high, theta
      )
    unit = plane / np.maximum(radius, 1e-30)[..., None]
    return np.concatenate(
        [unit * np.sin(theta)[..., None], np.cos(theta)[..., None]], -1
    )
  guess = plane
  for _ in range(200):  # a contraction for mild distortion
    error = cameras_lib._distort_host(guess, camera.distortion) - plane
    guess = guess - error
  full = np.concatenate([guess, np.ones_like(guess[..., :1])], -1)
  return full / np.linalg.norm(full, axis=-1, keepdims=True)


@pytest.mark.parametrize('name', ['pinhole', 'opencv', 'rational', 'fisheye'])
def test_cone_has_the_area_of_its_pixel(name):
  camera = _camera(**_MODELS[name])
  pix = np.concatenate(
      [
          [[163.0, 118.0], [3.0, 3.0], [317.0, 3.0], [160.0, 237.0]],
          _pixels(camera, 8, 2.0, 1),
      ]
  )
  for size in (1.0, 4.0):
    slope = np.asarray(_rays(camera, pix, size).cone_slope)[:, 0]
    expected = [_brute_slope(camera, p, size) for p in pix]
    np.testing.assert_allclose(slope, expected, rtol=3e-3)
  if name == 'pinhole':
    # On the axis: 0.564 pixel widths; off axis it shrinks with cos^(3/2).
    axis = np.asarray(_rays(camera, pix[:1]).cone_slope)[0, 0]
    assert axis == pytest.approx(1 / np.sqrt(np.pi * 400 * 410), rel=1e-5)
    plane = (pix[1] - [163, 118]) / [400, 410]
    cosine = 1 / np.sqrt(1 + plane @ plane)
    corner = np.asarray(_rays(camera, pix[1:2]).cone_slope)[0, 0]
    assert corner == pytest.approx(axis * cosine**1.5, rel=1e-4)


def test_orthographic_footprint_is_constant():
  camera = _camera(**_MODELS['orthographic'])
  rays = _rays(camera, _pixels(camera), 2.0)
  np.testing.assert_array_equal(np.asarray(rays.cone_slope), 0)
  # 0.564 of the ground sampling distance, here the geometric mean's.
  expected = 2 / np.sqrt(np.pi * 20 * 25)
  np.testing.assert_allclose(np.asarray(rays.base_radius), expected, rtol=1e-5)
  forward = camera.cam_to_world[:, 2]
  np.testing.assert_allclose(
      np.asarray(rays.directions), np.broadcast_to(forward, (200, 3)), atol=1e-6
  )


def test_origins_keep_48_bits():
  """A camera 500 km from the root's corner resolves a tenth of a millimetre."""
  root_min, side = np.array([-2e5, 3e5, 1e5]), 1.2e6
  position = root_min + [5e5 + 1e-4, 5e5 + 1 / 3, 5e5]
  camera = _camera(
      cam_to_world=np.concatenate([np.eye(3), position[:, None]], -1)
  )
  rays = _rays(
      camera, np.array([[10.0, 20.0]]), root_min=root_min, root_side=side
  )
  together = np.asarray(rays.origins, np.float64) + np.asarray(
      rays.origins_lo, np.float64
  )
  np.testing.assert_allclose(
      together[0] * side + root_min, position, rtol=0, atol=1e-6
  )
  alone = np.asarray(rays.origins, np.float64)[0] * side + root_min
  assert np.abs(alone - position).max() > 1e-3  # float32 alone would not do


def test_split_float64_recombines():
  values = np.random.default_rng(3).normal(size=1000) * 1e4
  high, low = cameras_lib.split_float64(values)
  assert high.dtype == low.dtype == np.float32
  together = high.astype(np.float64) + low.astype(np.float64)
  assert np.max(np.abs(together / values - 1)) < 2.0**-47


def test_look_at_points_its_axes():
  pose = cameras_lib.look_at([0, 0, 10], [0, 5, 10])
  np.testing.assert_allclose(pose[:, 2], [0, 1, 0], atol=1e-12)  # forward
  np.testing.assert_allclose(pose[:, 0], [1, 0, 0], atol=1e-12)  # right
  np.testing.assert_allclose(pose[:, 1], [0, 0, -1], atol=1e-12)  # down
  nadir = cameras_lib.look_at([1, 2, 30], [1, 2, 0])
  assert np.linalg.det(nadir[:, :3]) == pytest.approx(1)
  np.testing.assert_allclose(nadir[:, 2], [0, 0, -1], atol=1e-12)
  np.testing.assert_allclose(nadir[:, 1], [0, -1, 0], atol=1e-12)  # north up


@pytest.mark.parametrize('name', ['opencv', 'rational'])
def test_undistort_inverts_and_knows_its_area(name):
  coefficients = _camera(**_MODELS[name]).distortion
  points = np.random.default_rng(4).uniform(-0.4, 0.4, (50, 2))
  distorted = cameras_lib._distort_host(points, coefficients)
  back, det = _undistort(
      jnp.asarray(distorted, jnp.float32),
      jnp.asarray(coefficients, jnp.float32),
  )
  np.testing.assert_allclose(back, points, atol=2e-6)
  step = 1e-5
  columns = [
      (
          cameras_lib._distort_host(points + step * e, coefficients)
          - cameras_lib._distort_host(points - step * e, coefficients)
      )
      / (2 * step)
      for e in np.eye(2)
  ]
  jacobian = np.stack(columns, axis=-1)
  np.testing.assert_allclose(
      det, 1 / np.abs(np.linalg.det(jacobian)), rtol=1e-4
  )
