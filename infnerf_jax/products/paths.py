"""Camera paths: around a scene, from far above to close up, or from a file."""

import math
import pathlib
from typing import NamedTuple

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib

# The root's share of the first picture's width when a zoom begins.
_FIRST_SHARE = 0.25
_LAST_TILT = math.radians(35.0)
_TURNS = 1.5
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


class Surround(NamedTuple):
  """What the photos' cameras tell of a scene's surroundings.

  Attributes:
    target: [3] metres, where to look.
    up: [3] unit.
    east: [3] unit, across `up`.
    north: [3] unit, across both.
    offsets: [P, 3] metres, cameras from the target.
    fov: radians, the photos' median horizontal field of view.
    aspect: width / height of the median photo.
  """

  target: np.ndarray
  up: np.ndarray
  east: np.ndarray
  north: np.ndarray
  offsets: np.ndarray
  fov: float
  aspect: float


def _unit(vector):
  return vector / np.linalg.norm(vector)


def _up_axis(poses) -> np.ndarray:
  """[3] unit: where up is, from cameras that are held level or look down."""
  forward = poses[:, :, 2].mean(axis=0)
  standing = -poses[:, :, 1].mean(axis=0)
  # Nadir photos turn about their axis, so their own ups cancel out.
  if np.linalg.norm(forward) > 0.8 and np.linalg.norm(standing) < 0.8:
    guess = -_unit(forward)
  elif np.linalg.norm(standing) > 0.1:
    guess = _unit(standing)
  else:
    guess = np.array([0.0, 0.0, 1.0])
  # Without roll all right axes lie in the horizontal.
  right = poses[:, :, 0]
  share, axes = np.linalg.eigh(right.T @ right / len(right))
  if share[1] > 0.02:
    up = axes[:, 0] * np.sign(axes[:, 0] @ guess)
  else:  # one heading: the guess, made level
    up = _unit(guess - axes[:, 2] * (axes[:, 2] @ guess))
  # A world that stands nearly upright stands upright.
  return np.array([0.0, 0.0, 1.0]) if up[2] > 0.9 else up


def surround(cameras: cameras_lib.Cameras, octree: tree_lib.Octree) -> Surround:
  """Where to look and how to turn, from photos and octree.

  The target is the finest node nearest to the root's centre: it holds points,
  so a surface is there.

  Args:
    cameras: table [P] of the photos.
    octree: tree.

  Returns:
    Surround.
  """
  poses = np.asarray(cameras.cam_to_world, np.float64)
  finest = np.flatnonzero(octree.level == octree.level.max())
  centers = tree_lib.node_aabb(octree, finest).mean(axis=-2)
  nearest = np.argmin(np.linalg.norm(centers - octree.center, axis=-1))
  target = centers[nearest]
  up = _up_axis(poses)
  axis = np.array([1.0, 0, 0]) if abs(up[0]) < 0.9 else np.array([0, 1.0, 0])
  east = _unit(axis - up * (axis @ up))
  fov = 2 * np.arctan(0.5 * cameras.width / cameras.intrinsics[:, 0])
  perspective = np.asarray(cameras.projection) == cameras_lib.PERSPECTIVE
  fov = np.median(fov[perspective]) if perspective.any() else math.radians(60)
  return Surround(
      target=target,
      up=up,
      east=east,
      north=np.cross(up, east),
      offsets=poses[:, :, 3] - target,
      fov=float(np.clip(fov, math.radians(20), math.radians(100))),
      aspect=float(np.median(cameras.width / cameras.height)),
  )


def _size(view: Surround, width, height) -> tuple[int, int]:
  """Even width and height, as videos want them; 0 derives from the photos."""
  if not width:
    width = round(height * view.aspect) if height else 640
  if not height:
    height = round(width / view.aspect)
  even = lambda n: max(2, int(n) // 2 * 2)
  return even(width), even(height)


def _film(poses, view, width, height, fps) -> CameraPath:
  """Pinhole cameras of one size at the poses."""
  width, height = _size(view, width, height)
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


def _about_middle(view: Surround, octree: tree_lib.Octree) -> Surround:
  """The same about the middle of the scene, at the target's height."""
  shift = octree.center - view.target
  shift = shift - view.up * (view.up @ shift)
  return view._replace(target=view.target + shift, offsets=view.offsets - shift)


def _circle_size(view: Surround, poses, heights, flat) -> tuple[float, float]:
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

  Returns:
    CameraPath.
  """
  poses = np.asarray(cameras.cam_to_world, np.float64)
  near = surround(cameras, octree)
  view = _about_middle(near, octree)
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
    forward = _unit(-mean)
    right = _unit(np.cross(forward, view.up))
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
  return _film(poses, view, width, height, fps)


def zoom_path(
    cameras: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    *,
    num_frames: int = 120,
    width: int = 0,
    height: int = 0,
    fps: float = 24.0,
) -> CameraPath:
  """From far above to close up, by the same factor every frame.

  It begins where the root fills a quarter of the picture and ends where a
  pixel's footprint is the finest node's gsd, or a node's side away.

  Args:
    cameras: table [P] of the photos.
    octree: tree.
    num_frames: views.
    width: pixels, 0 derives it.
    height: pixels, 0 derives it.
    fps: frames a second.

  Returns:
    CameraPath.
  """
  view = surround(cameras, octree)
  width, height = _size(view, width, height)
  focal = 0.5 * width / math.tan(0.5 * view.fov)
  level = int(octree.level.max())
  first = octree.side * focal / (_FIRST_SHARE * width)
  last = max(
      float(octree.node_gsd(level)) * focal * math.sqrt(math.pi),
      octree.side / 2.0**level,
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
  return _film(poses, view, width, height, fps)


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
  )  # fmt: skip
