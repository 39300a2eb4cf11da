"""Cameras: pinhole, OpenCV, fisheye and orthographic, as a table of arrays.

Conventions of this module. A camera looks along +z, x is right, y is down.
Pixel coordinates are continuous: the centre of the top-left pixel of the
full-size photo is (0.5, 0.5). Angles are radians, lengths metres. Leading
dimensions `...` are any batch; a table of C cameras has the leading
dimension [C].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PERSPECTIVE = 0
FISHEYE = 1
ORTHOGRAPHIC = 2

NUM_DISTORTION = 8
# Newton converges quadratically; eight rounds reach float32 precision for
# every lens whose distortion is invertible over the photo.
_NUM_NEWTON_STEPS = 8
_DISC = float(1.0 / np.sqrt(np.pi))  # radius of a disc of unit area


class Cameras(NamedTuple):
  """A table of cameras (all fields share their leading dimensions).

  Attributes:
    projection: [...] int32, PERSPECTIVE, FISHEYE or ORTHOGRAPHIC.
    intrinsics: [..., 4] float64, fx, fy, cx, cy in pixels; of an orthographic
      camera fx and fy are pixels per metre.
    distortion: [..., 8] float64. Perspective: k1, k2, p1, p2, k3, k4, k5, k6
      (OpenCV's rational model). Fisheye: k1, k2, k3, k4 (OpenCV's
      equidistant model), then zeros. All zero: none.
    cam_to_world: [..., 3, 4] float64, rotation and centre in metres.
    width: [...] int32, pixels.
    height: [...] int32, pixels.
  """

  projection: np.ndarray
  intrinsics: np.ndarray
  distortion: np.ndarray
  cam_to_world: np.ndarray
  width: np.ndarray
  height: np.ndarray


class DeviceCameras(NamedTuple):
  """What rays need of a table of cameras, in float32, for one octree.

  Attributes:
    projection: [C] int32.
    intrinsics: [C, 4] float32.
    distortion: [C, 8] float32.
    rotation: [C, 3, 3] float32, camera to world.
    origins: [C, 3] float32, centres in root units (0 to 1 inside the root).
    origins_lo: [C, 3] float32, what float32 rounding left of them, so that
      `origins + origins_lo` is the centre to 48 bits.
  """

  projection: jax.Array
  intrinsics: jax.Array
  distortion: jax.Array
  rotation: jax.Array
  origins: jax.Array
  origins_lo: jax.Array


class Rays(NamedTuple):
  """Rays of an octree; lengths along them are metres.

  Attributes:
    origins: [..., 3] float32, root units (the root is the unit cube).
    origins_lo: [..., 3] float32, root units, the part that float32 rounding
      took from `origins`: a camera 500 km from the root's corner still places
      its samples to a millimetre.
    directions: [..., 3] float32, unit length, world axes.
    base_radius: [..., 1] float32, metres; footprint at the origin.
    cone_slope: [..., 1] float32, footprint per metre.
    camera_idx: [..., 1] int32, row of the table that the ray came from (-1:
      none); selects the appearance of training photos.
  """

  origins: jax.Array
  origins_lo: jax.Array
  directions: jax.Array
  base_radius: jax.Array
  cone_slope: jax.Array
  camera_idx: jax.Array


def stack(cameras: list[Cameras]) -> Cameras:
  """Stacks single cameras (no leading dimension) into a table."""
  return Cameras(*(np.stack(x) for x in zip(*cameras, strict=True)))


def take(cameras: Cameras, idx) -> Cameras:
  """Rows `idx` of a table of cameras."""
  return Cameras(*(np.asarray(x)[idx] for x in cameras))


def make_camera(
    *,
    focal: float | tuple[float, float],
    width: int,
    height: int,
    cam_to_world,
    center: tuple[float, float] | None = None,
    distortion=(),
    projection: int = PERSPECTIVE,
) -> Cameras:
  """One camera as a table row without leading dimension.

  Args:
    focal: pixels (fx = fy) or (fx, fy); pixels per metre if orthographic.
    width: pixels.
    height: pixels.
    cam_to_world: [3, 4] or [4, 4], metres.
    center: principal point in pixels; default the photo's centre.
    distortion: up to eight coefficients, see `Cameras`.
    projection: PERSPECTIVE, FISHEYE or ORTHOGRAPHIC.

  Returns:
    Cameras with scalar `width`.
  """
  fx, fy = np.broadcast_to(np.asarray(focal, np.float64), (2,))
  cx, cy = center if center is not None else (width / 2, height / 2)
  coefficients = np.zeros(NUM_DISTORTION)
  coefficients[: len(distortion)] = distortion
  return Cameras(
      projection=np.int32(projection),
      intrinsics=np.array([fx, fy, cx, cy], np.float64),
      distortion=coefficients,
      cam_to_world=np.asarray(cam_to_world, np.float64)[:3, :4],
      width=np.int32(width),
      height=np.int32(height),
  )


def look_at(position, target, up=(0.0, 0.0, 1.0)) -> np.ndarray:
  """[3, 4] cam_to_world of a camera at `position` that looks at `target`.

  Args:
    position: [3] metres, world.
    target: [3] metres, world.
    up: [3] world direction that appears upwards; where the view is parallel
      to it, +y (north) appears upwards instead.

  Returns:
    [3, 4] float64.
  """
  position = np.asarray(position, np.float64)
  forward = np.asarray(target, np.float64) - position
  forward = forward / np.linalg.norm(forward)
  right = np.cross(forward, np.asarray(up, np.float64))
  if np.linalg.norm(right) < 1e-6:
    right = np.cross(forward, np.array([0.0, 1.0, 0.0]))
  right = right / np.linalg.norm(right)
  down = np.cross(forward, right)
  return np.concatenate(
      [np.stack([right, down, forward], axis=-1), position[:, None]], axis=-1
  )


def distort(points, coefficients):
  """OpenCV's rational and tangential distortion of the plane z = 1.

  Args:
    points: [..., 2] undistorted x/z, y/z.
    coefficients: [..., 8] k1, k2, p1, p2, k3, k4, k5, k6.

  Returns:
    [..., 2] distorted x/z, y/z.
  """
  x, y = points[..., 0], points[..., 1]
  k1, k2, p1, p2, k3, k4, k5, k6 = (coefficients[..., i] for i in range(8))
  r2 = x * x + y * y
  radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (
      1 + r2 * (k4 + r2 * (k5 + r2 * k6))
  )
  return jnp.stack(
      [
          x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
          y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
      ],
      axis=-1,
  )


def _distort_jacobian(points, coefficients):
  """([..., 2] distorted, [..., 2, 2] derivative: row output, column input)."""
  columns = []
  for axis in range(2):
    tangent = jnp.zeros_like(points).at[..., axis].set(1)
    value, column = jax.jvp(
        lambda p: distort(p, coefficients), (points,), (tangent,)
    )
    columns.append(column)
  return value, jnp.stack(columns, axis=-1)


def undistort(points, coefficients):
  """Inverse of `distort` by Newton, and the determinant of its derivative.

  Args:
    points: [..., 2] distorted x/z, y/z.
    coefficients: [..., 8].

  Returns:
    ([..., 2] undistorted x/z, y/z; [...] |d undistorted / d distorted|).
  """
  coefficients = jnp.broadcast_to(coefficients, points.shape[:-1] + (8,))

  def solve(jacobian, residual):
    a, b = jacobian[..., 0, 0], jacobian[..., 0, 1]
    c, d = jacobian[..., 1, 0], jacobian[..., 1, 1]
    det = a * d - b * c
    u, v = residual[..., 0], residual[..., 1]
    return jnp.stack([d * u - b * v, a * v - c * u], -1) / det[..., None], det

  def newton_step(_, carry):
    guess, _ = carry
    value, jacobian = _distort_jacobian(guess, coefficients)
    step, det = solve(jacobian, points - value)
    # Of the last guess but one: by then the two agree to the last bits.
    return guess + step, det

  # A loop, not unrolled: every program with cameras compiles seconds faster.
  start = (points, jnp.ones_like(points[..., 0]))
  guess, det = jax.lax.fori_loop(0, _NUM_NEWTON_STEPS, newton_step, start)
  return guess, 1 / jnp.abs(det)


def _fisheye_angle(theta, coefficients):
  """Distorted angle of OpenCV's fisheye model and its derivative."""
  t2 = theta * theta
  k1, k2, k3, k4 = (coefficients[..., i] for i in range(4))
  value = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
  slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
  return value, slope


def _fisheye_direction(points, coefficients):
  """Unit direction and solid angle per unit of plane area, fisheye."""
  radius = jnp.linalg.norm(points, axis=-1)

  def newton_step(_, theta):
    value, slope = _fisheye_angle(theta, coefficients)
    return jnp.clip(theta - (value - radius) / slope, 0.0, jnp.pi)

  theta = jax.lax.fori_loop(
      0, _NUM_NEWTON_STEPS, newton_step, jnp.minimum(radius, jnp.pi)
  )
  _, slope = _fisheye_angle(theta, coefficients)
  # At the centre both ratios tend to one.
  safe = jnp.where(radius > 1e-7, radius, 1.0)
  ratio = jnp.where(radius > 1e-7, jnp.sin(theta) / safe, 1.0)
  direction = jnp.concatenate(
      [points * ratio[..., None], jnp.cos(theta)[..., None]], axis=-1
  )
  return direction, ratio / slope


def pixels_to_directions(pix, projection, intrinsics, distortion):
  """Directions in the camera's frame and the cone slope of one-pixel cones.

  The cone's disc has the area that the pixel covers on the unit sphere
  (1/sqrt(pi) pixel widths on the axis), so off-axis and distorted pixels get
  their own footprint.

  Args:
    pix: [..., 2] pixel coordinates.
    projection: [...] int32.
    intrinsics: [..., 4].
    distortion: [..., 8].

  Returns:
    ([..., 3] unit directions, [...] cone slope a pixel). Orthographic
    cameras: direction +z and the disc's radius in metres.
  """
  focal, center = intrinsics[..., :2], intrinsics[..., 2:]
  points = (pix - center) / focal
  area = 1 / (focal[..., 0] * focal[..., 1])
  plane, det = undistort(points, distortion)
  norm2 = 1 + jnp.sum(plane * plane, axis=-1)
  perspective = (
      jnp.concatenate([plane, jnp.ones_like(plane[..., :1])], axis=-1)
      / jnp.sqrt(norm2)[..., None]
  )
  fisheye, fisheye_angle = _fisheye_direction(points, distortion)
  forward = jnp.zeros_like(perspective).at[..., 2].set(1)
  kind = projection[..., None]
  direction = jnp.where(
      kind == PERSPECTIVE,
      perspective,
      jnp.where(kind == FISHEYE, fisheye, forward),
  )
  solid_angle = jnp.where(
      projection == PERSPECTIVE,
      det * norm2**-1.5,
      jnp.where(projection == FISHEYE, fisheye_angle, 1.0),
  )
  return direction, _DISC * jnp.sqrt(solid_angle * area)


def project(cameras: Cameras, points) -> tuple[np.ndarray, np.ndarray]:
  """Pixel coordinates and depth of world points, in float64 on the host.

  Args:
    cameras: table with leading dimensions that broadcast against `points`.
    points: [..., 3] metres, world.

  Returns:
    ([..., 2] pixels, [...] depth along the optical axis in metres). Pixels
    are meaningless where the depth is not positive (fisheye: where the angle
    exceeds what the lens sees).
  """
  pose = np.asarray(cameras.cam_to_world, np.float64)
  relative = np.asarray(points, np.float64) - pose[..., :, 3]
  local = np.einsum('...ij,...i->...j', pose[..., :, :3], relative)
  depth = local[..., 2]
  safe = np.where(np.abs(depth) > 1e-12, depth, 1e-12)
  plane = local[..., :2] / safe[..., None]
  distorted = _distort_host(plane, np.asarray(cameras.distortion, np.float64))
  radius = np.linalg.norm(local[..., :2], axis=-1)
  angle, _ = _fisheye_angle(
      np.arctan2(radius, depth), np.asarray(cameras.distortion, np.float64)
  )
  fisheye = local[..., :2] * (angle / np.maximum(radius, 1e-12))[..., None]
  kind = np.asarray(cameras.projection)[..., None]
  flat = np.where(
      kind == PERSPECTIVE,
      distorted,
      np.where(kind == FISHEYE, fisheye, local[..., :2]),
  )
  return flat * cameras.intrinsics[..., :2] + cameras.intrinsics[..., 2:], depth


def _distort_host(points, coefficients):
  """`distort` in float64 NumPy, for projecting points on the host."""
  x, y = points[..., 0], points[..., 1]
  k1, k2, p1, p2, k3, k4, k5, k6 = np.moveaxis(coefficients, -1, 0)
  r2 = x * x + y * y
  radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (
      1 + r2 * (k4 + r2 * (k5 + r2 * k6))
  )
  return np.stack(
      [
          x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
          y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
      ],
      axis=-1,
  )


def split_float64(values) -> tuple[np.ndarray, np.ndarray]:
  """Splits float64 into two float32 whose sum is the value to 48 bits."""
  values = np.asarray(values, np.float64)
  high = values.astype(np.float32)
  return high, (values - high).astype(np.float32)


def to_device(cameras: Cameras, root_min, root_side: float) -> DeviceCameras:
  """Camera table for rays in the root units of one octree.

  Args:
    cameras: table [C].
    root_min: [3] float64, the root's lower corner, metres.
    root_side: metres.

  Returns:
    DeviceCameras.
  """
  centres = np.asarray(cameras.cam_to_world, np.float64)[:, :, 3]
  high, low = split_float64((centres - np.asarray(root_min)) / root_side)
  as_f32 = lambda x: jnp.asarray(np.asarray(x, np.float32))
  return DeviceCameras(
      projection=jnp.asarray(np.asarray(cameras.projection, np.int32)),
      intrinsics=as_f32(cameras.intrinsics),
      distortion=as_f32(cameras.distortion),
      rotation=as_f32(np.asarray(cameras.cam_to_world)[:, :, :3]),
      origins=jnp.asarray(high),
      origins_lo=jnp.asarray(low),
  )


def camera_rays(
    cameras: DeviceCameras, camera_idx, pix, pixel_size, *, root_side
) -> Rays:
  """Rays through pixels.

  Args:
    cameras: table [C].
    camera_idx: [...] int32, rows of the table.
    pix: [..., 2] float32, pixel coordinates at full size.
    pixel_size: [...] float32, width of the ray's pixel in full-size pixels
      (2**pyramid_level times the photo's downscale).
    root_side: metres.

  Returns:
    Rays with leading dimensions of `camera_idx`.
  """
  projection = cameras.projection[camera_idx]
  intrinsics = cameras.intrinsics[camera_idx]
  direction, slope = pixels_to_directions(
      pix, projection, intrinsics, cameras.distortion[camera_idx]
  )
  rotation = cameras.rotation[camera_idx]
  rotate = lambda v: jnp.einsum(
      '...ij,...j->...i', rotation, v, precision=jax.lax.Precision.HIGHEST
  )
  orthographic = projection == ORTHOGRAPHIC
  plane = (pix - intrinsics[..., 2:]) / intrinsics[..., :2]
  plane = jnp.where(orthographic[..., None], plane, 0.0)
  shift = rotate(
      jnp.concatenate([plane, jnp.zeros_like(plane[..., :1])], axis=-1)
  )
  directions = rotate(direction)
  directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
  radius = (slope * pixel_size)[..., None]
  kind = orthographic[..., None]
  return Rays(
      origins=cameras.origins[camera_idx],
      origins_lo=cameras.origins_lo[camera_idx] + shift / root_side,
      directions=directions,
      base_radius=jnp.where(kind, radius, 0.0),
      cone_slope=jnp.where(kind, 0.0, radius),
      camera_idx=camera_idx[..., None].astype(jnp.int32),
  )
