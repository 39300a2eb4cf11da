"""A finished map as arrays, read as any program reads it: with rasterio."""

import pathlib
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio import windows

from infnerf_jax.products import map_files


class Piece(NamedTuple):
  """A rectangle of a map.

  Attributes:
    left: east coordinate of its left edge, metres.
    top: north coordinate of its upper edge, metres.
    gsd: metres a pixel.
    rgb: [H, W, 3] uint8.
    shown: [H, W] bool, where the map has a colour.
    height: [H, W] float64 metres; NaN where there is none.
  """

  left: float
  top: float
  gsd: float
  rgb: np.ndarray
  shown: np.ndarray
  height: np.ndarray

  def pixel(self, east, north):
    """(column, row) of places, float64; centres of pixels at + 0.5."""
    return (east - self.left) / self.gsd, (self.top - north) / self.gsd

  def heights(self, east, north) -> np.ndarray:
    """[...] metres at places, between pixels by their nearest; NaN outside."""
    column, row = (np.floor(v).astype(int) for v in self.pixel(east, north))
    rows, columns = self.height.shape
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    nearest = np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)
    return np.where(inside, self.height[nearest], np.nan)


def read(path, rectangle=None) -> Piece:
  """Reads FILE.tif and FILE_dsm.tif.

  Args:
    path: FILE.tif.
    rectangle: west, south, east, north in metres; None is all of it. Cut to
      the map, and outwards to whole pixels.

  Returns:
    Piece.
  """
  path = pathlib.Path(path)
  with rasterio.open(path) as file:
    bounds, gsd = file.bounds, file.res[0]
    west, south, east, north = rectangle or tuple(bounds)
    left, right = (
        int(np.clip(f((x - bounds.left) / gsd), 0, file.width))
        for f, x in ((np.floor, west), (np.ceil, east))
    )
    upper, lower = (
        int(np.clip(f((bounds.top - y) / gsd), 0, file.height))
        for f, y in ((np.floor, north), (np.ceil, south))
    )
    window = windows.Window(left, upper, right - left, lower - upper)
    tdom = file.read(window=window)
  with rasterio.open(map_files.layer_path(path, map_files.DSM)) as file:
    height = file.read(1, window=window).astype(np.float64)
    height[height == file.nodata] = np.nan
  return Piece(
      left=bounds.left + left * gsd,
      top=bounds.top - upper * gsd,
      gsd=gsd,
      rgb=np.moveaxis(tdom[:3], 0, -1),
      shown=tdom[3] > 0,
      height=height,
  )
