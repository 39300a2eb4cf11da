"""What rays saw as pictures: colours, levels, depth, scale bars."""

import math

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

# Below this opacity a pixel shows nothing.
_MIN_OPACITY = 0.5
MODES = ('colour', 'level', 'depth', 'opacity')


def to_bytes(rgb) -> np.ndarray:
  """[..., 3] uint8 of float colours, rounded."""
  return np.round(255 * np.clip(rgb, 0.0, 1.0)).astype(np.uint8)


def level_color(level, max_level: int) -> np.ndarray:
  """[..., 3] float colours of octree levels, blue (root) to red."""
  share = 0.1 + 0.8 * np.asarray(level, np.float64) / max(max_level, 1)
  return matplotlib.colormaps['turbo'](np.clip(share, 0, 1))[..., :3]


def depth_limits(distance, opacity) -> tuple[float, float] | None:
  """Logarithms of the distances at the ends of the colours.

  Args:
    distance: [...] metres.
    opacity: [...].

  Returns:
    (near, far), None where nothing is seen.
  """
  distance = np.asarray(distance, np.float64)
  known = np.isfinite(distance) & (distance > 0) & (opacity >= _MIN_OPACITY)
  if not known.any():
    return None
  low, high = np.percentile(np.log(distance[known]), [2, 98])
  return float(low), float(high)


def paint(
    mode: str, image, *, max_level: int, limits: tuple[float, float] | None
) -> np.ndarray:
  """A rendered picture in a mode.

  Args:
    mode: one of `MODES`.
    image: ImageOutputs with rgb, distance, opacity and level.
    max_level: of the tree.
    limits: see `depth_limits`.

  Returns:
    [H, W, 3] uint8.
  """
  if mode == 'colour':
    return to_bytes(image.rgb)
  shown = np.asarray(image.opacity)[..., None] >= _MIN_OPACITY
  if mode == 'level':
    # The picture's light and dark stay: levels are seen on what they show.
    grey = np.mean(image.rgb, axis=-1, keepdims=True)
    colors = level_color(image.level, max_level) * (0.35 + 0.65 * grey)
  elif mode == 'depth':
    low, high = limits or (0.0, 1.0)
    value = np.log(np.maximum(np.asarray(image.distance, np.float64), 1e-9))
    share = np.clip((high - value) / max(high - low, 1e-6), 0, 1)
    colors = matplotlib.colormaps['turbo'](share)[..., :3]
  elif mode == 'opacity':
    return to_bytes(np.repeat(np.asarray(image.opacity)[..., None], 3, -1))
  else:
    raise ValueError(f'mode: got {mode!r}, expected one of {MODES}')
  return to_bytes(np.where(shown, colors, 0.0))


def enlarge(picture, width: int, height: int) -> np.ndarray:
  """A picture [H, W, 3] uint8 at another size, smoothly."""
  if picture.shape[:2] == (height, width):
    return picture.copy()
  resized = Image.fromarray(picture).resize(
      (width, height), Image.Resampling.BILINEAR
  )
  return np.array(resized)


def shrink(picture, width: int, height: int) -> np.ndarray:
  """A picture [H, W, 3] uint8 at a smaller size, area-averaged."""
  resized = Image.fromarray(picture).resize(
      (width, height), Image.Resampling.BOX
  )
  return np.array(resized)


def enlarge_nearest(values, width: int, height: int) -> np.ndarray:
  """Values [H, W] at another size, without any between two of them."""
  rows = (np.arange(height) + 0.5) * values.shape[0] / height
  columns = (np.arange(width) + 0.5) * values.shape[1] / width
  return values[rows.astype(int)[:, None], columns.astype(int)[None]]


def side_by_side(left, right, *, gap: int = 4) -> np.ndarray:
  """Two pictures [H, W, 3] uint8 beside each other, at the right one's size."""
  height, width = right.shape[:2]
  left = enlarge(left, width, height)
  return np.concatenate(
      [left, np.full((height, gap, 3), 255, np.uint8), right], axis=1
  )


def profile_plot(
    along, heights, *, width: int = 360, height: int = 150
) -> np.ndarray:
  """A height profile as a small picture.

  Args:
    along: [N] metres.
    heights: [N] metres, NaN where unknown.
    width: pixels.
    height: pixels.

  Returns:
    [height, width, 3] uint8.
  """
  image = Image.new('RGB', (width, height), 'white')
  draw = ImageDraw.Draw(image)
  heights = np.asarray(heights, np.float64)
  known = np.isfinite(heights)
  left, right, top, bottom = 46, width - 8, 8, height - 20
  draw.line([(left, top), (left, bottom), (right, bottom)], fill='#888')
  if not known.any():
    return np.array(image)
  low, high = heights[known].min(), heights[known].max()
  spare = max(0.05 * (high - low), 1e-6)
  low, high = low - spare, high + spare
  x = left + (right - left) * np.asarray(along) / max(along[-1], 1e-9)
  y = bottom - (bottom - top) * (heights - low) / (high - low)
  pieces = np.split(np.arange(len(x)), np.flatnonzero(~known))
  for piece in pieces:
    piece = [i for i in piece if known[i]]
    if len(piece) > 1:
      draw.line([(x[i], y[i]) for i in piece], fill='#c22', width=2)
  digits = max(0, 1 - math.floor(math.log10(max(high - low, 1e-9))))
  draw.text((2, top), f'{high:.{digits}f}', fill='black')
  draw.text((2, bottom - 10), f'{low:.{digits}f}', fill='black')
  draw.text((left, bottom + 4), '0', fill='black')
  text = f'{along[-1]:.4g} m'
  draw.text((right - 6 * len(text), bottom + 4), text, fill='black')
  return np.array(image)
