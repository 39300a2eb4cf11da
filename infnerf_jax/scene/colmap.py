"""Reader of COLMAP sparse models, binary and text.

Looks for the model in `sparse/0`, `sparse/1`, ..., `sparse` or the folder
itself, for the photos in `images/` beside it and for masks, as COLMAP names
them, in `masks/NAME.png` (zero pixels are left out).
"""

import pathlib
import re
import struct

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry.colmap_library import pycolmap
from infnerf_jax.scene import (
    camera_models,
    colmap_check,
    photo_files,
    scene,
    validate,
)


def find_models(folder: pathlib.Path) -> list[pathlib.Path]:
  """Folders that hold a model: sparse/N, sparse, the folder itself."""
  numbered = sorted(
      (p for p in folder.glob('sparse/*') if p.is_dir()), key=lambda p: p.name
  )
  candidates = numbered + [folder / 'sparse', folder]
  return [path for path in candidates if _stem(path) is not None]


def _stem(path: pathlib.Path) -> str | None:
  """Suffix of the model's files in a folder, None where there is none."""
  for suffix in ('.bin', '.txt'):
    if all((path / f'{name}{suffix}').is_file() for name in _PARTS):
      return suffix
  return None


_PARTS = ('cameras', 'images', 'points3D')


def _num_images(path: pathlib.Path) -> int:
  """Registered photos of a model, from the head of its list."""
  if _stem(path) == '.bin':
    head = (path / 'images.bin').read_bytes()[:8]
    return struct.unpack('<Q', head)[0] if len(head) == 8 else 0
  return len(_text_names(path / 'images.txt'))


def _text_names(path: pathlib.Path) -> dict[int, str]:
  """Names by image id; pycolmap's text reader cuts them at a space."""
  names = {}
  lines = iter(path.read_text('utf-8', errors='replace').split('\n'))
  for line in lines:
    line = line.strip()
    if line and not line.startswith('#'):
      fields = line.split(maxsplit=9)
      if len(fields) == 10 and fields[0].isdigit():
        names[int(fields[0])] = fields[9]
      next(lines, None)  # its observations, perhaps an empty line
  return names


def _photo_folder(folder: pathlib.Path, model: pathlib.Path) -> pathlib.Path:
  beside = [model, model.parent, model.parent.parent]
  for parent in [folder] + beside:
    if (parent / 'images').is_dir():
      return parent / 'images'
  raise errors.InputError(
      f'{folder}: images: got no such folder, expected images/ beside the '
      'COLMAP model'
  )


def _reconstruction(model: pathlib.Path) -> pycolmap.Reconstruction:
  if _stem(model) == '.bin':
    colmap_check.check_binary(model)
  try:
    reconstruction = pycolmap.Reconstruction(str(model))
    if _stem(model) == '.txt':
      for image_id, name in _text_names(model / 'images.txt').items():
        reconstruction.images[image_id].name = name
    return reconstruction
  except Exception as error:  # pycolmap raises ValueError, RuntimeError, ...
    why = re.sub(r'^\[[^]]*\] ', '', photo_files.reason(error))
    raise errors.InputError(
        f'{model}: got {why}, expected a COLMAP model'
    ) from None


def read(folder: pathlib.Path, *, place=None) -> validate.Draft:
  """Reads a COLMAP model and the photos beside it.

  Args:
    folder: of the scene, or of the model.
    place: gives (photos' folder, their paths) of names in order; None: they
      are in `images/` under these names.

  Returns:
    Draft.

  Raises:
    InputError: unreadable model, unknown camera model, unsafe names.
  """
  models = find_models(folder)
  counts = [_num_images(path) for path in models]
  model = models[int(np.argmax(counts))]
  source = model / f'images{_stem(model)}'
  reconstruction = _reconstruction(model)
  images = sorted(
      (im for im in reconstruction.images.values() if im.has_pose),
      key=lambda image: image.name,
  )
  names = [image.name for image in images]
  if place is not None:
    photo_folder, paths = place(names)
  else:
    photo_folder = _photo_folder(folder, model)
    paths = [
        photo_files.inside(photo_folder, name, where=f'{source}: photo {name}')
        for name in names
    ]
  found = photo_files.find(names, paths)
  lenses, sizes, poses = [], [], []
  for row in found.rows:
    lens, size = _lens(reconstruction, images[row], source.parent)
    lenses.append(lens)
    sizes.append(size)
    poses.append(images[row].cam_from_world().inverse().matrix())
  rows = {image.image_id: row for row, image in enumerate(images)}
  points, visibility, dropped = _points(reconstruction, rows)
  report = _report(folder, model, models, counts)
  report['num_points_dropped'] = dropped
  return validate.Draft(
      format='colmap',
      source=source,
      pose_field='pose',
      names=names,
      paths=paths,
      mask_paths=_masks(photo_folder.parent / 'masks', names),
      found=found,
      lenses=lenses,
      camera_sizes=sizes,
      poses=poses,
      points=points,
      visibility=visibility,
      frame=validate.default_frame(),
      report=report,
  )


def _report(folder, model, models, counts) -> dict:
  """Which model was taken, and from how many."""
  names = [path.relative_to(folder).as_posix() for path in models]
  report = {'model': names[models.index(model)]}
  if len(models) > 1:
    report['models'] = dict(zip(names, counts, strict=True))
    report['notes'] = [
        f'{len(models)} COLMAP models: took {report["model"]}, the largest '
        f'({max(counts)} photos)'
    ]
  return report


def _lens(reconstruction, image, folder):
  camera = reconstruction.cameras[image.camera_id]
  where = f'{folder}: camera {image.camera_id} of photo {image.name}'
  lens = camera_models.from_colmap(
      camera.model.name, camera.params, where=where
  )
  size = tuple(
      validate.size(value, where=f'{where}: {field}')
      for field, value in (('width', camera.width), ('height', camera.height))
  )
  return lens, size


def _masks(folder: pathlib.Path, names):
  """Mask files by COLMAP's naming, `a.jpg.png`, or `a.png`."""
  if not folder.is_dir():
    return [None] * len(names)
  masks = []
  for name in names:
    path = folder / name
    choices = [path.with_name(path.name + '.png'), path.with_suffix('.png')]
    masks.append(next((c for c in choices if c.is_file()), None))
  return masks


def _points(reconstruction, rows):
  """(points, visibility, dropped), or (None, None, 0) without points.

  A photo that sees a point twice counts once.
  """
  positions, colors, offsets, photo_idx = [], [], [0], []
  dropped = 0
  for _, point in sorted(reconstruction.points3D.items()):
    if not np.isfinite(point.xyz).all():
      dropped += 1
      continue
    positions.append(point.xyz)
    colors.append(point.color)
    seen = {rows.get(e.image_id, -1) for e in point.track.elements} - {-1}
    photo_idx.extend(sorted(seen))
    offsets.append(len(photo_idx))
  if not positions:
    return None, None, dropped
  points = scene.Points(
      np.array(positions, np.float64), np.array(colors, np.uint8)
  )
  visibility = scene.Visibility(
      np.array(offsets, np.int64), np.array(photo_idx, np.int32)
  )
  return points, visibility, dropped
