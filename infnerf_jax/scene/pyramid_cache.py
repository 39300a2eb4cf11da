"""Writing the photo pyramid's cache: planned, parallel, resumable, stamped."""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

try:
  import fcntl
except ImportError:  # not on Windows; there two builds at once may race
  fcntl = None

from rich import progress as rich_progress

from infnerf_jax import errors
from infnerf_jax.scene import decode

_VERSION = 1
_NUM_THREADS = min(4, os.cpu_count() or 1)
# Photos per sync to disk: the most that a killed build decodes again.
_SYNC_EVERY = 32
# Threads hold whole photos while they wait for the writer; this many suffice.
_IN_FLIGHT = 2 * _NUM_THREADS


class Layout(NamedTuple):
  """Where each photo's pixels lie in the cache.

  Attributes:
    full_sizes: [N, 2] int64, width and height of the stored photos.
    sizes: [N, L, 2] int32, width and height of each level.
    offsets: [N] int64, first pixel; -1 where the cache has no room.
    level_offsets: [N, L] int64, first pixel of a level after `offsets`.
    num_pixels: of the cache.
    downscale: full-size pixels per pixel of level 0.
    num_levels: L.
  """

  full_sizes: np.ndarray
  sizes: np.ndarray
  offsets: np.ndarray
  level_offsets: np.ndarray
  num_pixels: int
  downscale: float
  num_levels: int


def plan(scene, *, downscale: float, num_levels: int, cache_gb: float):
  """Lays photos out in order of name until `cache_gb` is full.

  Args:
    scene: N photos.
    downscale: full-size pixels per pixel of level 0.
    num_levels: L.
    cache_gb: room in 10^9 bytes.

  Returns:
    Layout.
  """
  full = np.stack([scene.cameras.width, scene.cameras.height], axis=-1)
  sizes = decode.level_sizes(
      full[:, 0], full[:, 1], downscale=downscale, num_levels=num_levels
  )
  pixels = sizes.prod(axis=-1)  # [N, L]
  ends = pixels.cumsum(axis=1)
  totals = ends[:, -1]
  masked = np.array([p is not None for p in scene.photos.mask_paths], np.int64)
  used = (totals * (3 + masked)).cumsum()
  fits = used <= cache_gb * 1e9
  starts = totals.cumsum() - totals
  return Layout(
      full_sizes=full.astype(np.int64),
      sizes=sizes.astype(np.int32),
      offsets=np.where(fits, starts, -1),
      level_offsets=ends - pixels,
      num_pixels=int(totals[fits].sum()),
      downscale=float(downscale),
      num_levels=num_levels,
  )


def open_or_build(scene, layout: Layout, cache_dir, *, show_progress: bool):
  """The folder of a complete cache, built where there is none that fits.

  Args:
    scene: N photos.
    layout: of the cache.
    cache_dir: folder of caches.
    show_progress: draw a progress bar.

  Returns:
    (folder, reasons, masked): per photo the reason why it is damaged or None,
    and whether some of its pixels do not count.
  """
  stamp = _stamp(scene, layout)
  paths = [state and state[0] for state in stamp['files']]
  key = hashlib.sha256(
      json.dumps([stamp['options'], paths]).encode()
  ).hexdigest()[:16]
  digest = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()
  folder = cache_dir / f'pyramid-{key}'
  try:
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / f'pyramid-{key}.lock'):
      content = _complete(folder, digest, layout)
      if content is None:
        content = _build(scene, layout, folder, digest, show_progress)
  except OSError as error:
    raise errors.InputError(
        f'{cache_dir}: got {error.strerror or error}, expected a folder that '
        'can be written and has room (config.data.cache_gb is its limit)'
    ) from None
  return folder, content['reasons'], content['masked']


def _stamp(scene, layout: Layout) -> dict:
  """What the cache depends on: options, names, sizes and times of files."""

  def state(path):
    if path is None:
      return None
    try:
      status = path.stat()
    except OSError:
      return [str(path), 'absent']
    return [str(path), status.st_size, status.st_mtime_ns]

  photos = scene.photos
  return {
      'options': [_VERSION, layout.downscale, layout.num_levels],
      'files': [state(path) for path in photos.paths],
      'masks': [state(path) for path in photos.mask_paths],
      'offsets': layout.offsets.tolist(),
      'sizes': layout.full_sizes.tolist(),
  }


@contextlib.contextmanager
def _locked(path: pathlib.Path):
  """Holds a lock file, so that two runs do not build the same cache."""
  with open(path, 'w') as file:
    if fcntl is not None:
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _complete(folder: pathlib.Path, digest: str, layout: Layout):
  """The stamp of a finished cache of these inputs, else None."""
  try:
    content = json.loads((folder / 'stamp.json').read_text())
    sizes = [(folder / n).stat().st_size for n in ('rgb.u8', 'valid.u8')]
  except (OSError, ValueError):
    return None
  whole = sizes == [3 * layout.num_pixels, layout.num_pixels]
  return content if whole and content.get('digest') == digest else None


def _build(scene, layout, folder: pathlib.Path, digest: str, show_progress):
  """Decodes what the journal of an earlier attempt does not hold yet."""
  partial = folder.with_name(folder.name + '.partial')
  done = _read_journal(partial, digest)
  if done is None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    done = {}
    _append(partial / 'journal', [digest])
  for name, channels in (('rgb.u8', 3), ('valid.u8', 1)):
    with open(partial / name, 'ab') as file:
      file.truncate(channels * layout.num_pixels)
  todo = [row for row in range(len(scene.photos.names)) if row not in done]
  _decode_all(scene, layout, partial, todo, done, show_progress)
  rows = range(len(scene.photos.names))
  content = {
      'digest': digest,
      'reasons': [done[row][0] for row in rows],
      'masked': [done[row][1] for row in rows],
  }
  stamp = partial / 'stamp.json'
  stamp.write_text(json.dumps(content))
  _sync(stamp)
  shutil.rmtree(folder, ignore_errors=True)
  partial.rename(folder)
  (folder / 'journal').unlink(missing_ok=True)
  return content


def _read_journal(partial: pathlib.Path, digest: str):
  """{row: (reason, masked)} of photos on disk; None: nothing to trust."""
  try:
    lines = (partial / 'journal').read_text().split('\n')
  except (OSError, ValueError):
    return None
  if lines[0] != json.dumps(digest):
    return None
  done = {}
  for line in lines[1:-1]:  # a line without its end was being written
    try:
      row, reason, masked = json.loads(line)
    except (ValueError, TypeError):
      break
    done[row] = (reason, masked)
  return done


def _append(path: pathlib.Path, records) -> None:
  with open(path, 'a') as file:
    file.writelines(json.dumps(record) + '\n' for record in records)
    file.flush()
    os.fsync(file.fileno())


def _sync(path: pathlib.Path) -> None:
  with open(path, 'rb') as file:
    os.fsync(file.fileno())


def _decode_all(scene, layout, partial, todo, done, show_progress) -> None:
  """Decodes photos in threads; pixels reach the disk before the journal."""
  pending = []
  with (
      open(partial / 'rgb.u8', 'r+b') as rgb_file,
      open(partial / 'valid.u8', 'r+b') as valid_file,
      concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool,
      _progress(len(todo), show_progress) as advance,
  ):

    def flush():
      os.fsync(rgb_file.fileno())
      os.fsync(valid_file.fileno())
      _append(partial / 'journal', pending)
      pending.clear()

    rows = iter(todo)
    running = collections.deque()
    try:
      while True:
        while (
            len(running) < _IN_FLIGHT and (row := next(rows, None)) is not None
        ):
          job = pool.submit(
              _store, scene, layout, row, rgb_file.fileno(), valid_file.fileno()
          )
          running.append((row, job))
        if not running:
          break
        row, job = running.popleft()
        done[row] = job.result()
        pending.append([row, *done[row]])
        advance()
        if len(pending) >= _SYNC_EVERY:
          flush()
    finally:
      for _, job in running:
        job.cancel()
    flush()


def _store(scene, layout, row: int, rgb_fd: int, valid_fd: int):
  """Decodes one photo into the cache: (reason or None, has a mask)."""
  path, mask_path = scene.photos.paths[row], scene.photos.mask_paths[row]
  size = tuple(int(n) for n in layout.full_sizes[row])
  try:
    if layout.offsets[row] < 0:
      decode.verify(path, mask_path, size)
      return None, False
    photo = decode.decode(
        path,
        mask_path,
        size,
        downscale=layout.downscale,
        num_levels=layout.num_levels,
    )
  except decode.DamagedPhoto as error:
    return str(error), False
  for level in range(layout.num_levels):
    start = int(layout.offsets[row] + layout.level_offsets[row, level])
    _write_at(rgb_fd, photo.rgb[level], 3 * start)
    if photo.valid is not None:
      _write_at(valid_fd, photo.valid[level], start)
  return None, photo.valid is not None


def _write_at(fd: int, array, offset: int) -> None:
  """Writes all bytes of an array; one call may write fewer."""
  view = (
      memoryview(np.ascontiguousarray(array)).cast('B') if array.size else b''
  )
  while len(view):
    written = os.pwrite(fd, view, offset)
    view, offset = view[written:], offset + written


@contextlib.contextmanager
def _progress(total: int, show: bool):
  """Yields a function that advances a progress bar by one photo."""
  if not show or total == 0:
    yield lambda: None
    return
  with rich_progress.Progress(
      rich_progress.TextColumn('decoding photos'),
      rich_progress.BarColumn(),
      rich_progress.MofNCompleteColumn(),
      rich_progress.TimeRemainingColumn(),
  ) as bar:
    task = bar.add_task('photos', total=total)
    yield lambda: bar.advance(task)
