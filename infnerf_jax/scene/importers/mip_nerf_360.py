"""MipNeRF-360's folders: a COLMAP model beside `images_2`, `images_4`, ...

The model's cameras refer to `images/`; where only smaller photos were
downloaded, or one of these folders is named (`garden/images_4`), they are
taken and the cameras scaled.
"""

import pathlib
import re

from infnerf_jax import errors
from infnerf_jax.scene import colmap, photo_files, validate

_FOLDER = re.compile(r'images_(\d+)')


def photo_folder(path: pathlib.Path) -> pathlib.Path | None:
  """The `images_N` that a path means, or None where it is another scene.

  Args:
    path: scene folder, or one of its `images_N`.

  Returns:
    The named folder; of a scene without `images/` the one with the largest
    photos.
  """
  if _FOLDER.fullmatch(path.name) and colmap.find_models(path.parent):
    return path
  if (path / 'images').is_dir() or not colmap.find_models(path):
    return None
  sizes = {}
  for folder in path.glob('images_*'):
    match = _FOLDER.fullmatch(folder.name)
    if match and folder.is_dir():
      sizes[int(match[1])] = folder
  return sizes[min(sizes)] if sizes else None


def read(path: pathlib.Path) -> validate.Draft:
  """Reads a scene.

  Args:
    path: see `photo_folder`.

  Returns:
    Draft.

  Raises:
    InputError: as COLMAP's reader.
  """
  photos = photo_folder(path)
  draft = colmap.read(
      photos.parent, place=lambda names: (photos, _paths(photos, names))
  )
  draft.report['photo_folder'] = photos.name
  return draft._replace(format='mip_nerf_360')


def _paths(photos: pathlib.Path, names) -> list[pathlib.Path]:
  """Photos by name, or by order: some programs rename those they shrink."""
  paths = [
      photo_files.inside(photos, name, where=f'{photos}: photo {name}')
      for name in names
  ]
  if any(path.is_file() for path in paths):
    return paths
  files = sorted(
      path
      for path in photos.iterdir()
      if path.suffix.lower() in photo_files.EXTENSIONS
  )
  if len(files) != len(names):
    raise errors.InputError(
        f'{photos}: got {len(files)} photos of other names, expected the'
        f' {len(names)} of the COLMAP model'
    )
  return files
