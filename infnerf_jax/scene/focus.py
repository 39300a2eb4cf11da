"""Batches that look at some nodes more than at others.

Photos are cut into cells. Of each cell, and of each sighting of a sparse point,
it is known in which node its rays end; a weight by node then gives every ray
its chance beside the one that it has in ordinary batches.
"""

from typing import NamedTuple

import numpy as np


class Entries(NamedTuple):
  """Shares of [0, 1) that parts of photos have, level by level.

  Attributes:
    rows: [n] photos in play.
    ends: [L * n * grid**2] ends of the shares of each pyramid level's photos,
      and of each photo's cells, row by row.
    grid: cells along a photo's sides.
  """

  rows: np.ndarray
  ends: np.ndarray
  grid: int = 1

  @property
  def num_parts(self) -> int:
    """Entries of a pyramid level."""
    return len(self.rows) * self.grid**2


class NodeMaps(NamedTuple):
  """In which node rays end; P photos, L pyramid levels, K sightings.

  Attributes:
    grid: cells along a photo's sides.
    cells: [P, L, grid**2] int32 node of each cell, row by row.
    sightings: [K, L] int32 node of each sighting.
  """

  grid: int
  cells: np.ndarray
  sightings: np.ndarray


class NodePairs(NamedTuple):
  """Where samples fall beside the nodes in which their rays are planned to end.

  Attributes:
    planned: [K] int64 nodes.
    actual: [K] int64 nodes of samples.
    share: [K] float64 of all samples.
  """

  planned: np.ndarray
  actual: np.ndarray
  share: np.ndarray


def cell_edges(size, grid: int, cell):
  """First pixel of a cell of a photo's side, and of the next cell.

  Args:
    size: [...] int64 pixels of the side.
    grid: cells along it.
    cell: [...] int64.
  """
  return -(-cell * size // grid), -(-(cell + 1) * size // grid)


def _cell_shares(sizes, grid):
  """[n, L, grid**2] shares of a photo's pixels in its cells."""
  sizes = sizes.astype(np.int64)[..., None, :]  # [n, L, 1, 2]
  cell = np.arange(grid)[:, None]
  first, last = cell_edges(sizes, grid, cell)
  part = (last - first) / np.maximum(sizes, 1)  # [n, L, grid, 2]
  share = part[..., :, None, 1] * part[..., None, :, 0]
  return share.reshape(share.shape[:2] + (grid * grid,))


class Focus:
  """Weights of rays by node; what it derives from them is kept for a window."""

  def __init__(self, maps: NodeMaps, weight: np.ndarray):
    """Weighs.

    Args:
      maps: in which node rays end.
      weight: [N] float64 >= 0, by node.
    """
    self._maps, self._weight = maps, weight
    self._window, self._entries = None, None
    self._eligible = {}

  def entries(self, pyramid, entries: Entries, window: int) -> Entries:
    """Entries of the same photos, cut into cells and weighed.

    Args:
      pyramid: PhotoPyramid.
      entries: of ordinary batches, one a photo.
      window: a number that is another where the photos in play are others.

    Returns:
      Entries; the given ones where no photo in play has any weight.
    """
    if window != self._window:
      self._window, self._eligible = window, {}
      self._entries = self._weigh(pyramid, entries)
    return self._entries

  def _weigh(self, pyramid, entries):
    num_levels = pyramid.sizes.shape[1]
    share = np.diff(entries.ends, prepend=0.0)
    share = share.reshape(num_levels, len(entries.rows), 1)
    part = _cell_shares(pyramid.sizes[entries.rows], self._maps.grid)
    part = part * self._weight[self._maps.cells[entries.rows]]
    ends = (share * part.swapaxes(0, 1)).reshape(-1).cumsum()
    if not ends[-1] > 0:
      return entries
    return Entries(entries.rows, ends / ends[-1], self._maps.grid)

  def ends_in(self, pyramid, photo_idx, pyramid_level, x, y) -> np.ndarray:
    """[R] int32 nodes in which rays of pixels end.

    Args:
      pyramid: PhotoPyramid.
      photo_idx: [R].
      pyramid_level: [R].
      x: [R] pixels of that level.
      y: [R].
    """
    grid = self._maps.grid
    width, height = pyramid.sizes[photo_idx, pyramid_level].T.astype(np.int64)
    cell = y * grid // height * grid + x * grid // width
    return self._maps.cells[photo_idx, pyramid_level, cell]

  def sightings_end_in(self, row, pyramid_level) -> np.ndarray:
    """[R] int32 nodes in which rays through sightings end."""
    return self._maps.sightings[row, pyramid_level]

  def sightings(self, observations, rows, pyramid_level, draw) -> np.ndarray:
    """Sightings that draws fall on.

    Args:
      observations: Observations, some of photos in play.
      rows: photos in play, those of the last call of `entries`.
      pyramid_level: [R] of the rays.
      draw: [R] in [0, 1).

    Returns:
      [R] int64 rows of the sightings.
    """
    found = np.zeros(len(draw), np.int64)
    for level in np.unique(pyramid_level):
      if level not in self._eligible:
        self._eligible[level] = self._eligible_rows(observations, rows, level)
      row, ends = self._eligible[level]
      mine = pyramid_level == level
      nth = np.searchsorted(ends, draw[mine] * ends[-1], side='right')
      found[mine] = row[np.minimum(nth, len(row) - 1)]
    return found

  def _eligible_rows(self, observations, rows, level):
    """(rows of sightings with a weight, ends of their shares)."""
    in_play = np.zeros(len(observations.offsets) - 1, bool)
    in_play[rows] = True
    in_play = np.repeat(in_play, np.diff(observations.offsets))
    weight = self._weight[self._maps.sightings[:, level]] * in_play
    if not weight.any():
      weight = in_play.astype(np.float64)
    row = np.flatnonzero(weight)
    return row, weight[row].cumsum()
