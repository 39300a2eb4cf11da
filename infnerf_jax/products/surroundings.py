"""What the photos' cameras tell of a scene: where it is, where up is."""

import math
from typing import NamedTuple

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib

# Heights above the scene within which an axis meets it.
_MAX_HEIGHTS = 8.0


class Surround(NamedTuple):
  """What the photos' cameras tell of a scene's surroundings.

  Attributes:
    target: [3] metres, where to look.
    middle: [3] metres, of what the photos look at, at the target's height.
    up: [3] unit.
    east: [3] unit, across `up`.
    north: [3] unit, across both.
    offsets: [P, 3] metres, cameras from the target.
    fov: radians, the photos' median horizontal field of view.
    aspect: width / height of the median photo.
    width: pixels of the median photo, full size.
  """

  target: np.ndarray
  middle: np.ndarray
  up: np.ndarray
  east: np.ndarray
  north: np.ndarray
  offsets: np.ndarray
  fov: float
  aspect: float
  width: float


def unit(vector) -> np.ndarray:
  """A vector at length one."""
  return vector / np.linalg.norm(vector)


def _up_axis(poses) -> np.ndarray:
  """[3] unit: where up is, from cameras that are held level or look down."""
  forward = poses[:, :, 2].mean(axis=0)
  standing = -poses[:, :, 1].mean(axis=0)
  # Photos of one heading say two things: level ones stand upright, those from
  # above look down. The world's own up tells them apart.
  for axis in (standing, -forward):
    if axis[2] > 0.9 * max(np.linalg.norm(axis), 0.8):
      return np.array([0.0, 0.0, 1.0])
  # Nadir photos turn about their axis, so their own ups cancel out.
  if np.linalg.norm(forward) > 0.8 and np.linalg.norm(standing) < 0.8:
    guess = -unit(forward)
  elif np.linalg.norm(standing) > 0.1:
    guess = unit(standing)
  else:
    guess = np.array([0.0, 0.0, 1.0])
  # Without roll all right axes lie in the horizontal.
  right = poses[:, :, 0]
  share, axes = np.linalg.eigh(right.T @ right / len(right))
  if share[1] > 0.02:
    up = axes[:, 0] * np.sign(axes[:, 0] @ guess)
  else:  # one heading: the guess, made level
    up = unit(guess - axes[:, 2] * (axes[:, 2] @ guess))
  # A world that stands nearly upright stands upright.
  return np.array([0.0, 0.0, 1.0]) if up[2] > 0.9 else up


def _looked_at(poses, center, up) -> np.ndarray:
  """[3] median of where the photos' axes meet the level of a scene's centre.

  Args:
    poses: [P, 3, 4].
    center: [3] of the scene's finest nodes, for photos that meet nothing.
    up: [3] unit.
  """
  above, forward = (poses[:, :, 3] - center) @ up, poses[:, :, 2]
  fall = -forward @ up
  distance = above / np.where(np.abs(fall) > 1e-6, fall, 1e-6)
  # What lies many heights away is the horizon.
  far = _MAX_HEIGHTS * np.maximum(np.median(np.abs(above)), 1e-9)
  meets = (distance > 0) & (distance < far)
  if meets.sum() < 0.5 * len(poses):
    return center
  places = poses[:, :, 3] + distance[:, None] * forward
  return np.median(places[meets], axis=0)


def surround(cameras: cameras_lib.Cameras, octree: tree_lib.Octree) -> Surround:
  """Where to look and how to turn, from photos and octree.

  The target is the finest node nearest to the middle of what photos look at:
  it holds points, so a surface is there. The root's own centre says nothing: a
  root may be much larger than what was photographed.

  Args:
    cameras: table [P] of the photos.
    octree: tree.

  Returns:
    Surround.
  """
  poses = np.asarray(cameras.cam_to_world, np.float64)
  finest = np.flatnonzero(octree.level == octree.level.max())
  centers = tree_lib.node_aabb(octree, finest).mean(axis=-2)
  up = _up_axis(poses)
  middle = _looked_at(poses, centers.mean(axis=0), up)
  target = centers[np.argmin(np.linalg.norm(centers - middle, axis=-1))]
  middle = _looked_at(poses, target, up)
  axis = np.array([1.0, 0, 0]) if abs(up[0]) < 0.9 else np.array([0, 1.0, 0])
  east = unit(axis - up * (axis @ up))
  fov = 2 * np.arctan(0.5 * cameras.width / cameras.intrinsics[:, 0])
  perspective = np.asarray(cameras.projection) == cameras_lib.PERSPECTIVE
  fov = np.median(fov[perspective]) if perspective.any() else math.radians(60)
  return Surround(
      target=target,
      middle=middle,
      up=up,
      east=east,
      north=np.cross(up, east),
      offsets=poses[:, :, 3] - target,
      fov=float(np.clip(fov, math.radians(20), math.radians(100))),
      aspect=float(np.median(cameras.width / cameras.height)),
      width=float(np.median(cameras.width)),
  )


def about_middle(view: Surround) -> Surround:
  """The same about the middle of what the photos look at."""
  shift = view.middle - view.target
  return view._replace(target=view.middle, offsets=view.offsets - shift)
