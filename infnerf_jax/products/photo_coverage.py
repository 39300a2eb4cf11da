"""How many photos see what a map shows.

A field answers everywhere, also where no photo was taken: what fewer than a
few photos see is its guess, and no part of a map.
"""

import itertools
from typing import Callable

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import lens_range

# As many as a sparse point needs to be believed.
MIN_PHOTOS = 3
_STRIDE = 8  # pixels between places that are looked up
# Pixels along a side of what has one height here: a floating blob, a gap
# between leaves do not hide the ground around them.
_BLOCK = 64
_FIRST = 8  # places along a side of a tile that choose its photos


def surroundings_of(distance, ground: float) -> np.ndarray:
  """How far down the surface lies around pixels, whatever single ones say.

  Args:
    distance: [H, W] metres down; infinite where there is no surface.
    ground: metres, where nothing around has a surface.

  Returns:
    [H, W] medians of blocks, and between them.
  """
  height, width = distance.shape
  known = np.where(np.isfinite(distance), distance, np.nan)
  if not np.isfinite(distance).any():
    return np.full(distance.shape, ground)
  whole = np.nanmedian(known)
  tops, lefts = (np.arange(0, n, _BLOCK) for n in (height, width))
  blocks = np.full((len(tops), len(lefts)), whole)
  for (i, top), (j, left) in itertools.product(
      enumerate(tops), enumerate(lefts)
  ):
    block = known[top : top + _BLOCK, left : left + _BLOCK]
    if np.isfinite(block).any():
      blocks[i, j] = np.nanmedian(block)
  middle = lambda starts, n: np.minimum(starts + _BLOCK // 2, n - 1)
  down = _between(blocks, middle(tops, height), height)
  return _between(down.T, middle(lefts, width), width).T


class PhotoCoverage:
  """Counts photos that see places."""

  def __init__(self, cameras: cameras_lib.Cameras):
    """Projects nothing yet.

    Args:
      cameras: table [P] of the photos.
    """
    self._cameras = cameras
    self._limits = lens_range.undistorted_limits(cameras)

  def _sees(self, row: int, points) -> np.ndarray:
    """[...] bool, which points [..., 3] lie in the picture of a photo."""
    camera = cameras_lib.take(self._cameras, row)
    pix, depth = cameras_lib.project(camera, points)
    return (
        (depth > 0)
        & np.all(pix >= 0, axis=-1)
        & (pix[..., 0] < camera.width)
        & (pix[..., 1] < camera.height)
        & lens_range.within_limits(camera, points, self._limits[row])
    )

  def counts(self, places: Callable[..., np.ndarray], shape) -> np.ndarray:
    """Photos that see the pixels of a picture; nothing hides them.

    Args:
      places: gives the points [h, w, 3], metres, scene, of rows [h] and
        columns [w]; asked for few of them.
      shape: (H, W) of the picture.

    Returns:
      [H, W] float32, between the counts of pixels `_STRIDE` apart.
    """
    height, width = shape
    rows, columns = _spread(height, _STRIDE), _spread(width, _STRIDE)
    coarse = places(rows, columns)
    first = coarse[
        np.ix_(*(_spread(n, max(1, n // _FIRST)) for n in coarse.shape[:2]))
    ]
    counts = np.zeros(coarse.shape[:2], np.float32)
    for row in range(len(self._limits)):
      # Of thousands of photos few see a tile at all.
      if self._sees(row, first).any():
        counts += self._sees(row, coarse)
    down = _between(counts, rows, height)
    return _between(down.T, columns, width).T.astype(np.float32)


def _spread(num: int, stride: int) -> np.ndarray:
  """Rows 0, stride, ... and the last of num."""
  return np.unique(np.append(np.arange(0, num, stride), num - 1))


def _between(values, known, num: int) -> np.ndarray:
  """[num, W] rows between those that are known [K, W], evenly."""
  wanted = np.arange(num)
  after = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
  before = np.maximum(after - 1, 0)
  gap = np.maximum(known[after] - known[before], 1)
  share = np.clip((wanted - known[before]) / gap, 0.0, 1.0)[:, None]
  share = np.where((after == before)[:, None], 1.0, share)
  return values[before] * (1 - share) + values[after] * share
