"""What importers have in common: photos by label, drafts, frames on Earth."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import pyproj

from infnerf_jax import errors
from infnerf_jax.scene import (
    camera_models,
    photo_files,
    ply,
    scene,
    validate,
)

_GEOCENTRIC, _GEODETIC = 'EPSG:4978', 'EPSG:4979'
# Distances of places on Earth from its centre, metres.
_EARTH = (6.2e6, 6.5e6)
POINTS = 'sparse_points.ply'


class View(NamedTuple):
  """One camera of another program's export.

  Attributes:
    name: of the photo.
    path: its file, which may be absent.
    lens: camera_models.Lens.
    size: (width, height) that the lens refers to.
    pose: [3, 4] or [4, 4] camera to world, y down, z forward.
  """

  name: str
  path: pathlib.Path
  lens: camera_models.Lens
  size: tuple[int, int]
  pose: np.ndarray


def draft(
    kind: str,
    source: pathlib.Path,
    views: list[View],
    *,
    pose_field: str,
    points: scene.Points | None = None,
    visibility: scene.Visibility | None = None,
    frame: dict[str, Any] | None = None,
    report: dict[str, Any] | None = None,
) -> validate.Draft:
  """A draft of views; masks are `masks/NAME.png` beside the source.

  Args:
    kind: name of the format.
    source: file that lists the photos.
    views: all of them.
    pose_field: name of the pose in that file.
    points: sparse points or None.
    visibility: rows of `views` per point, or None.
    frame: see `scene.Scene`, None is a default.
    report: what the importer has to say.

  Returns:
    validate.Draft.

  Raises:
    InputError: no views.
  """
  if not views:
    raise errors.InputError(
        f'{source}: cameras: got none with a pose, expected at least 2'
    )
  names = [view.name for view in views]
  paths = [view.path for view in views]
  masks = [_mask(source.parent, name) for name in names]
  found = photo_files.find(names, paths)
  kept = [views[row] for row in found.rows]
  return validate.Draft(
      format=kind,
      source=source,
      pose_field=pose_field,
      names=names,
      paths=paths,
      mask_paths=masks,
      found=found,
      lenses=[view.lens for view in kept],
      camera_sizes=[view.size for view in kept],
      poses=[view.pose for view in kept],
      points=points,
      visibility=visibility,
      frame=frame or validate.default_frame(),
      report=report or {},
  )


def _mask(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """COLMAP's way to name masks."""
  path = photo_files.inside(folder / 'masks', f'{name}.png', where=name)
  return path if path.is_file() else None


def photo_path(folder: pathlib.Path, label: str, *, where: str, within=''):
  """The photo of a label that may lack its folder and its extension.

  Args:
    folder: of the export.
    label: as the export has it.
    where: start of the error's line.
    within: a sub-folder's name that may hold it (a group of photos).

  Returns:
    (name relative to the photos' folder, path); `images/LABEL` where no such
    photo exists.

  Raises:
    InputError: the label leads out of the folder.
  """
  bases = [folder / 'images', folder]
  labels = [label] + ([f'{within}/{label}'] if within else [])
  for base in bases:
    for text in labels:
      path = photo_files.inside(base, text, where=where)
      path = photo_files.with_extension(path)
      if path.is_file():
        return path.relative_to(base).as_posix(), path
  return label, folder / 'images' / label


def points_beside(folder: pathlib.Path):
  """(points or None, report) of `sparse_points.ply` in a folder."""
  path = folder / POINTS
  if not path.is_file():
    return None, {}
  points, kept = ply.read(path)
  return points, {'num_points_dropped': int((~kept).sum())}


def is_geocentric(centres) -> bool:
  """Whether [N, 3] positions are metres from the Earth's centre."""
  distance = np.linalg.norm(np.median(centres, axis=0))
  return bool(_EARTH[0] < distance < _EARTH[1])


def frame_on_earth(origin) -> dict[str, Any]:
  """A frame of metres east, north, up about a place on Earth.

  Args:
    origin: [3] geocentric metres (EPSG:4978).

  Returns:
    `coordinate_system`, `offset`, `rotation`: scene = rotation (geocentric -
    offset).
  """
  to_degrees = pyproj.Transformer.from_crs(
      _GEOCENTRIC, _GEODETIC, always_xy=True
  )
  longitude, latitude, _ = np.deg2rad(to_degrees.transform(*origin))
  sin_a, cos_a = np.sin(longitude), np.cos(longitude)
  sin_b, cos_b = np.sin(latitude), np.cos(latitude)
  rotation = [
      [-sin_a, cos_a, 0.0],
      [-sin_b * cos_a, -sin_b * sin_a, cos_b],
      [cos_b * cos_a, cos_b * sin_a, sin_b],
  ]
  return {
      'coordinate_system': _GEOCENTRIC,
      'offset': [float(x) for x in origin],
      'rotation': rotation,
      'vertical_datum': 'ellipsoid WGS 84',
  }


def geocentric(latitude: float, longitude: float, height: float) -> np.ndarray:
  """[3] float64 metres (EPSG:4978) of degrees and metres (EPSG:4979)."""
  to_metres = pyproj.Transformer.from_crs(
      _GEODETIC, _GEOCENTRIC, always_xy=True
  )
  return np.array(to_metres.transform(longitude, latitude, height))


def into_frame(poses, frame: dict[str, Any]) -> list[np.ndarray]:
  """[3, 4] poses of a source in the metres of a frame."""
  rotation = np.asarray(frame['rotation'], np.float64)
  offset = np.asarray(frame['offset'], np.float64)
  return [
      np.concatenate(
          [
              rotation @ pose[:3, :3],
              (rotation @ (pose[:3, 3] - offset))[:, None],
          ],
          axis=1,
      )
      for pose in poses
  ]
