"""The photos of a folder: which are usable, and what they say of themselves."""

import concurrent.futures
import math
import pathlib
from typing import NamedTuple

from infnerf_jax import errors, progress
from infnerf_jax.capture import metadata as metadata_lib
from infnerf_jax.scene import decode, photo_files


class Photo(NamedTuple):
  """A usable photo.

  Attributes:
    name: path relative to the folder, with '/'.
    path: file.
    mask_path: file whose zero pixels are left out, or None.
    size: (width, height) of the stored pixels.
    metadata: see `metadata.Metadata`.
  """

  name: str
  path: pathlib.Path
  mask_path: pathlib.Path | None
  size: tuple[int, int]
  metadata: metadata_lib.Metadata


class Folder(NamedTuple):
  """What a folder holds.

  Attributes:
    photos: usable ones in order of name.
    damaged: (name, reason) of those put aside.
  """

  photos: list[Photo]
  damaged: list[tuple[str, str]]


def scan(
    folder: pathlib.Path,
    *,
    masks: pathlib.Path | None = None,
    use_gps: bool = True,
) -> Folder:
  """Decodes every photo of a folder and its sub-folders.

  Args:
    folder: of photos.
    masks: folder of masks named `NAME.jpg.png` or `NAME.png`, or None.
    use_gps: refuse positions that are no numbers; otherwise forget them all.

  Returns:
    Folder.

  Raises:
    InputError: no such folder, no photos in it, positions that are NaN.
  """
  if not folder.is_dir():
    found = 'a file' if folder.exists() else 'no such folder'
    raise errors.InputError(
        f'--photos: {folder}: got {found}, expected photos or a video'
    )
  if masks is not None and not masks.is_dir():
    raise errors.InputError(
        f'--masks: {masks}: got no such folder, expected masks named'
        ' NAME.jpg.png or NAME.png'
    )
  paths = _files(folder)
  if masks is not None:
    paths = [p for p in paths if masks not in p.parents]
  if not paths:
    raise errors.InputError(
        f'--photos: {folder}: got no photo, expected files that end in'
        f' {", ".join(photo_files.EXTENSIONS)}'
    )
  photos, damaged = [], []
  reasons = _decode_all(paths)
  for path, found in zip(paths, reasons, strict=True):
    name = path.relative_to(folder).as_posix()
    if isinstance(found, str):
      damaged.append((name, found))
      continue
    written = metadata_lib.read(path)
    written = written._replace(gps=written.gps if use_gps else None)
    _check_gps(path, written.gps)
    photos.append(Photo(name, path, _mask(masks, name), found, written))
  if len(photos) < 2:
    first = f', {damaged[0][0]}: {damaged[0][1]}' if damaged else ''
    raise errors.InputError(
        f'--photos: {folder}: got {len(photos)} usable photos of {len(paths)}'
        f'{first}, expected at least 2'
    )
  return Folder(photos, damaged)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Files that look like photos; hidden ones are other programs' business."""
  return sorted(
      path
      for path in folder.rglob('*')
      if path.suffix.lower() in photo_files.EXTENSIONS
      and path.is_file()
      and not any(
          part.startswith('.') for part in path.relative_to(folder).parts
      )
  )


def _decode_all(paths):
  """Per file (width, height), or why it does not decode."""
  results = []
  # Decoders release the interpreter; photos of 50 megapixels take 150 MB each.
  with (
      concurrent.futures.ThreadPoolExecutor(2) as pool,
      progress.Progress(len(paths), description='reading photos') as bar,
  ):
    for result in pool.map(_decode, paths):
      results.append(result)
      bar.update(len(results))
  return results


def _decode(path: pathlib.Path):
  try:
    rgb, _ = decode.read_photo(path)
  except decode.DamagedPhoto as error:
    return str(error)
  return rgb.shape[1], rgb.shape[0]


def _mask(masks: pathlib.Path | None, name: str) -> pathlib.Path | None:
  if masks is None:
    return None
  path = masks / name
  choices = [path.with_name(path.name + '.png'), path.with_suffix('.png')]
  return next((c for c in choices if c.is_file()), None)


def _check_gps(path: pathlib.Path, gps: metadata_lib.Gps | None) -> None:
  """Refuses positions that would put the scene nowhere."""
  if gps is None:
    return
  limits = {'latitude': 90.0, 'longitude': 180.0, 'altitude': 1e5}
  for field, limit in limits.items():
    value = getattr(gps, field)
    if value is None or (math.isfinite(value) and abs(value) <= limit):
      continue
    raise errors.InputError(
        f'{path}: {gps.source} GPS {field}: got {value}, expected a number'
        f' within {limit:g} (--nouse_gps ignores all GPS)'
    )
