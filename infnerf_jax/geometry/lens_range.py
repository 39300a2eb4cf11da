"""How far from its axis a lens's distortion means anything.

A distortion polynomial is fitted to what a photo shows. Far outside it may
turn round: with a strongly negative k1 the distorted radius falls again and
points far beside the photo would fold into it.
"""

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib


def _first_positive_root(coefficients) -> float:
  """Smallest positive real root of a polynomial, lowest power first."""
  trimmed = np.trim_zeros(np.asarray(coefficients, np.float64), 'b')
  if len(trimmed) < 2:
    return np.inf
  roots = np.roots(trimmed[::-1])
  # A double root, where the slope only touches zero, comes as a pair with a
  # small imaginary part; nothing folds there.
  real = roots[np.abs(roots.imag) < 1e-9 * np.maximum(np.abs(roots), 1)].real
  positive = real[real > 0]
  return float(positive.min()) if len(positive) else np.inf


def _perspective_limit(distortion) -> float:
  """Largest x/z radius of one lens of OpenCV's rational model."""
  k1, k2, _, _, k3, k4, k5, k6 = distortion
  polynomial = np.polynomial.Polynomial
  upper = polynomial([1.0, k1, k2, k3])
  lower = polynomial([1.0, k4, k5, k6])
  square = polynomial([0.0, 1.0])
  # Numerator of the slope of r * upper(r^2) / lower(r^2), in r^2.
  slope = upper * lower
  slope += 2 * square * (upper.deriv() * lower - upper * lower.deriv())
  return np.sqrt(
      min(_first_positive_root(slope.coef), _first_positive_root(lower.coef))
  )


def _fisheye_limit(distortion) -> float:
  """Largest angle of one lens of OpenCV's fisheye model, radians."""
  factors = np.array([1.0, 3.0, 5.0, 7.0, 9.0])
  slope = factors * np.array([1.0, *distortion[:4]])
  return min(np.sqrt(_first_positive_root(slope)), np.pi)


def undistorted_limits(cameras: cameras_lib.Cameras) -> np.ndarray:
  """Where each lens's distortion stops growing with the distance to its axis.

  Tangential terms, small beside the radial ones, are left out.

  Args:
    cameras: table [C].

  Returns:
    [C] float64: perspective the radius in the plane z = 1, fisheye the angle
    to the axis in radians; inf: nowhere.
  """
  kinds = np.asarray(cameras.projection)
  rows = np.concatenate(
      [kinds[:, None], np.asarray(cameras.distortion, np.float64)], axis=-1
  )
  # Thousands of photos share few lenses.
  distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
  limit_of = {
      cameras_lib.PERSPECTIVE: _perspective_limit,
      cameras_lib.FISHEYE: _fisheye_limit,
      cameras_lib.ORTHOGRAPHIC: lambda distortion: np.inf,
  }
  limits = [limit_of[int(row[0])](row[1:]) for row in distinct]
  return np.array(limits, np.float64)[inverse.reshape(-1)]


def within_limits(cameras: cameras_lib.Cameras, points, limits) -> np.ndarray:
  """Whether points lie where the lens's distortion means something.

  Args:
    cameras: [...] rows.
    points: [..., 3] metres, world.
    limits: [...] of the same rows, see `undistorted_limits`.

  Returns:
    [...] bool.
  """
  pose = np.asarray(cameras.cam_to_world, np.float64)
  relative = np.asarray(points, np.float64) - pose[..., :, 3]
  local = np.einsum('...ij,...i->...j', pose[..., :, :3], relative)
  radius, depth = np.linalg.norm(local[..., :2], axis=-1), local[..., 2]
  # Compared without a division: both sides are scaled by the depth.
  flat = (depth > 0) & (radius < limits * np.maximum(depth, 1e-300))
  angle = np.arctan2(radius, depth) < limits
  fisheye = np.asarray(cameras.projection) == cameras_lib.FISHEYE
  return np.where(fisheye, angle, flat | np.isinf(limits))
