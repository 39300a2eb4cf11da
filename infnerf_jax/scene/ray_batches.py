"""Batches of training rays: batch k is a pure function of (seed, k).

A ray is a pixel of some pyramid level. The level is drawn by its share, the
pixel uniformly over all pixels of that level, so large photos get more rays.
Photos that the cache has no room for take turns: during a window of steps a
few of them, the next ones of a shuffled round, stand for all of them with
their joint weight, and the next window's photos are decoded meanwhile.
"""

import collections
import concurrent.futures
import dataclasses
import time
from typing import Callable, NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import pyramid as pyramid_lib

# Philox keys of windows; steps never reach them.
_WINDOW_KEY = 2**63
# Of the colour range: a smooth pixel's chance beside a detailed one's.
_DETAIL_FLOOR = 0.03


@dataclasses.dataclass(frozen=True)
class BatchOptions:
  """How rays are drawn.

  Attributes:
    num_rays: rays per batch.
    pyramid_ray_share: weight of each pyramid level, any positive scale; levels
      beyond its length get none, weights beyond the pyramid count for nothing.
    seed: of the batches.
    window_steps: steps that the same photos on demand are used for.
    window_photos: most photos on demand in a window; fewer where the memory
      for decoded photos does not hold two windows.
    point_ray_share: share of the rays that go through sparse points, where
      there are observations.
    detail_candidates: pixels that compete to be a ray, the likelier the more
      they differ from the next coarser pyramid level; 1: all alike.
  """

  num_rays: int = 4096
  pyramid_ray_share: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
  seed: int = 0
  window_steps: int = 256
  window_photos: int = 16
  point_ray_share: float = 0.0
  detail_candidates: int = 1


class RayBatch(NamedTuple):
  """R pixels with what their photos say.

  Attributes:
    photo_idx: [R] int32, rows of the pyramid.
    pix: [R, 2] float32, the pixel's centre in full-size pixel coordinates.
    pixel_size: [R] float32, the pixel's width in full-size pixels.
    pyramid_level: [R] int32.
    rgb: [R, 3] float32 in [0, 1], encoded as in the photo.
    valid: [R] bool, false where a mask leaves the pixel out.
    distance: [R] float32, metres from the camera to the sparse point that the
      ray goes through, 0 where it goes through none.
    ends_in: [R] int32, node in which a focus takes the ray to end, -1 without
      a focus.
  """

  photo_idx: np.ndarray
  pix: np.ndarray
  pixel_size: np.ndarray
  pyramid_level: np.ndarray
  rgb: np.ndarray
  valid: np.ndarray
  distance: np.ndarray
  ends_in: np.ndarray


def _generator(seed: int, stream: int) -> np.random.Generator:
  key = np.array([seed % 2**64, stream], np.uint64)
  return np.random.Generator(np.random.Philox(key=key))


def window_rows(pyramid, photo_rows, options: BatchOptions, window: int):
  """Photos on demand that a window of steps uses.

  Args:
    pyramid: PhotoPyramid.
    photo_rows: [M] rows of the training photos.
    options: BatchOptions.
    window: number of the window, step // window_steps.

  Returns:
    Increasing rows; empty where all photos are in the cache.
  """
  photo_rows = np.asarray(photo_rows)
  rows = photo_rows[pyramid.offsets[photo_rows] < 0]
  if not len(rows):
    return rows
  pixels = pyramid.sizes[rows].astype(np.int64).prod(axis=-1).sum(axis=-1)
  # A decoded pixel takes three bytes and one of mask; two windows are held.
  room = pyramid.on_demand.max_bytes // (8 * int(pixels.max()))
  count = max(1, min(options.window_photos, room, len(rows)))
  first = window * count
  chosen = []
  for turn in range(first // len(rows), (first + count - 1) // len(rows) + 1):
    order = _generator(options.seed, _WINDOW_KEY + turn).permutation(rows)
    start = turn * len(rows)
    chosen.append(order[max(0, first - start) : first + count - start])
  return np.unique(np.concatenate(chosen))


def _probabilities(pyramid, photo_rows, options: BatchOptions, window: int):
  """Rows in play and the ends [L * n] of their shares of [0, 1)."""
  photo_rows = np.asarray(photo_rows)
  rows, weights = photo_rows, _num_pixels(pyramid, photo_rows)
  turn = window_rows(pyramid, photo_rows, options, window)
  if len(turn):
    cached = pyramid.offsets[photo_rows] >= 0
    on_demand = weights[~cached].sum(axis=0)  # [L]
    mine = _num_pixels(pyramid, turn)
    mine *= on_demand / np.maximum(mine.sum(axis=0), 1)
    rows = np.concatenate([photo_rows[cached], turn])
    weights = np.concatenate([weights[cached], mine])
  totals = weights.sum(axis=0)
  share = np.zeros(pyramid.sizes.shape[1])
  given = np.asarray(options.pyramid_ray_share, np.float64)
  share[: len(given)] = given[: len(share)]
  if (share < 0).any() or not np.isfinite(share).all() or not share.any():
    raise errors.InputError(
        f'pyramid_ray_share: got {given.tolist()}, expected weights >= 0, '
        'not all zero'
    )
  if (totals[share > 0] <= 0).any():
    raise errors.InputError(
        f'pyramid_ray_share: got {given.tolist()}, expected 0 for levels '
        'without pixels (lower num_pyramid_levels or downscale)'
    )
  scale = share / share.sum() / np.maximum(totals, 1)
  ends = (weights * scale).T.reshape(-1).cumsum()
  return rows, ends / ends[-1]


def _num_pixels(pyramid, rows) -> np.ndarray:
  """[n, L] float64."""
  sizes = pyramid.sizes[rows].astype(np.float64)
  return sizes[..., 0] * sizes[..., 1]


def sample_batch(
    pyramid: pyramid_lib.PhotoPyramid,
    photo_rows,
    options: BatchOptions,
    step: int,
    observations: observations_lib.Observations | None = None,
    focus: focus_lib.Focus | None = None,
) -> RayBatch:
  """The batch of a step.

  Args:
    pyramid: photos.
    photo_rows: [M] rows of the training photos.
    options: BatchOptions.
    step: number of the step, from 0.
    observations: where the photos see sparse points.
    focus: what to look at more than at other things.

  Returns:
    RayBatch of `options.num_rays` rays.
  """
  window = step // options.window_steps
  entries = focus_lib.Entries(
      *_probabilities(pyramid, photo_rows, options, window)
  )
  rows = entries.rows
  if focus is not None:
    entries = focus.entries(pyramid, entries, window)
  if len(rows) and (pyramid.offsets[rows] < 0).any():
    pyramid.on_demand.prefetch(
        window_rows(pyramid, photo_rows, options, window + 1)
    )
  generator = _generator(options.seed, step)
  draw = generator.random(options.num_rays)
  photo_idx, level, x, y = _draw_pixels(pyramid, entries, draw)
  if options.detail_candidates > 1:
    photo_idx, x, y = _detailed_pixels(
        pyramid, entries, level, options.detail_candidates, generator
    )
  distance = np.zeros(options.num_rays, np.float32)
  ends_in = np.full(options.num_rays, -1, np.int32)
  if focus is not None:
    ends_in = focus.ends_in(pyramid, photo_idx, level, x, y)
  num_points = round(options.point_ray_share * options.num_rays)
  if observations is not None and num_points:
    here = slice(0, num_points)
    # Levels stay as they were drawn: every node level learns where it ends.
    points = _draw_points(
        pyramid, rows, observations, draw[here], level[here], focus
    )
    if points is not None:
      photo_idx[here], x[here], y[here], row = points
      distance[here] = observations.distance[row]
      if focus is not None:
        ends_in[here] = focus.sightings_end_in(row, level[here])
  rgb, valid = pyramid_lib.gather(pyramid, photo_idx, level, x, y)
  side = pyramid.downscale * np.exp2(level)
  pix = (np.stack([x, y], axis=-1) + 0.5) * side[:, None]
  return RayBatch(
      photo_idx=photo_idx.astype(np.int32),
      pix=pix.astype(np.float32),
      pixel_size=side.astype(np.float32),
      pyramid_level=level.astype(np.int32),
      rgb=rgb.astype(np.float32) / np.float32(255),
      valid=valid,
      distance=distance,
      ends_in=ends_in,
  )


def _draw_pixels(pyramid, entries, draw):
  """(photo, level, x, y), each [R], that draws in [0, 1) fall on."""
  ends, grid = entries.ends, entries.grid
  entry = np.searchsorted(ends, draw, side='right')
  start = np.where(entry > 0, ends[entry - 1], 0.0)
  inside = (draw - start) / (ends[entry] - start)
  level, part = np.divmod(entry, entries.num_parts)
  nth, cell = np.divmod(part, grid * grid)
  photo_idx = entries.rows[nth]
  sizes = pyramid.sizes[photo_idx, level].astype(np.int64)
  down, across = np.divmod(cell, grid)
  left, right = focus_lib.cell_edges(sizes[:, 0], grid, across)
  top, bottom = focus_lib.cell_edges(sizes[:, 1], grid, down)
  width, area = right - left, (right - left) * (bottom - top)
  # Rounding may carry the last draw of an interval past its end.
  pixel = np.minimum((inside * area).astype(np.int64), area - 1)
  y, x = np.divmod(pixel, width)
  return photo_idx, level, left + x, top + y


def _detailed_pixels(pyramid, entries, level, num_candidates, generator):
  """(photo, x, y) of rays of given levels, more of them where detail is.

  Resampled importance sampling: of a few pixels drawn uniformly one is kept
  with a chance in proportion to its detail. Smooth pixels are learned early;
  the rays go where an octave's detail is still to be learned.
  """
  wide = np.repeat(level, num_candidates)
  each = entries.num_parts
  bounds = np.concatenate([[0.0], entries.ends[each - 1 :: each]])  # of levels
  lower, upper = bounds[wide], bounds[wide + 1]
  draw = lower + generator.random(len(wide)) * (upper - lower)
  # Rounding may carry a draw past its level.
  draw = np.clip(draw, lower, np.nextafter(upper, 0))
  photo_idx, _, x, y = _draw_pixels(pyramid, entries, draw)
  detail = _detail(pyramid, photo_idx, wide, x, y) + _DETAIL_FLOOR
  share = detail.reshape(len(level), num_candidates).cumsum(axis=1)
  pick = generator.random((len(level), 1)) * share[:, -1:]
  chosen = np.argmax(pick < share, axis=1)
  chosen += np.arange(len(level)) * num_candidates
  return photo_idx[chosen], x[chosen], y[chosen]


def _detail(pyramid, photo_idx, level, x, y):
  """[R] how far pixels are from the coarser level's, of the colour range."""
  coarser = np.minimum(level + 1, pyramid.sizes.shape[1] - 1)
  size = pyramid.sizes[photo_idx, coarser].astype(np.int64)
  down = coarser - level
  above = np.minimum(np.stack([x >> down, y >> down], axis=-1), size - 1)
  fine, valid = pyramid_lib.gather(pyramid, photo_idx, level, x, y)
  coarse, _ = pyramid_lib.gather(pyramid, photo_idx, coarser, *above.T)
  difference = fine.astype(np.float32) - coarse.astype(np.float32)
  return np.abs(difference).mean(axis=-1) / 255 * valid


def _draw_points(pyramid, rows, observations, draw, level, focus=None):
  """(photo, x, y, row) of the sightings that draws fall on, or None.

  The ray goes through the centre of the pixel that holds the point: half a
  pixel beside it, which its distance does not feel.
  """
  counts = np.diff(observations.offsets)[rows]
  ends = np.cumsum(counts)
  if not len(ends) or ends[-1] == 0:
    return None
  # Draws decided the levels: their lower digits are independent of these.
  draw = draw * 4096 % 1
  if focus is not None:
    row = focus.sightings(observations, rows, level, draw)
    photo_idx = np.searchsorted(observations.offsets, row, side='right') - 1
  else:
    nth = np.minimum((draw * ends[-1]).astype(np.int64), ends[-1] - 1)
    entry = np.searchsorted(ends, nth, side='right')
    photo_idx = rows[entry]
    row = observations.offsets[photo_idx] + nth - (ends[entry] - counts[entry])
  size = pyramid.sizes[photo_idx, level].astype(np.int64)
  side = pyramid.downscale * np.exp2(level)
  pixel = (observations.pix[row] / side[:, None]).astype(np.int64)
  x, y = np.minimum(pixel, size - 1).T
  return photo_idx, x, y, row


class Prefetcher:
  """Makes batches k, k + 1, ... in the background, a bounded number ahead.

  An exception of `make_batch` is raised by the `next` that would have
  returned its batch. Use as a context manager, or call `close`.
  """

  def __init__(
      self,
      make_batch: Callable[[int], object],
      first_step: int,
      *,
      num_ahead: int = 4,
      num_threads: int = 1,
  ):
    """Starts at once.

    Args:
      make_batch: batch of a step.
      first_step: number of the first one.
      num_ahead: batches that wait or are being made, at least 1.
      num_threads: that make them.
    """
    self._make_batch = make_batch
    self._pool = concurrent.futures.ThreadPoolExecutor(
        num_threads, thread_name_prefix='batches'
    )
    self._next_step = first_step
    self._queue = collections.deque()
    self._started = None
    self.seconds_waited = 0.0
    for _ in range(max(1, num_ahead)):
      self._submit()

  def _submit(self) -> None:
    job = self._pool.submit(self._make_batch, self._next_step)
    self._queue.append(job)
    self._next_step += 1

  def __iter__(self):
    return self

  def __next__(self):
    if not self._queue:
      raise StopIteration
    begin = time.perf_counter()
    try:
      batch = self._queue.popleft().result()
    except BaseException:
      self.close()
      raise
    end = time.perf_counter()
    if self._started is None:
      # The first batch has had no step to hide behind.
      self._started = end
    else:
      self.seconds_waited += end - begin
    self._submit()
    return batch

  def wait_share(self) -> float:
    """Share of the time since the first batch that was spent waiting."""
    if self._started is None:
      return 0.0
    elapsed = time.perf_counter() - self._started
    return self.seconds_waited / elapsed if elapsed > 0 else 0.0

  def close(self) -> None:
    """Stops: batches not begun are dropped, threads end."""
    self._queue.clear()
    self._pool.shutdown(wait=True, cancel_futures=True)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()
