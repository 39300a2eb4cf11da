"""Small pictures of a finished map: the orthophoto, the shaded surface."""

import pathlib

import matplotlib
import numpy as np
import rasterio
from matplotlib import colors
from PIL import Image
from rasterio.enums import Resampling

from infnerf_jax.products import map_files

_SIDE = 1200  # pixels, at most
_EMPTY = 255
# Of heights: a few spikes must not take all the colours.
_PERCENTILES = (1, 99)


def _shape(file) -> tuple[int, int]:
  """(height, width) of a preview."""
  shrink = max(1.0, max(file.width, file.height) / _SIDE)
  return tuple(max(1, round(n / shrink)) for n in (file.height, file.width))


def shaded(height, gsd: float) -> np.ndarray:
  """Heights as colours, lit from the north west.

  Args:
    height: [H, W] metres, NaN where there is none.
    gsd: metres a pixel.

  Returns:
    [H, W, 3] uint8, white where there is no height.
  """
  known = np.isfinite(height)
  if not known.any() or min(height.shape) < 2:
    return np.full((*height.shape, 3), _EMPTY, np.uint8)
  low, high = np.percentile(height[known], _PERCENTILES)
  filled = np.clip(np.where(known, height, low), low, high)
  light = colors.LightSource(azdeg=315, altdeg=45)
  rgb = light.shade(
      filled, matplotlib.colormaps['viridis'], blend_mode='soft',
      vmin=low, vmax=max(high, low + 1e-3), dx=gsd, dy=gsd,
  )[..., :3]  # fmt: skip
  rgb = np.round(255 * rgb).astype(np.uint8)
  rgb[~known] = _EMPTY
  return rgb


def write_preview(tdom) -> list[pathlib.Path]:
  """Writes FILE.png and FILE_dsm.png beside FILE.tif.

  Args:
    tdom: FILE.tif of `orthophoto.write_map`.

  Returns:
    Their paths.
  """
  tdom = pathlib.Path(tdom)
  with rasterio.open(tdom) as file:
    rgba = file.read(
        out_shape=(4, *_shape(file)), resampling=Resampling.average
    )
  picture = np.where(rgba[3:] > 0, rgba[:3], _EMPTY)
  with rasterio.open(map_files.layer_path(tdom, map_files.DSM)) as file:
    shape = _shape(file)
    heights = file.read(
        1, out_shape=shape, resampling=Resampling.average, masked=True
    )
    gsd = file.res[0] * file.width / shape[1]
  pictures = {
      '.png': np.moveaxis(picture, 0, -1),
      '_dsm.png': shaded(heights.filled(np.nan).astype(np.float64), gsd),
  }
  paths = []
  for ending, values in pictures.items():
    paths.append(tdom.with_name(tdom.stem + ending))
    Image.fromarray(np.ascontiguousarray(values)).save(paths[-1])
  return paths
