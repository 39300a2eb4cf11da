"""Lenses that our table of cameras cannot hold, fitted by ones that it can."""

from typing import Callable

import numpy as np
from scipy import optimize

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_models

_GRID = 25
# Far below what training resolves; structure from motion is no better.
_MAX_ERROR = 0.3


def fit(
    project: Callable[[np.ndarray], np.ndarray],
    start: camera_models.Lens,
    size,
    *,
    where: str,
) -> camera_models.Lens:
  """The rational lens (FULL_OPENCV) nearest to another.

  Args:
    project: x/z, y/z [N, 2] to pixels [N, 2], as the other lens has it.
    start: a lens that is near to it.
    size: (width, height), pixels, over which both shall agree.
    where: start of the error's line.

  Returns:
    camera_models.Lens.

  Raises:
    InputError: no such lens is within a third of a pixel everywhere.
  """
  # A lens without an inverse runs away, which its error then shows.
  with np.errstate(over='ignore', invalid='ignore'):
    plane = _plane_grid(project, start, size)
    wanted = project(plane)
  first = np.concatenate([start.intrinsics, start.distortion])
  # Pixels and coefficients differ by orders of magnitude.
  scale = np.concatenate([np.full(4, max(size)), np.ones(8)])

  def residual(x):
    return (_project(x * scale, plane) - wanted).ravel()

  error = np.inf
  if np.isfinite(plane).all() and np.isfinite(wanted).all():
    found = optimize.least_squares(residual, first / scale, x_scale='jac')
    error = np.linalg.norm(residual(found.x).reshape(-1, 2), axis=-1).max()
  if not error <= _MAX_ERROR:
    raise errors.InputError(
        f'{where}: got a lens that differs by {error:.2f} pixels from the'
        f' nearest of ours, expected at most {_MAX_ERROR} (undistort the photos'
        ' where they come from)'
    )
  values = found.x * scale
  return camera_models.Lens(cameras_lib.PERSPECTIVE, values[:4], values[4:])


def _plane_grid(project, start, size) -> np.ndarray:
  """[N, 2] x/z, y/z whose pixels cover the photo."""
  width, height = size
  fx, fy, cx, cy = start.intrinsics
  x = (np.linspace(0, width, _GRID) - cx) / fx
  y = (np.linspace(0, height, _GRID) - cy) / fy
  goal = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
  plane = goal.copy()
  # Where the distorted point is too far out go inwards, and the reverse.
  for _ in range(20):
    reached = (project(plane) - [cx, cy]) / [fx, fy]
    plane = plane + (goal - reached)
  return plane


def _project(values, plane) -> np.ndarray:
  """Pixels [N, 2] of x/z, y/z by fx, fy, cx, cy and eight coefficients."""
  camera = cameras_lib.make_camera(
      focal=(values[0], values[1]),
      width=1,
      height=1,
      cam_to_world=np.eye(4),
      center=(values[2], values[3]),
      distortion=values[4:],
  )
  points = np.concatenate([plane, np.ones_like(plane[:, :1])], axis=-1)
  return cameras_lib.project(camera, points)[0]
