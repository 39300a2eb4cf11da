"""The views of a film: what a path is, and nerfstudio's camera_path.json."""

import math
import pathlib
from typing import NamedTuple

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import surroundings

_MAX_WIDTH = 640  # pixels, unless asked for
# Pixels of the photos in one of the finest that training saw (its footprints
# vary by half an octave).
FINEST = math.sqrt(2.0)


class CameraPath(NamedTuple):
  """Views of a film, in order.

  Attributes:
    cameras: table [N].
    names: N names, of photos or numbers.
    pixel_size: width of a picture's pixel in the cameras' pixels.
    fps: frames a second.
  """

  cameras: cameras_lib.Cameras
  names: tuple[str, ...]
  pixel_size: float
  fps: float


class Frames(NamedTuple):
  """What a film is made of, whatever its way.

  Attributes:
    num: views.
    width: pixels; 0 derives it from the photos.
    height: pixels; 0 likewise.
    fps: frames a second.
    pixel_size: width of a training pixel in the photos' pixels.
  """

  num: int = 120
  width: int = 0
  height: int = 0
  fps: float = 24.0
  pixel_size: float = 1.0


def size_of_views(
    view: surroundings.Surround, frames: Frames
) -> tuple[int, int]:
  """Even width and height, as videos want them.

  Args:
    view: what the photos tell.
    frames: of the film.

  Returns:
    (width, height).
  """
  width, height = frames.width, frames.height
  if not width and height:
    width = round(height * view.aspect)
  elif not width:
    # Pixels finer than half an octave below the photos' show what nothing
    # was trained for.
    width = min(_MAX_WIDTH, round(FINEST * view.width / frames.pixel_size))
  if not height:
    height = round(width / view.aspect)
  even = lambda n: max(2, int(n) // 2 * 2)
  return even(width), even(height)


def pinhole_path(
    poses, view: surroundings.Surround, frames: Frames
) -> CameraPath:
  """Pinhole cameras of one size at the poses.

  Args:
    poses: N arrays [3, 4], camera to world.
    view: what the photos tell, for the field of view.
    frames: of the film.

  Returns:
    CameraPath.
  """
  width, height = size_of_views(view, frames)
  focal = 0.5 * width / math.tan(0.5 * view.fov)
  cameras = [
      cameras_lib.make_camera(
          focal=focal, width=width, height=height, cam_to_world=pose
      )
      for pose in poses
  ]
  return CameraPath(
      cameras=cameras_lib.stack(cameras),
      names=tuple(f'{i:05d}' for i in range(len(cameras))),
      pixel_size=1.0,
      fps=frames.fps,
  )


def _read_pose(values, where) -> np.ndarray:
  """[3, 4] cam_to_world from 16 numbers in OpenGL's axes, row by row."""
  try:
    pose = np.asarray(values, np.float64).reshape(4, 4)
  except (TypeError, ValueError):
    raise errors.InputError(
        f'{where}: camera_to_world: got {str(values)[:60]}, expected 16 numbers'
    ) from None
  rotation = pose[:3, :3]
  if not np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-3) or (
      np.linalg.det(rotation) < 0
  ):
    raise errors.InputError(
        f'{where}: camera_to_world: got {rotation.round(3).tolist()}, expected'
        ' a rotation in its upper left'
    )
  # OpenGL: y up, z back.
  return pose[:3] * np.array([1.0, -1.0, -1.0, 1.0])


def read_camera_path(
    path, *, width: int = 0, height: int = 0, fps: float = 0.0
) -> CameraPath:
  """Reads nerfstudio's camera_path.json; its world is taken to be the scene's.

  Args:
    path: file.
    width: pixels; 0 is what the file says.
    height: pixels; 0 is what the file says.
    fps: frames a second; 0 is what the file says.

  Returns:
    CameraPath.

  Raises:
    InputError: not such a file.
  """
  path = pathlib.Path(path)
  data = json_files.read_json(path)
  frames = data.get('camera_path') if isinstance(data, dict) else None
  if not isinstance(frames, list) or not frames:
    raise errors.InputError(
        f'{path}: camera_path: got {str(frames)[:40]}, expected a list of views'
    )
  kind = data.get('camera_type', 'perspective')
  if kind != 'perspective':
    raise errors.InputError(
        f'{path}: camera_type: got {kind!r}, expected perspective'
    )
  try:
    full = int(data['render_width']), int(data['render_height'])
  except (KeyError, TypeError, ValueError):
    raise errors.InputError(
        f'{path}: render_width, render_height: expected whole numbers'
    ) from None
  if width or height:
    full = (
        width or round(height * full[0] / full[1]),
        height or round(width * full[1] / full[0]),
    )
  cameras = []
  for i, frame in enumerate(frames):
    where = f'{path}: camera_path[{i}]'
    fov = frame.get('fov') if isinstance(frame, dict) else None
    if not isinstance(fov, int | float) or not 0 < fov < 180:
      raise errors.InputError(
          f'{where}: fov: got {fov}, expected vertical degrees, 0 to 180'
      )
    cameras.append(
        cameras_lib.make_camera(
            focal=0.5 * full[1] / math.tan(math.radians(fov) / 2),
            width=full[0],
            height=full[1],
            cam_to_world=_read_pose(frame.get('camera_to_world'), where),
        )
    )
  names = tuple(f'{i:05d}' for i in range(len(cameras)))
  fps = fps or float(data.get('fps') or 24.0)
  return CameraPath(cameras_lib.stack(cameras), names, 1.0, fps)
