"""Camera paths: around a scene, from far above to close up, or from a file."""

import math

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.products import camera_path, flyover, surroundings

KINDS = ('test', 'spiral', 'zoom', 'flyover')
# The root's share of the first picture's width when a zoom begins.
_FIRST_SHARE = 0.25
_LAST_TILT = math.radians(35.0)
_TURNS = 1.5
# A spiral's first view is this much farther away than the photos were.
_SPIRAL_START = 1.3


def photo_path(
    cameras: cameras_lib.Cameras, names, rows, *, pixel_size: float, fps=2.0
) -> camera_path.CameraPath:
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
  return camera_path.CameraPath(
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
    frames: camera_path.Frames = camera_path.Frames(),
) -> camera_path.CameraPath:
  """A spiral around the scene that stays where photos were taken.

  Cameras all around (or above) make a circle about the scene's middle that
  closes in to the photos' distance; cameras on one side only make loops about
  their mean, since nothing is known behind.

  Args:
    cameras: table [P] of the photos.
    octree: tree.
    frames: of the film.

  Returns:
    CameraPath.
  """
  poses = np.asarray(cameras.cam_to_world, np.float64)
  near = surroundings.surround(cameras, octree)
  view = surroundings.about_middle(near)
  heights = view.offsets @ view.up
  flat = view.offsets - heights[:, None] * view.up
  distances = np.linalg.norm(flat, axis=-1)
  radius, altitude = _circle_size(view, poses, heights, distances)
  share = np.linspace(0.0, 1.0, frames.num)
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
  return camera_path.pinhole_path(poses, view, frames)


def _closest_view(view: surroundings.Surround, focal, pixel_size) -> float:
  """Metres at which a film's pixels are as fine as the closest photos'."""
  photo_focal = 0.5 * view.width / math.tan(0.5 * view.fov)
  nearest = np.percentile(np.linalg.norm(view.offsets, axis=-1), 10)
  return float(nearest * focal * pixel_size / photo_focal / camera_path.FINEST)


def zoom_path(
    cameras: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    frames: camera_path.Frames = camera_path.Frames(),
) -> camera_path.CameraPath:
  """From far above to close up, by the same factor every frame.

  It begins where the root fills a quarter of the picture and ends where a
  pixel's footprint is the finest node's gsd or the finest of the photos', or a
  node's side away.

  Args:
    cameras: table [P] of the photos.
    octree: tree.
    frames: of the film.

  Returns:
    CameraPath.
  """
  view = surroundings.surround(cameras, octree)
  width, _ = camera_path.size_of_views(view, frames)
  focal = 0.5 * width / math.tan(0.5 * view.fov)
  level = int(octree.level.max())
  first = octree.side * focal / (_FIRST_SHARE * width)
  last = max(
      float(octree.node_gsd(level)) * focal * math.sqrt(math.pi),
      octree.side / 2.0**level,
      _closest_view(view, focal, frames.pixel_size),
  )
  last = min(last, 0.5 * first)
  share = np.linspace(0.0, 1.0, frames.num)
  distance = first * (last / first) ** share
  tilt = _LAST_TILT * share**2
  poses = []
  for far, angle in zip(distance, tilt, strict=True):
    away = math.cos(angle) * view.up - math.sin(angle) * view.north
    poses.append(
        # North appears upwards, straight above the target too.
        cameras_lib.look_at(view.target + far * away, view.target, view.north)
    )
  return camera_path.pinhole_path(poses, view, frames)


def make_path(
    kind: str, loaded, *, num_frames=120, width=0, height=0, fps=0.0
) -> camera_path.CameraPath:
  """A path by its name.

  Args:
    kind: `test`, `spiral`, `zoom`, `flyover`, or a camera_path.json.
    loaded: a LoadedScene.
    num_frames: views of spiral, zoom and flyover.
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
    return camera_path.read_camera_path(
        kind, width=width, height=height, fps=fps
    )
  make = {
      'spiral': spiral_path,
      'zoom': zoom_path,
      'flyover': flyover.flyover_path,
  }
  frames = camera_path.Frames(
      num_frames, width, height, fps or 24.0, loaded.downscale
  )
  return make[kind](loaded.cameras, loaded.octree, frames)
