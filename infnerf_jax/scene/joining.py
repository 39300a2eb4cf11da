"""Several captures as one scene: what a run's extra scenes are joined with.

Photos of extra scenes are called `SCENE/name`, after their folder, and follow
the others, so that a scene's photos keep their rows when more are joined.
"""

import pathlib
from typing import Callable, NamedTuple, Sequence

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from infnerf_jax.scene import scene as scene_lib

_ROTATION_TOLERANCE = 1e-9


class Joined(NamedTuple):
  """Scenes in the frame of the first.

  Attributes:
    scene: all of them.
    parts: each of them, moved into the frame and renamed.
  """

  scene: scene_lib.Scene
  parts: tuple[scene_lib.Scene, ...]


def split_paths(text: str) -> tuple[str, ...]:
  """Paths from a list with commas; empty ones are left out."""
  return tuple(part.strip() for part in text.split(',') if part.strip())


def load_scenes(path, extra_paths: Sequence[str]) -> Joined:
  """Reads a scene and those that are joined with it.

  Args:
    path: of the first scene.
    extra_paths: of the others.

  Returns:
    Joined; the first scene as it is where there are no others.

  Raises:
    InputError: a bad scene, or one in another frame than the first.
  """
  first = readers.load_scene(path)
  parts, labels = [first], set()
  for extra in extra_paths:
    extra_path = pathlib.Path(extra).expanduser()
    label = _label(extra_path, labels)
    labels.add(label)
    scene = readers.load_scene(extra_path)
    parts.append(_renamed(_in_frame(scene, first.frame, extra), label))
  return Joined(join_scenes(parts), tuple(parts))


def _label(path: pathlib.Path, taken) -> str:
  """Name of a scene's folder, numbered where another has it."""
  path = path.absolute()
  name = (path.parent if path.suffix and path.is_file() else path).name
  label, number = name, 2
  while label in taken:
    label, number = f'{name}-{number}', number + 1
  return label


def _renamed(scene, label):
  names = tuple(f'{label}/{name}' for name in scene.photos.names)
  return scene._replace(photos=scene.photos._replace(names=names))


def _in_frame(scene, frame, path):
  """The scene moved into another frame, by whole offsets alone.

  A frame says scene = rotation (source - offset): where rotation and source
  are the same, scenes differ by a shift.
  """
  for field in ('coordinate_system', 'rotation'):
    found, expected = scene.frame[field], frame[field]
    same = found == expected
    if field == 'rotation':
      same = np.allclose(found, expected, rtol=0, atol=_ROTATION_TOLERANCE)
    if not same:
      raise errors.InputError(
          f'config.data.extra_paths: {path}: {field}: got {found}, expected'
          f' {expected} as in config.data.path: prepare both in one frame'
      )
  shift = np.subtract(scene.frame['offset'], frame['offset'])
  shift = np.asarray(frame['rotation'], np.float64) @ shift
  if not shift.any():
    return scene
  pose = np.array(scene.cameras.cam_to_world, np.float64)
  pose[..., 3] += shift
  points = scene.points
  if points is not None:
    points = points._replace(positions=points.positions + shift)
  return scene._replace(
      cameras=scene.cameras._replace(cam_to_world=pose), points=points
  )


def join_scenes(parts: Sequence[scene_lib.Scene]) -> scene_lib.Scene:
  """One scene of several that share a frame.

  Args:
    parts: scenes without photos of the same name.

  Returns:
    Scene; who sees the points is known where all parts know it.

  Raises:
    InputError: two photos of one name.
  """
  if len(parts) == 1:
    return parts[0]
  names = [name for part in parts for name in part.photos.names]
  if len(set(names)) < len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise errors.InputError(
        f'config.data.extra_paths: photo {twice}: got it twice, expected'
        ' another name for the folder of the extra scene'
    )
  fields = zip(*(part.photos for part in parts), strict=True)
  tables = zip(*(part.cameras for part in parts), strict=True)
  return scene_lib.Scene(
      photos=scene_lib.Photos(*(sum(field, ()) for field in fields)),
      cameras=cameras_lib.Cameras(
          *(np.concatenate([np.asarray(x) for x in field]) for field in tables)
      ),
      points=_points(parts),
      visibility=_visibility(parts),
      frame=parts[0].frame,
      report={
          **parts[0].report,
          'extra_scenes': [part.report for part in parts[1:]],
      },
  )


def _points(parts):
  found = [part.points for part in parts if part.points is not None]
  if not found:
    return None
  return scene_lib.Points(
      *(np.concatenate(field) for field in zip(*found, strict=True))
  )


def _visibility(parts):
  """Rows of all photos by point, None where a part's are not known."""
  with_points = [p for p in parts if p.points is not None]
  if not with_points or any(p.visibility is None for p in with_points):
    return None
  counts, rows, first = [], [], 0
  for part in parts:
    if part.points is not None:
      counts.append(np.diff(part.visibility.offsets))
      rows.append(part.visibility.photo_idx + np.int32(first))
    first += len(part.photos.names)
  offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
  return scene_lib.Visibility(
      offsets.astype(np.int64), np.concatenate(rows).astype(np.int32)
  )


def map_parts(
    joined: Joined, change: Callable[[scene_lib.Scene], scene_lib.Scene]
) -> Joined:
  """Joined scenes of which each was changed.

  Args:
    joined: scenes.
    change: of one of them; its photos stay.

  Returns:
    Joined.
  """
  parts = tuple(change(part) for part in joined.parts)
  return Joined(join_scenes(parts), parts)


def select_photos(joined: Joined, keep) -> Joined:
  """Scenes with only some of their photos.

  Args:
    joined: N photos in all.
    keep: [M] increasing rows of the joined scene.

  Returns:
    Joined.
  """
  keep, first, parts = np.asarray(keep), 0, []
  for part in joined.parts:
    count = len(part.photos.names)
    mine = keep[(keep >= first) & (keep < first + count)] - first
    parts.append(scene_lib.select_photos(part, mine))
    first += count
  return Joined(join_scenes(parts), tuple(parts))
