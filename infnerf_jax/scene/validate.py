"""From what a reader found to a checked `Scene`.

Every reader ends here, so that all formats obey the same rules: what would
make a run wrong raises `InputError`, what one photo among thousands should
not stop is left out and named in the report.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_models, photo_files, scene

# Poses printed with four decimals still pass; scaled or sheared ones do not.
_ORTHONORMAL_TOLERANCE = 1e-3
_ASPECT_TOLERANCE = 0.01
# float32 resolves a millimetre up to here; projected and geocentric
# coordinates lie beyond.
_MAX_CENTRE = 1e4


class Draft(NamedTuple):
  """What a reader hands over; L photos listed, M of them found.

  Attributes:
    format: 'infnerf', 'colmap' or 'transforms'.
    source: file that lists the photos, for messages.
    pose_field: name of the pose in that file, for messages.
    names: L names.
    paths: L files.
    mask_paths: L files or None.
    found: which of them are there, see `photo_files.Found`.
    lenses: M lenses.
    camera_sizes: M (width, height) that the lenses refer to.
    poses: M arrays [3, 4] or [4, 4], camera to world.
    points: sparse points or None.
    visibility: rows of the L listed photos per point, or None.
    frame: see `scene.Scene`.
    report: what the reader has to say.
  """

  format: str
  source: pathlib.Path
  pose_field: str
  names: list[str]
  paths: list[pathlib.Path]
  mask_paths: list[pathlib.Path | None]
  found: photo_files.Found
  lenses: list[camera_models.Lens]
  camera_sizes: list[tuple[int, int]]
  poses: list[np.ndarray]
  points: scene.Points | None
  visibility: scene.Visibility | None
  frame: dict[str, Any]
  report: dict[str, Any]


def default_frame() -> dict[str, Any]:
  """A frame without shift or rotation: `scene = rotation (source - offset)`."""
  return {
      'coordinate_system': 'unknown',
      'offset': [0.0, 0.0, 0.0],
      'rotation': np.eye(3).tolist(),
  }


def matrix(value, shapes, *, where: str) -> np.ndarray:
  """A float64 matrix of one of the given shapes.

  Args:
    value: nested lists from a file.
    shapes: allowed shapes, for example [(3, 4), (4, 4)].
    where: start of the error's line.

  Returns:
    ndarray.

  Raises:
    InputError: other shapes or kinds.
  """
  wanted = ' or '.join('x'.join(map(str, shape)) for shape in shapes)
  try:
    array = np.asarray(value, np.float64)
  except (TypeError, ValueError):
    raise errors.InputError(
        f'{where}: got {str(value)[:60]!r}, expected {wanted} numbers'
    ) from None
  if array.shape not in shapes:
    got = 'x'.join(map(str, array.shape)) or f'{value!r}'
    raise errors.InputError(f'{where}: got {got}, expected {wanted} numbers')
  return array


def number(value, *, where: str, expected: str = 'a number') -> float:
  """A finite float from a file, or InputError."""
  valid = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not valid or not np.isfinite(value):
    raise errors.InputError(f'{where}: got {value!r}, expected {expected}')
  return float(value)


def size(value, *, where: str) -> int:
  """A positive whole number of pixels from a file, or InputError."""
  expected = 'a positive whole number of pixels'
  pixels = number(value, where=where, expected=expected)
  if pixels <= 0 or pixels != round(pixels) or pixels > 2**24:
    raise errors.InputError(f'{where}: got {value!r}, expected {expected}')
  return int(pixels)


def check_pose(pose, *, where: str) -> np.ndarray:
  """[3, 4] pose whose rotation is exactly orthonormal, or InputError.

  Args:
    pose: [3, 4] or [4, 4], either direction.
    where: start of the error's line.

  Returns:
    [3, 4] float64.
  """
  if not np.isfinite(pose).all():
    found = pose[~np.isfinite(pose)][0]
    raise errors.InputError(f'{where}: got {found}, expected finite numbers')
  if pose.shape[0] == 4 and not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
    raise errors.InputError(
        f'{where}: got last row {pose[3].tolist()}, expected [0, 0, 0, 1]'
    )
  rotation = pose[:3, :3]
  error = np.abs(rotation.T @ rotation - np.eye(3)).max()
  if error > _ORTHONORMAL_TOLERANCE:
    raise errors.InputError(
        f'{where}: got a matrix whose columns are not orthonormal (off by '
        f'{error:.3g}), expected a rotation'
    )
  if np.linalg.det(rotation) < 0:
    raise errors.InputError(
        f'{where}: got a mirrored pose (determinant -1), expected a rotation '
        '(determinant +1)'
    )
  # The nearest rotation, so that its transpose is its inverse.
  left, _, right = np.linalg.svd(rotation)
  return np.concatenate([left @ right, pose[:3, 3:]], axis=1)


def check_lens(lens: camera_models.Lens, *, where: str) -> None:
  """Refuses focal lengths that are not positive and what is not finite."""
  fields = ('fx', 'fy', 'cx', 'cy')
  for i, (field, value) in enumerate(zip(fields, lens.intrinsics, strict=True)):
    if i < 2 and not (np.isfinite(value) and value > 0):
      raise errors.InputError(
          f'{where}: focal length {field}: got {value}, expected a positive '
          'number of pixels'
      )
    if not np.isfinite(value):
      raise errors.InputError(
          f'{where}: principal point {field}: got {value}, expected a finite '
          'number of pixels'
      )
  if not np.isfinite(lens.distortion).all():
    raise errors.InputError(
        f'{where}: distortion: got {lens.distortion.tolist()}, expected finite '
        'numbers'
    )


def fit_to_photo(lens, camera_size, photo_size, *, path, where):
  """The lens in pixels of the stored photo.

  Args:
    lens: camera_models.Lens.
    camera_size: (width, height) that the lens refers to.
    photo_size: (width, height) of the stored pixels.
    path: photo, for its EXIF orientation.
    where: start of the error's line.

  Returns:
    (lens, whether it was rescaled).

  Raises:
    InputError: the aspects differ by more than 1 %.
  """
  scale = np.asarray(photo_size, np.float64) / np.asarray(camera_size)
  if np.all(scale == 1):
    return lens, False
  written = lambda s: f'{int(s[0])}x{int(s[1])}'
  if abs(scale[0] / scale[1] - 1) > _ASPECT_TOLERANCE:
    turned = photo_size[1] / photo_size[0] * camera_size[1] / camera_size[0]
    hint = ''
    if abs(turned - 1) <= _ASPECT_TOLERANCE:
      orientation = photo_files.exif_orientation(path)
      if orientation >= 5:
        hint = (
            f' (EXIF orientation {orientation} would turn the photo; poses '
            'refer to the stored pixels, which are not turned)'
        )
    raise errors.InputError(
        f'{where}: width x height: got a photo of {written(photo_size)}, '
        f'expected the aspect of its camera, {written(camera_size)}{hint}'
    )
  intrinsics = lens.intrinsics * np.concatenate([scale, scale])
  return lens._replace(intrinsics=intrinsics), True


def finish(draft: Draft) -> scene.Scene:
  """Checks a draft and turns it into a scene.

  Args:
    draft: see `Draft`.

  Returns:
    Scene with photos in order of name.

  Raises:
    InputError: see the module.
  """
  found = draft.found
  if len(found.rows) < 2:
    raise errors.InputError(
        f'{draft.source}: photos: got {len(found.rows)} usable of '
        f'{len(draft.names)} listed ({len(found.absent)} absent, '
        f'{len(found.damaged)} damaged), expected at least 2'
    )
  _check_unique(draft)
  order = sorted(range(len(found.rows)), key=lambda i: _name(draft, i))
  rows = found.rows[order]
  lenses, rescaled, poses = [], [], []
  for i in order:
    name, where = _name(draft, i), f'{draft.source}: photo {_name(draft, i)}'
    pose = check_pose(draft.poses[i], where=f'{where}: {draft.pose_field}')
    check_lens(draft.lenses[i], where=where)
    lens, changed = fit_to_photo(
        draft.lenses[i],
        draft.camera_sizes[i],
        found.sizes[i],
        path=draft.paths[found.rows[i]],
        where=where,
    )
    rescaled += [name] if changed else []
    lenses.append(lens)
    poses.append(pose)
  visibility = _renumber(draft.visibility, rows, len(draft.names))
  poses, points, frame = _recentre(np.stack(poses), draft.points, draft.frame)
  return scene.Scene(
      photos=scene.Photos(
          *(
              tuple(field[row] for row in rows)
              for field in (draft.names, draft.paths, draft.mask_paths)
          )
      ),
      cameras=_table(lenses, poses, found.sizes[order]),
      points=points,
      visibility=visibility,
      frame=frame,
      report=_report(draft, rescaled, points, visibility),
  )


def _name(draft: Draft, i: int) -> str:
  """Name of the i-th photo that was found."""
  return draft.names[draft.found.rows[i]]


def _check_unique(draft: Draft) -> None:
  """Refuses a photo that is listed twice."""
  seen = set()
  for name in draft.names:
    if name in seen:
      raise errors.InputError(
          f'{draft.source}: photo {name}: got it twice, expected each photo '
          'once'
      )
    seen.add(name)


def _table(lenses, poses, sizes) -> cameras_lib.Cameras:
  return cameras_lib.Cameras(
      projection=np.array([lens.projection for lens in lenses], np.int32),
      intrinsics=np.stack([lens.intrinsics for lens in lenses]),
      distortion=np.stack([lens.distortion for lens in lenses]),
      cam_to_world=poses,
      width=sizes[:, 0].astype(np.int32),
      height=sizes[:, 1].astype(np.int32),
  )


def _renumber(visibility, rows, num_listed):
  """Visibility in rows of the photos that stay; others are dropped."""
  if visibility is None:
    return None
  new_row = np.full(num_listed, -1, np.int32)
  new_row[rows] = np.arange(len(rows), dtype=np.int32)
  photo_idx = new_row[visibility.photo_idx]
  kept = np.concatenate([[0], np.cumsum(photo_idx >= 0)])
  return scene.Visibility(
      offsets=kept[visibility.offsets].astype(np.int64),
      photo_idx=photo_idx[photo_idx >= 0],
  )


def _recentre(poses, points, frame):
  """Subtracts a whole-metre offset where coordinates are large."""
  centre = np.median(poses[:, :, 3], axis=0)
  if np.linalg.norm(centre) <= _MAX_CENTRE:
    return poses, points, frame
  shift = np.round(centre)
  poses = poses.copy()
  poses[:, :, 3] -= shift
  if points is not None:
    points = points._replace(positions=points.positions - shift)
  # The frame says scene = rotation (source - offset): a shift in the scene is
  # rotation^T shift in the source.
  rotation = np.asarray(frame['rotation'], np.float64)
  offset = np.asarray(frame['offset'], np.float64) + rotation.T @ shift
  return poses, points, {**frame, 'offset': offset.tolist()}


def _report(draft: Draft, rescaled, points, visibility) -> dict[str, Any]:
  found = draft.found
  return {
      'format': draft.format,
      'photos_listed': len(draft.names),
      'photos_found': len(found.rows),
      'num_photos_absent': len(found.absent),
      'photos_absent': found.absent,
      'num_photos_damaged': len(found.damaged),
      'photos_damaged': [list(item) for item in found.damaged],
      'num_photos_rescaled': len(rescaled),
      'photos_rescaled': rescaled,
      'num_masks': sum(path is not None for path in draft.mask_paths),
      'num_points': 0 if points is None else len(points.positions),
      'visibility': 'none' if visibility is None else 'source',
      **draft.report,
  }
