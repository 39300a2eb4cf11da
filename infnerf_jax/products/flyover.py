"""A camera path along the flight that took the photos."""

import math

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.products import camera_path, surroundings

# Radians from straight down: from there nothing lies ahead, and photos from
# above have not seen what a flat view would show.
_FLYOVER_TILT = (math.radians(30.0), math.radians(65.0))
# Places a photo on the track that is smoothed: by a photo's distance.
_TRACK_STEPS = 8
# Of the film: what a turn of the view is spread over.
_TURN_SHARE = 0.02


def flyover_path(
    cameras: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    frames: camera_path.Frames = camera_path.Frames(),
) -> camera_path.CameraPath:
  """Along the flight: over the photos' places in order of name, looking ahead.

  The track is smoothed over a few photos, so that turns between two lines are
  curves, and passed at an even pace. The view is tilted as the photos are,
  at least by `_FLYOVER_TILT`: from straight above nothing lies ahead.

  Args:
    cameras: table [P] of the photos.
    octree: tree.
    frames: of the film.

  Returns:
    CameraPath.
  """
  view = surroundings.surround(cameras, octree)
  poses = np.asarray(cameras.cam_to_world, np.float64)
  track = _smooth_track(poses[:, :, 3], frames.num)
  axes = np.stack([view.east, view.north, view.up])
  ahead = np.gradient(track, axis=0) @ axes.T if frames.num > 1 else axes[1:2]
  angle = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
  angle = _smoothed(angle[:, None], _TURN_SHARE * frames.num)[:, 0]
  down = np.clip(-poses[:, :, 2] @ view.up, -1.0, 1.0)
  tilt = float(np.clip(np.median(np.arccos(down)), *_FLYOVER_TILT))
  forward = (
      np.stack(
          [
              np.sin(tilt) * np.cos(angle),
              np.sin(tilt) * np.sin(angle),
              np.full_like(angle, -np.cos(tilt)),
          ],
          axis=-1,
      )
      @ axes
  )
  views = [
      cameras_lib.look_at(place, place + towards, view.up)
      for place, towards in zip(track, forward, strict=True)
  ]
  return camera_path.pinhole_path(views, view, frames)


def _smoothed(values, width: float) -> np.ndarray:
  """[N, D] values under a Gaussian of a width in rows; the ends stay."""
  reach = math.ceil(3 * width)
  across = np.arange(-reach, reach + 1) / max(width, 1e-9)
  kernel = np.exp(-0.5 * across**2)
  # Turned about its ends a line goes straight on.
  long = np.pad(
      values, ((reach, reach), (0, 0)), mode='reflect', reflect_type='odd'
  )
  return np.stack(
      [np.convolve(c, kernel / kernel.sum(), 'valid') for c in long.T], axis=-1
  )


def _smooth_track(places, num_frames: int) -> np.ndarray:
  """[N, 3] places at an even pace along a smoothed line through others."""
  smooth = _smoothed(_even(places, _TRACK_STEPS * len(places)), _TRACK_STEPS)
  return _even(smooth, num_frames)


def _even(places, num: int) -> np.ndarray:
  """[num, 3] points at even distances along a line through places [P, 3]."""
  steps = np.linalg.norm(np.diff(places, axis=0), axis=-1)
  along = np.concatenate([[0.0], np.cumsum(steps)])
  wanted = np.linspace(0.0, along[-1], num)
  return np.stack([np.interp(wanted, along, c) for c in places.T], axis=-1)
