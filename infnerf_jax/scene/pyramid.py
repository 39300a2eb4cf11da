"""Photos decoded once into a memory-mapped pyramid; the rest on demand.

The cache is a folder `pyramid-KEY` with flat pixels of all photos and levels
(`rgb.u8`), a mask of the same indexing (`valid.u8`, sparse: only photos with a
mask occupy it) and `stamp.json`, written last. While it is being built it is
called `pyramid-KEY.partial` and keeps a journal of photos whose pixels have
reached the disk: a build that was killed continues from there.
"""

import concurrent.futures
import mmap
import pathlib
import threading
from typing import NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.scene import decode, pyramid_cache
from infnerf_jax.scene import scene as scene_lib

# Mapped pages count as resident memory until they are given back. A batch of
# 4,096 rays may map 0.25 GB: a fault brings its 64 kB neighbourhood with it.
_MAX_MAPPED_RESIDENT = 2**29
_TRIM_EVERY = 2


class PhotoPyramid(NamedTuple):
  """Pixels of a scene's photos at several sizes.

  Attributes:
    photos: the N photos, files and masks.
    sizes: [N, L, 2] int32, width and height.
    offsets: [N] int64, first pixel of a photo in the cache, -1: on demand.
    level_offsets: [N, L] int64, first pixel of a level after `offsets`.
    has_mask: [N] bool, cached photos with pixels that do not count.
    downscale: full-size pixels per pixel of level 0.
    rgb: [T, 3] uint8, pixels of the cache.
    valid: [T] uint8, mask of the cache.
    on_demand: decoder of photos that the cache has no room for.
    mapping: what keeps the resident part of the mapping bounded.
  """

  photos: scene_lib.Photos
  sizes: np.ndarray
  offsets: np.ndarray
  level_offsets: np.ndarray
  has_mask: np.ndarray
  downscale: float
  rgb: np.ndarray
  valid: np.ndarray
  on_demand: 'OnDemand'
  mapping: 'Mapping'


class Mapping:
  """Maps the cache's files and hands pages back when many are resident."""

  def __init__(self, folder: pathlib.Path, num_pixels: int):
    self._maps = []
    self.rgb = self._open(folder / 'rgb.u8', num_pixels, 3)
    self.valid = self._open(folder / 'valid.u8', num_pixels, 1)[:, 0]
    self._calls = 0

  def _open(self, path, num_pixels, channels):
    if num_pixels == 0:
      return np.zeros((0, channels), np.uint8)
    with open(path, 'rb') as file:
      mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, 'MADV_RANDOM'):
      # Rays hit pages at random: reading ahead would only fill memory.
      mapped.madvise(mmap.MADV_RANDOM)
    self._maps.append(mapped)
    return np.frombuffer(mapped, np.uint8).reshape(num_pixels, channels)

  def trim(self) -> None:
    """Gives resident pages back to the system where they exceed 0.5 GiB."""
    self._calls += 1
    if self._calls % _TRIM_EVERY or not hasattr(mmap, 'MADV_DONTNEED'):
      return
    try:
      with open('/proc/self/statm') as file:
        shared = int(file.read().split()[2]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
      return
    if shared > _MAX_MAPPED_RESIDENT:
      for mapped in self._maps:
        mapped.madvise(mmap.MADV_DONTNEED)


class OnDemand:
  """Decodes photos when they are asked for and keeps the latest ones.

  A photo that decodes no more (it did when the pyramid was built) has no
  valid pixel from then on.
  """

  def __init__(self, photos, full_sizes, *, downscale, num_levels, max_bytes):
    self._photos = photos
    self._full_sizes = full_sizes
    self._options = {'downscale': downscale, 'num_levels': num_levels}
    self._kept = {}  # row -> DecodedPhoto, oldest first
    self._bytes = 0
    self._lock = threading.Lock()
    self._row_locks = [threading.Lock() for _ in photos.names]
    self._pool = concurrent.futures.ThreadPoolExecutor(
        1, thread_name_prefix='decode'
    )
    self._coming = set()
    self.max_bytes = max_bytes
    self.num_decoded = 0

  def prefetch(self, rows) -> None:
    """Decodes photos in the background that will be asked for soon."""
    for row in map(int, rows):
      with self._lock:
        if row in self._kept or row in self._coming:
          continue
        self._coming.add(row)
      self._pool.submit(self._fetch, row)

  def _fetch(self, row: int) -> None:
    try:
      self.get(row)
    finally:
      with self._lock:
        self._coming.discard(row)

  def get(self, row: int) -> decode.DecodedPhoto:
    """The pyramid of a photo, decoded now where it is not kept."""
    with self._row_locks[row]:
      with self._lock:
        if row in self._kept:
          self._kept[row] = self._kept.pop(row)
          return self._kept[row]
      photo = self._decode(row)
      with self._lock:
        self._kept[row] = photo
        self._bytes += _num_bytes(photo)
        self.num_decoded += 1
        while self._bytes > self.max_bytes and len(self._kept) > 1:
          self._bytes -= _num_bytes(self._kept.pop(next(iter(self._kept))))
      return photo

  def _decode(self, row: int) -> decode.DecodedPhoto:
    size = tuple(int(n) for n in self._full_sizes[row])
    try:
      return decode.decode(
          self._photos.paths[row],
          self._photos.mask_paths[row],
          size,
          **self._options,
      )
    except decode.DamagedPhoto:
      sizes = decode.level_sizes(*size, **self._options)
      empty = [np.zeros((h, w), np.uint8) for w, h in sizes]
      return decode.DecodedPhoto(
          rgb=[np.zeros(level.shape + (3,), np.uint8) for level in empty],
          valid=empty,
      )


def _num_bytes(photo: decode.DecodedPhoto) -> int:
  arrays = photo.rgb + (photo.valid or [])
  return sum(array.nbytes for array in arrays)


def build(
    scene: scene_lib.Scene,
    cache_dir,
    *,
    downscale: float = 1.0,
    num_levels: int = 4,
    cache_gb: float = 16.0,
    decoded_gb: float = 1.0,
    max_damaged_fraction: float = 0.1,
    show_progress: bool = True,
) -> tuple[PhotoPyramid, np.ndarray, list[tuple[str, str]]]:
  """Builds, or opens, the pyramid of a scene's photos.

  Args:
    scene: N photos.
    cache_dir: folder for the cache; made where it is absent.
    downscale: full-size pixels per pixel of level 0, >= 1, any number.
    num_levels: levels, each half the size of the one before.
    cache_gb: room on disk; photos that do not fit, the last by name, are
      verified now and decoded when they are needed.
    decoded_gb: memory for photos decoded on demand.
    max_damaged_fraction: more damaged photos than this are an error.
    show_progress: draw a progress bar where there is something to decode.

  Returns:
    (pyramid, usable, damaged): the pyramid has one row for each *usable*
    photo, in the order of `usable` [M] int64, rows of `scene`, so that it fits
    `select_photos(scene, usable)`; damaged lists (name, reason).

  Raises:
    InputError: too many damaged photos, or fewer than two usable ones.
  """
  if not downscale >= 1:
    raise errors.InputError(
        f'config.data.downscale: got {downscale}, expected at least 1'
    )
  layout = pyramid_cache.plan(
      scene, downscale=downscale, num_levels=num_levels, cache_gb=cache_gb
  )
  folder, reasons, masked = pyramid_cache.open_or_build(
      scene, layout, pathlib.Path(cache_dir), show_progress=show_progress
  )
  usable = np.array([r is None for r in reasons], bool).nonzero()[0]
  damaged = [
      (name, why)
      for name, why in zip(scene.photos.names, reasons, strict=True)
      if why is not None
  ]
  _check_damaged(scene, damaged, len(usable), max_damaged_fraction)
  pyramid = _open(
      scene, layout, folder, usable, masked, max_bytes=int(decoded_gb * 1e9)
  )
  return pyramid, usable, damaged


def _open(scene, layout, folder, usable, masked, *, max_bytes) -> PhotoPyramid:
  """Maps a finished cache; its rows are the usable photos."""
  photos = scene_lib.select_photos(scene, usable).photos
  mapping = Mapping(folder, layout.num_pixels)
  return PhotoPyramid(
      photos=photos,
      sizes=layout.sizes[usable],
      offsets=layout.offsets[usable],
      level_offsets=layout.level_offsets[usable],
      has_mask=np.asarray(masked, bool)[usable],
      downscale=layout.downscale,
      rgb=mapping.rgb,
      valid=mapping.valid,
      on_demand=OnDemand(
          photos,
          layout.full_sizes[usable],
          downscale=layout.downscale,
          num_levels=layout.num_levels,
          max_bytes=max_bytes,
      ),
      mapping=mapping,
  )


def _check_damaged(scene, damaged, num_usable, max_fraction) -> None:
  """Stops on too many damaged photos; those of the reader count too."""
  every = [tuple(item) for item in scene.report.get('photos_damaged', [])]
  every += damaged
  total = num_usable + len(every)
  listed = ', '.join(f'{name} ({why})' for name, why in every)
  if len(every) > max_fraction * total:
    raise errors.InputError(
        f'photos: got {len(every)} damaged of {total}, expected at most '
        f'{max_fraction:.0%} (config.data.max_damaged_fraction): {listed}'
    )
  if num_usable < 2:
    raise errors.InputError(
        f'photos: got {num_usable} usable, expected at least 2: {listed}'
    )


def gather(pyramid: PhotoPyramid, photo_idx, level, x, y):
  """Single pixels of many photos.

  Args:
    pyramid: N photos.
    photo_idx: [R] rows of the pyramid.
    level: [R] pyramid levels.
    x: [R] columns, inside the level.
    y: [R] rows, inside the level.

  Returns:
    (rgb [R, 3] uint8, valid [R] bool).
  """
  width = pyramid.sizes[photo_idx, level, 0].astype(np.int64)
  inside = pyramid.level_offsets[photo_idx, level] + y * width + x
  base = pyramid.offsets[photo_idx]
  cached = base >= 0
  if cached.all():
    index = base + inside
    rgb = pyramid.rgb.take(index, axis=0)
    valid = np.ones(len(index), bool)
    masked = pyramid.has_mask[photo_idx]
    if masked.any():
      valid[masked] = pyramid.valid[index[masked]] != 0
    pyramid.mapping.trim()
    return rgb, valid
  rgb = np.zeros((len(base), 3), np.uint8)
  valid = np.zeros(len(base), bool)
  if cached.any():
    rgb[cached], valid[cached] = gather(
        pyramid,
        photo_idx[cached],
        level[cached],
        x[cached],
        y[cached],
    )
  for row in np.unique(photo_idx[~cached]):
    decoded = pyramid.on_demand.get(int(row))
    for k in np.unique(level[photo_idx == row]):
      rays = np.nonzero((photo_idx == row) & (level == k))[0]
      rgb[rays] = decoded.rgb[k][y[rays], x[rays]]
      valid[rays] = (
          True if decoded.valid is None else decoded.valid[k][y[rays], x[rays]]
      )
  return rgb, valid


def photo(pyramid: PhotoPyramid, row: int, level: int):
  """A whole photo at one level.

  Args:
    pyramid: N photos.
    row: of the pyramid.
    level: pyramid level.

  Returns:
    (rgb [H, W, 3] uint8, valid [H, W] bool).
  """
  width, height = (int(n) for n in pyramid.sizes[row, level])
  if pyramid.offsets[row] < 0:
    decoded = pyramid.on_demand.get(int(row))
    if decoded.valid is None:
      return decoded.rgb[level], np.ones((height, width), bool)
    return decoded.rgb[level], decoded.valid[level] != 0
  start = int(pyramid.offsets[row] + pyramid.level_offsets[row, level])
  pixels = slice(start, start + width * height)
  rgb = np.array(pyramid.rgb[pixels]).reshape(height, width, 3)
  valid = np.ones((height, width), bool)
  if pyramid.has_mask[row]:
    valid = (pyramid.valid[pixels] != 0).reshape(height, width)
  return rgb, valid
