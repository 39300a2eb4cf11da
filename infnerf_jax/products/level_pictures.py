"""Which octree level each pixel of a picture came from, as files."""

import numpy as np
from PIL import Image, PngImagePlugin

LEVEL_KEY = 'level_scale'
_UNITS = 1000  # of a level


def write_levels(path, level) -> None:
  """Writes the levels that pixels came from as a 16-bit PNG.

  A pixel's value times the scale, which stands in the PNG's text under
  `level_scale`, is the mean octree level of what shows there; the root is 0.

  Args:
    path: file.
    level: [H, W].
  """
  text = PngImagePlugin.PngInfo()
  text.add_text(LEVEL_KEY, repr(1 / _UNITS))
  units = np.round(np.clip(level, 0, 65) * _UNITS)
  Image.fromarray(units.astype(np.uint16)).save(path, pnginfo=text)


def read_levels(path) -> np.ndarray:
  """[H, W] float64 levels from `write_levels`' file."""
  with Image.open(path) as image:
    return np.asarray(image) * float(image.text[LEVEL_KEY])
