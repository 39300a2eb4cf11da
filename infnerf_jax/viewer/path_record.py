"""Recording a camera path in the form of nerfstudio's camera_path.json.

Poses are camera to world; a file has them in OpenGL's axes (y up, z back), 16
numbers row by row, and vertical fields of view in degrees.
"""

import math
from typing import Any, NamedTuple, Sequence

import numpy as np

from infnerf_jax.viewer import views

_GL = np.diag([1.0, -1.0, -1.0, 1.0])
MAX_KEYS = 1000


class Key(NamedTuple):
  """One view that was recorded.

  Attributes:
    position: [3] metres, world.
    rotation: [3, 3] camera to world.
    fov: vertical, radians.
  """

  position: np.ndarray
  rotation: np.ndarray
  fov: float


def key_of(view: views.View, fov: float) -> Key:
  """The key of a view.

  Args:
    view: any; an orthographic one is recorded at its scale.
    fov: vertical radians that orthographic views become.

  Returns:
    Key.
  """
  if view.orthographic:
    view = views.perspective(view, fov)
  return Key(view.position, view.rotation, view.fov)


def slerp(first, second, share: float) -> np.ndarray:
  """[4] quaternion on the shorter way between two unit quaternions."""
  first, second = np.asarray(first, float), np.asarray(second, float)
  cos = float(first @ second)
  if cos < 0:
    second, cos = -second, -cos
  angle = math.acos(min(cos, 1.0))
  if angle < 1e-6:
    mixed = (1 - share) * first + share * second
  else:
    mixed = math.sin((1 - share) * angle) * first
    mixed = mixed + math.sin(share * angle) * second
  return mixed / np.linalg.norm(mixed)


def _spline(values, segment: int, share: float):
  """Catmull-Rom through values [K, ...]; ends repeat."""
  pick = lambda i: values[min(max(i, 0), len(values) - 1)]
  a, b, c, d = (pick(segment + i) for i in (-1, 0, 1, 2))
  t = share
  return 0.5 * (
      2 * b
      + (c - a) * t
      + (2 * a - 5 * b + 4 * c - d) * t**2
      + (3 * b - a - 3 * c + d) * t**3
  )


def interpolate(keys: Sequence[Key], num_frames: int) -> list[Key]:
  """Evenly spaced views along smooth curves through the keys.

  Args:
    keys: at least one.
    num_frames: at least 1; the first and last frame are the first and last
      key where there are two or more.

  Returns:
    Keys.
  """
  positions = np.stack([key.position for key in keys])
  fovs = np.log([key.fov for key in keys])
  turns = [views.rotation_to_quaternion(key.rotation) for key in keys]
  frames = []
  for place in np.linspace(0, len(keys) - 1, num_frames):
    segment = min(int(place), max(len(keys) - 2, 0))
    share = float(place) - segment
    turn = slerp(turns[segment], turns[min(segment + 1, len(keys) - 1)], share)
    frames.append(
        Key(
            _spline(positions, segment, share),
            views.quaternion_to_rotation(turn),
            # Within the keys' own: splines overshoot.
            float(np.exp(np.interp(place, np.arange(len(keys)), fovs))),
        )
    )
  return frames


def _matrix(key: Key) -> list[float]:
  """16 numbers in OpenGL's axes."""
  pose = np.eye(4)
  pose[:3, :3], pose[:3, 3] = key.rotation, key.position
  return (pose @ _GL).reshape(-1).tolist()


def to_nerfstudio(
    keys: Sequence[Key],
    *,
    width: int,
    height: int,
    fps: float,
    seconds_per_key: float,
) -> dict[str, Any]:
  """What camera_path.json says.

  Args:
    keys: at least one.
    width: pixels of the film.
    height: pixels.
    fps: frames a second.
    seconds_per_key: from one key to the next.

  Returns:
    JSON.
  """
  seconds = seconds_per_key * max(len(keys) - 1, 0)
  frames = interpolate(keys, max(1, round(fps * seconds) + 1))
  aspect = width / height
  return {
      'camera_type': 'perspective',
      'render_width': int(width),
      'render_height': int(height),
      'fps': float(fps),
      'seconds': seconds,
      'is_cycle': False,
      'smoothness_value': 0.5,
      'keyframes': [
          {
              'matrix': _matrix(key),
              'fov': math.degrees(key.fov),
              'aspect': aspect,
          }
          for key in keys
      ],
      'camera_path': [
          {
              'camera_to_world': _matrix(frame),
              'fov': math.degrees(frame.fov),
              'aspect': aspect,
          }
          for frame in frames
      ],
  }
