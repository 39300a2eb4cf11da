"""A scene: photos with cameras, sparse points and who sees them.

World units are metres, axes east, north, up where the source says so, after
subtracting the float64 offset in `frame`.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib


class Photos(NamedTuple):
  """Files of a scene's photos, one row a photo, in order of name.

  Attributes:
    names: names as the source lists them (`a.jpg`, `flight1/a.jpg`).
    paths: files.
    mask_paths: mask files or None; a mask's zero pixels are left out of loss
      and score.
  """

  names: tuple[str, ...]
  paths: tuple[pathlib.Path, ...]
  mask_paths: tuple[pathlib.Path | None, ...]


class Points(NamedTuple):
  """Sparse points of structure from motion.

  Attributes:
    positions: [P, 3] float64, metres, world.
    colors: [P, 3] uint8.
  """

  positions: np.ndarray
  colors: np.ndarray


class Visibility(NamedTuple):
  """Which photos see each point: compressed rows.

  Attributes:
    offsets: [P + 1] int64; the photos of point p are
      `photo_idx[offsets[p]:offsets[p + 1]]`.
    photo_idx: [K] int32, rows of `Photos`.
  """

  offsets: np.ndarray
  photo_idx: np.ndarray


class Scene(NamedTuple):
  """Everything that training needs to know of a capture but the pixels.

  Attributes:
    photos: N files in order of name; each exists.
    cameras: table [N].
    points: sparse points, or None.
    visibility: photos of each point, or None where the source has none.
    frame: what `scene.json` says: `coordinate_system`, `offset`, `rotation`.
    report: counts and lists for `scene_report.json`: `format`,
      `photos_listed`, `photos_absent` and the like.
  """

  photos: Photos
  cameras: cameras_lib.Cameras
  points: Points | None
  visibility: Visibility | None
  frame: dict[str, Any]
  report: dict[str, Any]


def select_photos(scene: Scene, keep) -> Scene:
  """The scene with only some of its photos.

  Args:
    scene: N photos.
    keep: [M] increasing rows.

  Returns:
    Scene of M photos; visibility is renumbered and loses the other photos.
  """
  keep = np.asarray(keep, np.int64)
  photos = Photos(*(tuple(field[i] for i in keep) for field in scene.photos))
  visibility = scene.visibility
  if visibility is not None:
    new_row = np.full(len(scene.photos.names), -1, np.int32)
    new_row[keep] = np.arange(len(keep), dtype=np.int32)
    rows = new_row[visibility.photo_idx]
    kept = np.concatenate([[0], np.cumsum(rows >= 0)])
    visibility = Visibility(
        offsets=kept[visibility.offsets].astype(np.int64),
        photo_idx=rows[rows >= 0],
    )
  return scene._replace(
      photos=photos,
      cameras=cameras_lib.take(scene.cameras, keep),
      visibility=visibility,
  )
