"""XYZ web tiles (z/x/y.png, Web Mercator) of a finished map.

Tiles of the finest zoom are as fine as the map; those above are the means of
their four children, so each zoom is as free of aliasing as the map.
"""

import json
import math
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import rasterio
import rasterio.vrt
import rasterio.warp
from PIL import Image
from rasterio.enums import Resampling

from infnerf_jax import errors, json_files

SIZE = 256
INDEX = 'tiles.json'
_STAMP = 'stamp.json'
# Half the circumference of the sphere that Web Mercator is drawn on, metres.
_HALF = math.pi * 6378137.0
_CRS = 'EPSG:3857'


def check_folder(folder) -> pathlib.Path:
  """The folder of tiles that can be made.

  Raises:
    InputError: it holds something, or cannot be written.
  """
  folder = pathlib.Path(folder)
  try:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
      raise errors.InputError(
          f'--xyz: {folder}: got something that is there already, expected a'
          ' new folder'
      )
    folder.parent.mkdir(parents=True, exist_ok=True)
    probe = folder.with_name(f'.{folder.name}.{os.getpid()}.part')
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise errors.InputError(
        f'--xyz: {folder}: got {error.strerror}, expected a folder that can be'
        ' written'
    ) from None
  return folder


def tile_bounds(zoom: int, x: int, y: int) -> tuple[float, ...]:
  """West, south, east, north of a tile, metres of Web Mercator."""
  side = 2 * _HALF / 2**zoom
  west, north = -_HALF + x * side, _HALF - y * side
  return west, north - side, west + side, north


def finest_zoom(bounds, gsd: float) -> int:
  """The coarsest zoom whose pixels are no larger than a map's.

  Args:
    bounds: west, south, east, north of the map, metres of Web Mercator.
    gsd: metres on the ground a pixel.

  Returns:
    int.
  """
  middle = 0.5 * (bounds[1] + bounds[3]) / _HALF * math.pi
  # Web Mercator's metres are longer than the ground's: by 1 / cos(latitude).
  shrink = 1 / math.cosh(middle)
  zoom = math.log2(2 * _HALF / SIZE * shrink / gsd)
  return max(0, math.ceil(zoom - 1e-9))


def _parent(children) -> np.ndarray | None:
  """Mean of four tiles [256, 256, 4] or None, weighted by what they show."""
  if all(child is None for child in children):
    return None
  whole = np.zeros((2 * SIZE, 2 * SIZE, 4), np.float32)
  for child, (row, column) in zip(children, np.ndindex(2, 2), strict=True):
    if child is not None:
      part = np.s_[row * SIZE : (row + 1) * SIZE]
      whole[part, column * SIZE : (column + 1) * SIZE] = child
  whole[..., :3] *= whole[..., 3:] / 255
  mean = whole.reshape(SIZE, 2, SIZE, 2, 4).mean(axis=(1, 3))
  shown = np.maximum(mean[..., 3:] / 255, 1e-6)
  mean[..., :3] = np.where(mean[..., 3:] > 0, mean[..., :3] / shown, 0)
  return np.round(np.clip(mean, 0, 255)).astype(np.uint8)


class _Pyramid:
  """Makes tiles from the finest upwards, depth first: a column in memory."""

  def __init__(self, source, folder, bounds, zoom: int):
    self._source, self._folder = source, folder
    self._bounds, self._zoom = bounds, zoom

  def make(self, zoom: int, x: int, y: int) -> np.ndarray | None:
    """A tile and all below it; None where the map shows nothing."""
    west, south, east, north = tile_bounds(zoom, x, y)
    if (
        west >= self._bounds[2] or east <= self._bounds[0]
        or south >= self._bounds[3] or north <= self._bounds[1]
    ):  # fmt: skip
      return None
    path = self._folder / str(zoom) / str(x) / f'{y}.png'
    if path.is_file():  # With all below it: parents come last.
      with Image.open(path) as image:
        return np.asarray(image)
    if zoom == self._zoom:
      pixels = self._read(west, south, east, north)
    else:
      corner = zoom + 1, 2 * x, 2 * y
      pixels = _parent(
          [
              self.make(corner[0], corner[1] + column, corner[2] + row)
              for row, column in np.ndindex(2, 2)
          ]
      )
    if pixels is None:
      return None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.part')
    Image.fromarray(pixels).save(partial, 'PNG')
    os.replace(partial, path)
    return pixels

  def _read(self, west, south, east, north):
    """The map's pixels of a tile."""
    transform = rasterio.Affine(
        (east - west) / SIZE, 0.0, west, 0.0, (south - north) / SIZE, north
    )
    with rasterio.vrt.WarpedVRT(
        self._source, crs=_CRS, transform=transform, width=SIZE, height=SIZE,
        resampling=Resampling.bilinear,
    ) as warped:  # fmt: skip
      pixels = np.moveaxis(warped.read(), 0, -1)
    return pixels if pixels[..., 3].any() else None


def write_tiles(tdom, folder) -> dict[str, Any]:
  """Makes the tiles of an orthophoto; the same call goes on after a kill.

  Args:
    tdom: FILE.tif of `orthophoto.write_map`.
    folder: to make; until it is complete it is called FOLDER.part.

  Returns:
    What FOLDER/tiles.json says (TileJSON 3.0) and `num_tiles`.

  Raises:
    InputError: a map without a place on Earth, or a folder that is not free.
  """
  tdom, folder = pathlib.Path(tdom), check_folder(folder)
  partial = folder.with_name(f'{folder.name}.part')
  state = tdom.stat()
  stamp = [str(tdom.absolute()), state.st_size, state.st_mtime_ns]
  _take_up(partial, stamp)
  with rasterio.open(tdom) as source:
    check_crs(source.crs)
    degrees = rasterio.warp.transform_bounds(
        source.crs, 'EPSG:4326', *source.bounds
    )
    bounds = rasterio.warp.transform_bounds(source.crs, _CRS, *source.bounds)
    zoom = finest_zoom(bounds, source.res[0])
    pyramid = _Pyramid(source, partial, bounds, zoom)
    coarsest, x, y = _common_tile(bounds, zoom)
    pyramid.make(coarsest, x, y)
  index = {
      'tilejson': '3.0.0',
      'name': tdom.stem,
      'tiles': ['{z}/{x}/{y}.png'],
      'minzoom': coarsest,
      'maxzoom': zoom,
      'bounds': list(degrees),
  }
  (partial / _STAMP).unlink()
  json_files.write_json_atomic(partial / INDEX, index)
  if folder.is_dir():
    folder.rmdir()
  os.replace(partial, folder)
  return {**index, 'num_tiles': len(list(folder.glob('*/*/*.png')))}


def check_crs(crs) -> None:
  """Refuses a map of local coordinates (None, or one without a projection)."""
  if crs is None or not (crs.is_projected or crs.is_geographic):
    raise errors.InputError(
        '--xyz: got a map without a place on Earth, expected a scene with one,'
        ' or --crs'
    )


def _take_up(partial: pathlib.Path, stamp) -> None:
  """Keeps the tiles of the same map; throws another's away."""
  try:
    known = json.loads((partial / _STAMP).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    known = None
  if known != stamp:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    json_files.write_json_atomic(partial / _STAMP, stamp)


def _common_tile(bounds, finest: int) -> tuple[int, int, int]:
  """The finest tile that holds all of a map: (zoom, x, y)."""
  west, south, east, north = bounds
  for zoom in range(finest, 0, -1):
    side = 2 * _HALF / 2**zoom
    x, y = int((west + _HALF) // side), int((_HALF - north) // side)
    right, _, _, _ = tile_bounds(zoom, x + 1, y)
    _, bottom, _, _ = tile_bounds(zoom, x, y)
    if east <= right and south >= bottom:
      return zoom, x, y
  return 0, 0, 0
