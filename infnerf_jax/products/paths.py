"""Camera paths: around a scene, from far above to close up, or from a file."""

import math
import pathlib
from typing import NamedTuple

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.products import surroundings

# The root's share of the first picture's width when a zoom begins.
_FIRST_SHARE = 0.25
_LAST_TILT = math.radians(35.0)
_TURNS = 1.5
_MAX_WIDTH = 640  # pixels, unless asked for
# Pixels of the photos in one of the finest that training saw (its footprints
# vary by half an octave).
_FINEST = math.sqrt(2.0)
# A spiral's first view is this much farther away than the photos were.
_SPIRAL_START = 1.3


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


def _size(
    view: surroundings.Surround, width, height, pixel_size
) -> tuple[int, int]:
  """Even width and height, as videos want them; 0 derives from the photos."""
  if not width and height:
    width = round(height * view.aspect)
  elif not width:
    # Pixels finer than half an octave below the photos' show what nothing
    # was trained for.
    width = min(_MAX_WIDTH, round(_FINEST * view.width / pixel_size))
  if not height:
    height = round(width / view.aspect)
  even = lambda n: max(2, int(n) // 2 * 2)
  return even(width), even(height)


def _film(poses, view, size, fps) -> CameraPath:
  """Pinhole cameras of one size at the poses."""
  width, height = size
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
      fps=fps,
  )


def photo_path(
    cameras: cameras_lib.Cameras, names, rows, *, pixel_size: float, fps=2.0
) -> CameraPath:
  """The views of some photos themselves.

  Args:
    cameras: table [P].
    names: P names.
    rows: of the photos wanted.
    pixel_size: width of a picture's pixel in full-size pixels.
    fps: frames a second.

  Returns:
    CameraPath.
  """
  rows = np.asarray(rows, np.int64)
  return CameraPath(
      cameras_lib.take(cameras, rows),
      tuple(names[row] for row in rows),
      float(pixel_size),
      fps,
  )


def _circle_size(
    view: surroundings.Surround, poses, heights, flat
) -> tuple[float, float]:
  """(radius, height) of a circle from which the scene looks as in photos."""
  height = float(np.median(heights))
  # Straight above the target a circle has no radius to turn at.
  radius = max(float(np.median(flat)), 0.3 * abs(height))
  down = float(np.median(-poses[:, :, 2] @ view.up))
  if down > 0.7 and height > 0:
    # Photos that look down have not seen what a flat view would show.
    slant = math.tan(math.acos(min(down, 1.0)))
    radius = min(radius, height * max(slant, 0.6))
  return radius, height


def spiral_path(
    cameras: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    *,
    num_frames: int = 120,
    width: int = 0,
    height: int = 0,
    fps: float = 24.0,
    pixel_size: float = 1.0,
) -> CameraPath:
  """A spiral around the scene that stays where photos were taken.

  Cameras all around (or above) make a circle about the scene's middle that
  closes in to the photos' distance; cameras on one side only make loops about
  their mean, since nothing is known behind.

  Args:
    cameras: table [P] of the photos.
    octree: tree.
    num_frames: views.
    width: pixels, 0 derives it.
    height: pixels, 0 derives it.
    fps: frames a second.
    pixel_size: width of a training pixel in the photos' pixels.

  Returns:
    CameraPath.
  """
  poses = np.asarray(cameras.cam_to_world, np.float64)
  near = surroundings.surround(cameras, octree)
  view = surroundings.about_middle(near, octree)
  heights = view.offsets @ view.up
  flat = view.offsets - heights[:, None] * view.up
  distances = np.linalg.norm(flat, axis=-1)
  radius, altitude = _circle_size(view, poses, heights, distances)
  share = np.linspace(0.0, 1.0, num_frames)
  turn = 2 * np.pi * _TURNS * share
  circle = (
      lambda a: np.cos(a)[:, None] * view.east + np.sin(a)[:, None] * view.north
  )
  reach = max(float(np.median(distances)), 0.3 * abs(altitude), 1e-9)
  if np.linalg.norm(flat.mean(axis=0)) > 0.6 * reach:  # all on one side
    view = near
    mean = view.offsets.mean(axis=0)
    spread = np.percentile(np.abs(view.offsets - mean), 60, axis=0)
    forward = surroundings.unit(-mean)
    right = surroundings.unit(np.cross(forward, view.up))
    wave = np.sin(turn)[:, None] * right * np.abs(spread @ np.abs(right))
    rise = 0.5 * np.sin(2 * turn)[:, None] * view.up
    offsets = mean + wave + rise * (spread @ np.abs(view.up))
  else:
    closer = (_SPIRAL_START + (1 - _SPIRAL_START) * share)[:, None]
    offsets = closer * (radius * circle(turn) + altitude * view.up)
  poses = [
      cameras_lib.look_at(view.target + offset, view.target, view.up)
      for offset in offsets
  ]
  size = _size(view, width, height, pixel_size)
  return _film(poses, view, size, fps)


def _closest_view(view: surroundings.Surround, focal, pixel_size) -> float:
  """Metres at which a film's pixels are as fine as the closest photos'."""
  photo_focal = 0.5 * view.width / math.tan(0.5 * view.fov)
  nearest = np.percentile(np.linalg.norm(view.offsets, axis=-1), 10)
  return float(nearest * focal * pixel_size / photo_focal / _FINEST)


def zoom_path(
    cameras: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    *,
    num_frames: int = 120,
    width: int = 0,
    height: int = 0,
    fps: float = 24.0,
    pixel_size: float = 1.0,
) -> CameraPath:
  """From far above to close up, by the same factor every frame.

  It begins where the root fills a quarter of the picture and ends where a
  pixel's footprint is the finest node's gsd or the finest of the photos', or a
  node's side away.

  Args:
    cameras: table [P] of the photos.
    octree: tree.
    num_frames: views.
    width: pixels, 0 derives it.
    height: pixels, 0 derives it.
    fps: frames a second.
    pixel_size: width of a training pixel in the photos' pixels.

  Returns:
    CameraPath.
  """
  view = surroundings.surround(cameras, octree)
  width, height = _size(view, width, height, pixel_size)
  focal = 0.5 * width / math.tan(0.5 * view.fov)
  level = int(octree.level.max())
  first = octree.side * focal / (_FIRST_SHARE * width)
  last = max(
      float(octree.node_gsd(level)) * focal * math.sqrt(math.pi),
      octree.side / 2.0**level,
      _closest_view(view, focal, pixel_size),
  )
  last = min(last, 0.5 * first)
  share = np.linspace(0.0, 1.0, num_frames)
  distance = first * (last / first) ** share
  tilt = _LAST_TILT * share**2
  poses = []
  for far, angle in zip(distance, tilt, strict=True):
    away = math.cos(angle) * view.up - math.sin(angle) * view.north
    poses.append(
        # North appears upwards, straight above the target too.
        cameras_lib.look_at(view.target + far * away, view.target, view.north)
    )
  return _film(poses, view, (width, height), fps)


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


def make_path(
    kind: str, loaded, *, num_frames=120, width=0, height=0, fps=0.0
) -> CameraPath:
  """A path by its name.

  Args:
    kind: `test`, `spiral`, `zoom`, or a camera_path.json.
    loaded: a LoadedScene.
    num_frames: views of spiral and zoom.
    width: pixels; 0 derives it.
    height: pixels; 0 derives it.
    fps: frames a second; 0 is the kind's default.

  Returns:
    CameraPath.

  Raises:
    InputError: no test photos, or not such a file.
  """
  if kind == 'test':
    rows = loaded.split['test']
    if not len(rows):
      raise errors.InputError(
          f'{loaded.workdir}/split.json: test: got no photos, expected some'
      )
    widest = int(np.max(loaded.cameras.width[rows]))
    tallest = int(np.max(loaded.cameras.height[rows]))
    size = loaded.downscale
    if width or height:
      size = max(widest / (width or widest), tallest / (height or tallest))
    return photo_path(
        loaded.cameras, loaded.photo_names, rows,
        pixel_size=size, fps=fps or 2.0,
    )  # fmt: skip
  if kind.endswith('.json'):
    return read_camera_path(kind, width=width, height=height, fps=fps)
  make = {'spiral': spiral_path, 'zoom': zoom_path}[kind]
  return make(
      loaded.cameras, loaded.octree, num_frames=num_frames,
      width=width, height=height, fps=fps or 24.0,
      pixel_size=loaded.downscale,
  )  # fmt: skip
