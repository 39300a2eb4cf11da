"""Finding a scene's photos: safe paths, absent files, sizes from headers."""

import concurrent.futures
import json
import pathlib
import posixpath
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from infnerf_jax import errors

# Pillow's own limit (89 megapixels, a warning) is below what mapping cameras
# deliver; beyond this one a photo counts as damaged.
MAX_PIXELS = 400_000_000
PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.webp', '.bmp')
_ORIENTATION = 0x0112  # EXIF tag


class Found(NamedTuple):
  """What is on disk of the photos that a source lists.

  Attributes:
    rows: [M] int64, listed photos that exist and have a readable header.
    sizes: [M, 2] int64, width and height of the stored pixels.
    absent: names that are listed and not there.
    damaged: (name, reason) of files whose header does not read.
  """

  rows: np.ndarray
  sizes: np.ndarray
  absent: list[str]
  damaged: list[tuple[str, str]]


def inside(folder: pathlib.Path, name: Any, *, where: str) -> pathlib.Path:
  """The path `folder / name`, refused where it leaves the folder.

  The rule looks at the written path: symbolic links that the user laid inside
  the folder are followed (photos often live on another disk).

  Args:
    folder: of the scene.
    name: relative path, `/` or `\\` between its parts.
    where: start of the error's line.

  Returns:
    pathlib.Path.

  Raises:
    InputError: absolute path, or one that leaves the folder.
  """
  if not isinstance(name, str) or not name.strip() or '\0' in name:
    raise errors.InputError(f'{where}: got {name!r}, expected a relative path')
  plain = posixpath.normpath(name.replace('\\', '/'))
  leaves = plain == '..' or plain.startswith(('../', '/'))
  if leaves or (len(plain) > 1 and plain[1] == ':'):
    raise errors.InputError(
        f'{where}: got {name!r}, expected a path inside the scene folder'
    )
  as_written = folder / name
  # A file name on Linux may hold a backslash; a path from Windows means '/'.
  return as_written if as_written.exists() else folder / plain


def with_extension(path: pathlib.Path) -> pathlib.Path:
  """`path`, or the photo of that name where the source left out `.png`."""
  if path.is_file():
    return path
  for extension in EXTENSIONS:
    for written in (extension, extension.upper()):
      candidate = path.with_name(path.name + written)
      if candidate.is_file():
        return candidate
  return path


def reason(error: BaseException) -> str:
  """An exception as one short line without paths."""
  if isinstance(error, PIL.UnidentifiedImageError):
    return 'not an image that can be read'
  text = ' '.join(str(error).split()) or type(error).__name__
  return text[:160]


def _size(path: pathlib.Path):
  """(width, height) by the header, a reason, or None where it is absent."""
  if not path.is_file():
    return None
  try:
    if path.stat().st_size == 0:
      return 'zero bytes'
    with PIL.Image.open(path) as image:
      width, height = image.size
    if width * height > MAX_PIXELS:
      return f'{width}x{height} is more than {MAX_PIXELS} pixels'
    return width, height
  except Exception as error:  # Pillow's plugins raise many kinds
    return reason(error)


def find(names, paths) -> Found:
  """Looks for photos and reads the sizes in their headers.

  Args:
    names: [N] names as the source lists them.
    paths: [N] files.

  Returns:
    Found.
  """
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    results = list(pool.map(_size, paths))
  rows, sizes, absent, damaged = [], [], [], []
  for row, (name, result) in enumerate(zip(names, results, strict=True)):
    if result is None:
      absent.append(name)
    elif isinstance(result, str):
      damaged.append((name, result))
    else:
      rows.append(row)
      sizes.append(result)
  return Found(
      rows=np.array(rows, np.int64),
      sizes=np.array(sizes, np.int64).reshape(-1, 2),
      absent=sorted(absent),
      damaged=sorted(damaged),
  )


def exif_orientation(path: pathlib.Path) -> int:
  """EXIF orientation of a photo, 1 (as stored) where there is none."""
  try:
    with PIL.Image.open(path) as image:
      return int(image.getexif().get(_ORIENTATION, 1))
  except Exception:  # a broken EXIF block says nothing about the pixels
    return 1


def read_json(path: pathlib.Path) -> dict:
  """A JSON object from a file.

  Args:
    path: file.

  Returns:
    dict.

  Raises:
    InputError: unreadable, not JSON, or not an object.
  """
  content = read_any_json(path)
  if not isinstance(content, dict):
    raise errors.InputError(
        f'{path}: got a {type(content).__name__}, expected an object'
    )
  return content


def read_any_json(path: pathlib.Path) -> Any:
  """Any JSON value from a file; InputError where it does not read."""
  try:
    return json.loads(path.read_text(encoding='utf-8-sig'))
  except OSError as error:
    raise errors.InputError(
        f'{path}: got {error.strerror}, expected a readable file'
    ) from None
  except (ValueError, RecursionError) as error:
    raise errors.InputError(
        f'{path}: got {reason(error)}, expected JSON'
    ) from None
