"""Cones that hold all that a camera sees: a cheap first look at many points.

Thousands of photos times millions of points are too many to project; most
points lie outside a photo's cone, which one product of matrices tells.
"""

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib

# Border pixels looked at along each side of a photo.
_BORDER = 9
# Between border pixels, and for what float32 rounds, the cone is wider.
_WIDER = 1.05  # of the angle
_COARSE = 0.01  # radians
# Photos whose borders are looked at together.
_BLOCK = 1024


def _border(width, height):
  """[C, B, 2] pixel coordinates around photos of [C] widths and heights."""
  along = np.linspace(0.0, 1.0, _BORDER)
  zero, one = np.zeros(_BORDER), np.ones(_BORDER)
  x = np.concatenate([along, along, zero, one])
  y = np.concatenate([zero, one, along, along])
  return np.stack([x * width[:, None], y * height[:, None]], axis=-1)


def _border_cosines(lenses):
  """[C] smallest cosine to the axis at the borders, NaN: not known."""
  pix = _border(lenses.width, lenses.height)
  as_f32 = lambda x: jnp.asarray(np.asarray(x, np.float32))
  directions, _ = jax.jit(cameras_lib.pixels_to_directions)(
      as_f32(pix),
      jnp.asarray(lenses.projection)[:, None],
      as_f32(lenses.intrinsics)[:, None],
      as_f32(lenses.distortion)[:, None],
  )
  directions = np.asarray(directions, np.float64)  # [C, B, 3]
  # A distortion that folds before the border has no inverse there.
  unmoved = cameras_lib.Cameras(*(np.asarray(x)[:, None] for x in lenses))
  unmoved = unmoved._replace(
      cam_to_world=np.broadcast_to(np.eye(4)[:3], (len(pix), 1, 3, 4))
  )
  again, _ = cameras_lib.project(unmoved, directions)
  inverted = np.max(np.abs(again - pix), axis=(1, 2)) < 1.0  # pixels
  return np.where(inverted, np.min(directions[..., 2], axis=-1), np.nan)


def cone_angles(cameras: cameras_lib.Cameras) -> np.ndarray:
  """Largest angle between a camera's axis and what its photo shows.

  Args:
    cameras: table [C].

  Returns:
    [C] float64, radians, with a margin; pi where no cone bounds the view
    (orthographic cameras, lenses whose border has no direction).
  """
  kinds = np.asarray(cameras.projection)
  size = np.stack([cameras.width, cameras.height], axis=-1)
  rows = np.concatenate(
      [kinds[:, None], size, cameras.intrinsics, cameras.distortion], axis=-1
  ).astype(np.float64)
  # Thousands of photos share few lenses.
  _, first, inverse = np.unique(
      rows, axis=0, return_index=True, return_inverse=True
  )
  cosine = np.concatenate(
      [
          _border_cosines(cameras_lib.take(cameras, first[i : i + _BLOCK]))
          for i in range(0, len(first), _BLOCK)
      ]
  )
  angle = np.arccos(np.clip(cosine, -1.0, 1.0)) * _WIDER + _COARSE
  bounded = np.isfinite(cosine) & (angle < np.pi)
  bounded &= kinds[first] != cameras_lib.ORTHOGRAPHIC
  return np.where(bounded, angle, np.pi)[inverse.reshape(-1)]


class PointCloud:
  """Points that many cameras are asked about, one after the other.

  Attributes:
    positions: [P, 3] float64, metres.
  """

  def __init__(self, positions):
    self.positions = np.asarray(positions, np.float64)
    # float32 around the middle: a cone's margin outweighs what it rounds.
    self._middle = (
        np.median(self.positions, axis=0)
        if len(self.positions)
        else np.zeros(3)
    )
    self._local = (self.positions - self._middle).astype(np.float32)

  def in_cone(self, cam_to_world, angle: float) -> np.ndarray:
    """Rows of the points in a camera's cone.

    Args:
      cam_to_world: [3, 4] metres.
      angle: radians, see `cone_angles`.

    Returns:
      [K] int64, ascending.
    """
    if angle >= np.pi:
      return np.arange(len(self._local))
    pose = np.asarray(cam_to_world, np.float64)
    relative = self._local - (pose[:, 3] - self._middle).astype(np.float32)
    along = relative @ pose[:, 2].astype(np.float32)
    distance2 = np.einsum('ij,ij->i', relative, relative)
    cosine = np.float32(np.cos(angle))
    # along >= cosine * distance, squared where both sides have a sign.
    squared = along * np.abs(along)
    return np.flatnonzero(squared >= cosine * abs(cosine) * distance2)
