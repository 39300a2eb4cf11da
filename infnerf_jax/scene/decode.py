"""Photos and masks decoded to arrays, and their exact area averages.

Level k of a photo covers it with square pixels of `s = downscale * 2**k`
full-size pixels: pixel (i, j) is the mean over [j s, (j + 1) s] x
[i s, (i + 1) s], remainders at the right and bottom are dropped. That mean is
what supervises a ray of that footprint, so it is exact and rounded once (by
Pillow within 0.06 of the nearest step, where the sides are whole numbers).
"""

import pathlib
from typing import NamedTuple

import numpy as np
import PIL.Image

from infnerf_jax.scene import photo_files

# instant-ngp's masks lie beside the photos and mark what moves: pixels other
# than zero are left out. All other masks leave out their zeros.
DYNAMIC_MASK = 'dynamic_mask_'

# Averaging a stripe at a time bounds its float32 copies to tens of megabytes.
_STRIPE_VALUES = 4_000_000


class DecodedPhoto(NamedTuple):
  """A photo's pyramid.

  Attributes:
    rgb: per level [H, W, 3] uint8.
    valid: per level [H, W] uint8, 1 where the pixel counts; or None where all
      pixels do.
  """

  rgb: list[np.ndarray]
  valid: list[np.ndarray] | None


class DamagedPhoto(Exception):
  """A photo or its mask that cannot be used; the text says why."""


def level_sizes(width, height, *, downscale: float, num_levels: int):
  """Sizes of a pyramid's levels.

  Args:
    width: [...] pixels at full size.
    height: [...] pixels at full size.
    downscale: full-size pixels per pixel of level 0, >= 1.
    num_levels: number of levels.

  Returns:
    [..., num_levels, 2] int64, width and height; zero where nothing is left.
  """
  full = np.stack([width, height], axis=-1).astype(np.float64)[..., None, :]
  side = downscale * 2.0 ** np.arange(num_levels)[:, None]
  # 1000 / (1000 / 270) must give 270, not 269.
  return np.floor(full / side + 1e-9).astype(np.int64)


def read_photo(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Pixels of a photo as they are stored (EXIF orientation is not applied).

  Args:
    path: file in any format and mode that Pillow decodes; 16-bit grey is
      scaled to 8 bits.

  Returns:
    ([H, W, 3] uint8, [H, W] bool or None): colours and the pixels whose alpha
    is not zero (None: no alpha, or none that is zero).

  Raises:
    DamagedPhoto: absent, empty, truncated or not an image.
  """
  try:
    if path.stat().st_size == 0:
      raise DamagedPhoto('zero bytes')
    with PIL.Image.open(path) as image:
      image.load()
      return _to_rgb(image)
  except DamagedPhoto:
    raise
  except FileNotFoundError:
    raise DamagedPhoto('absent') from None
  except Exception as error:  # Pillow's decoders raise many kinds
    raise DamagedPhoto(photo_files.reason(error)) from None


def _to_rgb(image: PIL.Image.Image):
  if image.mode == 'F':
    raise DamagedPhoto('float pixels, expected integers')
  if image.mode == 'I' or image.mode.startswith('I;16'):
    grey = np.asarray(image).astype(np.int64)
    grey = (np.clip(grey, 0, 65535) + 128) // 257
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1), None
  if image.has_transparency_data:
    rgba = np.asarray(image.convert('RGBA'))
    opaque = rgba[..., 3] > 0
    rgb = np.ascontiguousarray(rgba[..., :3])
    return rgb, None if opaque.all() else opaque
  return np.asarray(image.convert('RGB')), None


def is_dynamic_mask(path: pathlib.Path) -> bool:
  """Whether a mask marks what is left out (instant-ngp's do)."""
  return path.name.startswith(DYNAMIC_MASK)


def read_mask(path: pathlib.Path, shape) -> np.ndarray:
  """A mask as bool, true where the photo counts.

  Args:
    path: picture whose zero pixels are left out (instant-ngp's: those other
      than zero).
    shape: (H, W) of the photo; a mask of the same aspect within 1 % is scaled
      to it by its nearest pixels.

  Returns:
    [H, W] bool.

  Raises:
    DamagedPhoto: unreadable, or of another aspect.
  """
  try:
    with PIL.Image.open(path) as image:
      image.load()
      if image.has_transparency_data and image.mode != 'P':
        image = image.convert('RGBA')
        array = np.asarray(image)[..., :3].max(axis=-1) > 0
      else:
        array = np.asarray(image.convert('RGB') if image.mode == 'P' else image)
        array = array.max(axis=-1) > 0 if array.ndim == 3 else array > 0
  except FileNotFoundError:
    raise DamagedPhoto('mask is absent') from None
  except Exception as error:
    raise DamagedPhoto(f'mask: {photo_files.reason(error)}') from None
  if is_dynamic_mask(path):
    array = ~array
  height, width = array.shape
  if (height, width) == tuple(shape):
    return array
  if abs(width / height * shape[0] / shape[1] - 1) > 0.01:
    raise DamagedPhoto(f'mask is {width}x{height}, photo {shape[1]}x{shape[0]}')
  rows = ((np.arange(shape[0]) + 0.5) * height / shape[0]).astype(np.int64)
  columns = ((np.arange(shape[1]) + 0.5) * width / shape[1]).astype(np.int64)
  return array[rows[:, None], columns]


def _edges(start: float, side: float, count: int):
  """First whole pixel and remainder at each of the count + 1 box edges."""
  position = start + np.arange(count + 1) * side
  # 2 * (1000 / 270) * 135 may miss a whole pixel by rounding.
  whole = np.floor(position + 1e-6).astype(np.int64)
  return whole, np.maximum(position - whole, 0.0).astype(np.float32)


def _box_sums(values, start: float, side: float, count: int) -> np.ndarray:
  """Sums over boxes along axis 0: [N, W, C] -> [count, W, C] float32."""
  whole, part = _edges(start, side, count)
  inner = values[: whole[-1]]
  sums = np.add.reduceat(inner, whole[:-1], axis=0, dtype=np.float32)
  last = np.minimum(whole, len(values) - 1)
  fringe = values[last] * part[:, None, None]
  return sums + fringe[1:] - fringe[:-1]


def average(photo, side: float, size) -> np.ndarray:
  """Exact mean of a photo over square boxes.

  Args:
    photo: [H, W, 3] uint8.
    side: of the boxes in pixels, >= 1, any number.
    size: (width, height) of the result; what lies beyond is dropped.

  Returns:
    [height, width, 3] uint8, rounded to nearest.
  """
  width, height = (int(n) for n in size)
  if side == 1:
    return np.ascontiguousarray(photo[:height, :width])
  if side == round(side):
    factor = int(side)
    box = (0, 0, width * factor, height * factor)
    return np.asarray(PIL.Image.fromarray(photo).reduce(factor, box))
  out = np.empty((height, width, 3), np.uint8)
  stripe = max(1, int(_STRIPE_VALUES / (photo[0].size * side)))
  for top in range(0, height, stripe):
    rows = min(stripe, height - top)
    first = int(np.floor(top * side + 1e-6))
    last = int(np.ceil((top + rows) * side - 1e-6))
    start = max(top * side - first, 0.0)
    sums = _box_sums(photo[first:last], start, side, rows)
    sums = _box_sums(sums.swapaxes(0, 1), 0.0, side, width).swapaxes(0, 1)
    mean = np.floor(sums / side**2 + 0.5)
    out[top : top + rows] = np.clip(mean, 0, 255)
  return out


def _full_boxes(valid, side: float, count: int) -> np.ndarray:
  """[N, W] bool -> [count, W] bool: every pixel that a box touches is set."""
  whole, part = _edges(0.0, side, count)
  inner = valid[: whole[-1]]
  full = np.logical_and.reduceat(inner, whole[:-1], axis=0)
  last = np.minimum(whole[1:], len(valid) - 1)
  return full & (valid[last] | (part[1:, None] < 1e-6))


def cover(valid, side: float, size) -> np.ndarray:
  """Boxes that lie wholly inside a mask.

  Args:
    valid: [H, W] bool.
    side: of the boxes in pixels, >= 1.
    size: (width, height) of the result.

  Returns:
    [height, width] uint8, 1 where the box is covered.
  """
  width, height = (int(n) for n in size)
  rows = _full_boxes(valid, side, height)
  return _full_boxes(rows.T, side, width).T.astype(np.uint8)


def decode(
    path: pathlib.Path,
    mask_path: pathlib.Path | None,
    size,
    *,
    downscale: float,
    num_levels: int,
) -> DecodedPhoto:
  """Decodes a photo into its pyramid.

  Args:
    path: photo.
    mask_path: its mask or None.
    size: (width, height) that its header promised.
    downscale: full-size pixels per pixel of level 0, >= 1.
    num_levels: number of levels.

  Returns:
    DecodedPhoto.

  Raises:
    DamagedPhoto: the photo or its mask cannot be used.
  """
  rgb, valid = read_photo(path)
  if rgb.shape[:2] != (size[1], size[0]):
    raise DamagedPhoto(
        f'decoded to {rgb.shape[1]}x{rgb.shape[0]}, expected '
        f'{size[0]}x{size[1]}'
    )
  if mask_path is not None:
    mask = read_mask(mask_path, rgb.shape[:2])
    valid = mask if valid is None else mask & valid
  sizes = level_sizes(*size, downscale=downscale, num_levels=num_levels)
  sides = [downscale * 2**k for k in range(num_levels)]
  pairs = list(zip(sides, sizes, strict=True))
  return DecodedPhoto(
      rgb=[_or_empty(average, rgb, *pair, (3,)) for pair in pairs],
      valid=None
      if valid is None or valid.all()
      else [_or_empty(cover, valid, *pair, ()) for pair in pairs],
  )


def _or_empty(function, values, side, size, tail):
  """The averaged level, or an empty array where nothing is left of it."""
  if not size.all():
    return np.zeros((size[1], size[0]) + tail, np.uint8)
  return function(values, side, size)


def verify(path: pathlib.Path, mask_path: pathlib.Path | None, size) -> None:
  """Raises DamagedPhoto where `decode` would; JPEGs cost a fraction of it.

  Args:
    path: photo.
    mask_path: its mask or None.
    size: (width, height) that its header promised.
  """
  try:
    with PIL.Image.open(path) as image:
      draft = image.format == 'JPEG' and image.mode in ('RGB', 'L')
      if draft:
        # Reads all of the stream but transforms an eighth of the frequencies.
        image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
  except Exception:  # the full decoder finds the words
    draft = False
  if not draft:
    read_photo(path)
  if mask_path is not None:
    read_mask(mask_path, (size[1], size[0]))
