"""Pictures of a map."""

import numpy as np
from PIL import Image

from infnerf_jax.accuracy import exact_pixels
from infnerf_jax.products import map_preview, orthophoto
from tests.products import orthophoto_test


def test_previews_show_the_map(tmp_path):
  job = orthophoto.plan_map(
      exact_pixels.CityPixels(72.0, reach=60.0), orthophoto_test._LOCAL,
      gsd=0.5, bounds=(-40, -30, 30, 30),
  )  # fmt: skip
  out = tmp_path / 'a.tif'
  orthophoto.write_map(job, out, show_progress=False)
  colors, shades = (
      np.asarray(Image.open(path)) for path in map_preview.write_preview(out)
  )
  assert colors.shape == shades.shape == (120, 140, 3)
  # 10 m of nothing in the west.
  for picture in (colors, shades):
    np.testing.assert_array_equal(picture[:, :20], 255)
    assert picture[:, 20:].std() > 10


def test_slopes_to_the_north_west_are_bright():
  across = np.arange(40.0)
  rise = np.minimum(across, 39 - across)[None].repeat(40, 0)
  picture = map_preview.shaded(rise, 1.0).astype(float).mean(axis=-1)
  assert picture[20, 5] > picture[20, 34] + 10
  np.testing.assert_array_equal(
      map_preview.shaded(np.full((3, 3), np.nan), 1.0), 255
  )
