"""A boundary around what is trained: points and pixels outside do not count.

Pixels are told by where their rays meet the ground, a level plane at the
median height of the points inside.
"""

import hashlib
import json
import pathlib

import numpy as np
import PIL.Image

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_boundary, map_frame
from infnerf_jax.scene import decode
from infnerf_jax.scene import scene as scene_lib

_RASTER = 2048  # pixels along the longer side of the boundary's raster
_MASK = 512  # pixels along the longer side of a mask
_STAMP = 'stamp.json'


class _Area:
  """A boundary as a raster; places are looked up."""

  def __init__(self, scene: scene_lib.Scene, path):
    self.frame = map_frame.frame_of_scene(scene.frame)
    boundary = map_boundary.read_boundary(path, self.frame)
    west, south, east, north = boundary.bounds
    self._gsd = max(east - west, north - south) / _RASTER
    shape = [
        max(1, int(np.ceil(side / self._gsd)))
        for side in (north - south, east - west)
    ]
    self._corner = west, north
    self._raster = boundary.inside(west, north, self._gsd, shape)
    self.words = json.dumps(boundary.shapes)

  def holds(self, points) -> np.ndarray:
    """[...] bool, which points [..., 3] of the scene lie inside."""
    east, north, _ = np.moveaxis(self.frame.from_scene(points), -1, 0)
    column = (east - self._corner[0]) / self._gsd
    row = (self._corner[1] - north) / self._gsd
    rows, columns = self._raster.shape
    known = np.isfinite(column) & np.isfinite(row)
    column, row = (np.where(known, v, -1.0) for v in (column, row))
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    at = lambda value, most: np.clip(value, 0, most - 1).astype(np.int64)
    return inside & self._raster[at(row, rows), at(column, columns)]


def crop_points(scene: scene_lib.Scene, path) -> scene_lib.Scene:
  """The scene without the sparse points outside a boundary.

  Args:
    scene: with points.
    path: GeoJSON, see `map_boundary.read_boundary`.

  Returns:
    Scene; its report says how many points are left.

  Raises:
    InputError: no points, or none of them inside.
  """
  if scene.points is None:
    raise errors.InputError(
        f'{path}: got a boundary for a scene without points, expected points'
    )
  positions = scene.points.positions
  keep = _Area(scene, path).holds(positions)
  if not keep.any():
    low, high = positions.min(axis=0), positions.max(axis=0)
    frame = map_frame.frame_of_scene(scene.frame)
    corners = frame.from_scene(np.stack([low, high]))[:, :2].round(1).tolist()
    raise errors.InputError(
        f'{path}: got a boundary that holds none of {len(keep)} points,'
        f' expected some of the scene between {corners[0]} and {corners[1]}'
    )
  points = scene_lib.Points(positions[keep], scene.points.colors[keep])
  visibility = scene.visibility
  if visibility is not None:
    counts = np.diff(visibility.offsets)
    visibility = scene_lib.Visibility(
        offsets=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
        photo_idx=visibility.photo_idx[np.repeat(keep, counts)],
    )
  report = {
      **scene.report,
      'boundary': str(path),
      'num_points_in_boundary': int(keep.sum()),
  }
  return scene._replace(points=points, visibility=visibility, report=report)


def mask_photos(scene: scene_lib.Scene, path, folder) -> scene_lib.Scene:
  """The scene with masks that leave out what lies outside a boundary.

  Args:
    scene: see `crop_points`.
    path: GeoJSON.
    folder: for the masks; those of the same boundary and cameras stay, so
      that a run that resumes finds them unchanged.

  Returns:
    Scene whose masks are those of before and the boundary's together.
  """
  area, folder = _Area(scene, path), pathlib.Path(folder)
  ground = float(np.median(scene.points.positions[:, 2]))
  digest = hashlib.sha256(area.words.encode())
  for array in (*scene.cameras, ground):
    digest.update(np.ascontiguousarray(array).tobytes())
  digest.update(repr([str(p) for p in scene.photos.mask_paths]).encode())
  stamp = {'stamp': digest.hexdigest()[:16]}
  paths = tuple(folder / f'{r:06d}.png' for r in range(len(scene.photos.names)))
  if not _is_made(folder, stamp, paths):
    folder.mkdir(parents=True, exist_ok=True)
    for row, mask_path in enumerate(paths):
      camera = cameras_lib.take(scene.cameras, row)
      inside = _pixels_inside(area, camera, ground)
      inside = _with_own_mask(inside, scene.photos.mask_paths[row], camera)
      PIL.Image.fromarray(inside.astype(np.uint8) * 255).save(mask_path)
    json_files.write_json_atomic(folder / _STAMP, stamp)
  return scene._replace(photos=scene.photos._replace(mask_paths=paths))


def _is_made(folder, stamp, paths) -> bool:
  if not (folder / _STAMP).is_file():
    return False
  same = json_files.read_json(folder / _STAMP) == stamp
  return same and all(path.is_file() for path in paths)


def _pixels_inside(area: _Area, camera, ground: float) -> np.ndarray:
  """[h, w] bool of a photo made small, which pixels see the inside."""
  width, height = int(camera.width), int(camera.height)
  # By a whole number where it can be, of the photo's own aspect.
  shrink = max(1, round(max(width, height) / _MASK))
  columns, rows = max(1, width // shrink), max(1, height // shrink)
  x, y = np.meshgrid(
      (np.arange(columns) + 0.5) * width / columns,
      (np.arange(rows) + 0.5) * height / rows,
  )
  pix = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
  spread = lambda field: np.broadcast_to(
      np.asarray(field, np.float32), (len(pix), *np.shape(field))
  )
  local, _ = cameras_lib.pixels_to_directions(
      pix,
      np.broadcast_to(np.int32(camera.projection), (len(pix),)),
      spread(camera.intrinsics),
      spread(camera.distortion),
  )
  pose = np.asarray(camera.cam_to_world, np.float64)
  directions = np.asarray(local, np.float64) @ pose[:, :3].T
  down = np.minimum(directions[:, 2], -1e-9)
  distance = (ground - pose[2, 3]) / down
  places = pose[:, 3] + distance[:, None] * directions
  meets = (directions[:, 2] < -1e-6) & (distance > 0)
  return (meets & area.holds(places)).reshape(rows, columns)


def _with_own_mask(inside, own, camera) -> np.ndarray:
  """A mask and the photo's own, at full size where it has one.

  One that cannot be read leaves nothing: the photo counts for nothing.
  """
  if own is None:
    return inside
  height, width = int(camera.height), int(camera.width)
  try:
    mask = decode.read_mask(pathlib.Path(own), (height, width))
  except decode.DamagedPhoto:
    return np.zeros_like(inside)
  rows = np.arange(height) * inside.shape[0] // height
  columns = np.arange(width) * inside.shape[1] // width
  return mask & inside[rows[:, None], columns]
