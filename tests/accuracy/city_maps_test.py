"""What accuracy is measured by must see errors that are put in."""

import numpy as np
import pytest

from infnerf_jax.accuracy import city_maps, exact_pixels, map_reading, suite
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import orthophoto

_GSD = 0.3
_LOCAL = map_frame.make_frame(
    {'offset': np.zeros(3), 'rotation': np.eye(3), 'coordinate_system': 'x'}
)


class _Wrong(exact_pixels.CityPixels):
  """The city, raised by `up` metres, `aside` metres to the east."""

  def __init__(self, up=0.0, aside=0.0, lean=0.0):
    super().__init__(72.0)
    self.up, self.aside, self.lean = up, aside, lean

  def render(self, camera):
    pose = camera.cam_to_world.copy()
    pose[0, 3] -= self.aside
    maps = super().render(camera._replace(cam_to_world=pose))
    return maps._replace(distance=maps.distance - self.up)


def _measured(tmp_path, **errors):
  pixels = _Wrong(**errors)
  job = orthophoto.plan_map(pixels, _LOCAL, gsd=_GSD, bounds=(-30, -30, 30, 30))
  out = tmp_path / 'a.tif'
  report = orthophoto.write_map(job, out, show_progress=False)
  truth = city_maps.exact(pixels.city, -30, 30, _GSD / 2, 400)
  return city_maps._compare(out, truth, 1.0, _GSD, report)


def test_the_city_itself_has_no_errors(tmp_path):
  found = _measured(tmp_path)
  assert found['psnr'] > 26  # one ray a pixel against its mean
  for kind in ('roofs', 'streets'):
    assert found[kind]['height']['count'] > 50
    # Half a pixel of the truth aside on a slope.
    assert found[kind]['height']['median'] < 0.08
    assert found[kind]['horizontal']['median'] < 0.15 * _GSD
    assert found[kind]['without_height'] == 0
  assert abs(found['roofs']['lean']) < 0.01
  assert found['roof_overlap'] > 0.95


@pytest.mark.parametrize('up, aside', [(0.7, 0.0), (0.0, 0.45)])
def test_errors_are_found(tmp_path, up, aside):
  found = _measured(tmp_path, up=up, aside=aside)
  for kind in ('roofs', 'streets'):
    if up:
      assert found[kind]['height_bias'] == pytest.approx(up, abs=0.05)
    assert found[kind]['horizontal_bias'] == pytest.approx(
        [aside, 0.0], abs=0.06
    )


def test_leaning_roofs_are_found():
  rng = np.random.default_rng(0)
  sides = rng.normal(0, 20, (60, 2))
  heights = rng.uniform(3, 20, 60)
  outwards = sides / np.linalg.norm(sides, axis=-1, keepdims=True)
  lean = city_maps._lean(0.3 * heights[:, None] * outwards, heights, sides)
  assert lean == pytest.approx(0.3)


def test_rows_say_what_is_promised():
  point = {'count': 9, 'median': 0.5, 'p90': 1.0}
  kind = {'height': point, 'horizontal': point, 'lean': 0.0}
  one = {
      'factor': 1.0, 'gsd': 0.3, 'pixels': 9, 'shown': 1.0, 'psnr': 30.0,
      'psnr_of_one_ray': 29.0, 'roofs': kind, 'streets': kind,
      'roof_overlap': 0.9,
  }  # fmt: skip
  rows = suite.city_rows({'photo_gsd': 0.3, 'maps': [one]})
  failed = [row.name for row in rows if row.passed is False]
  assert len(failed) == 4 and all('error' in name for name in failed)


def test_pieces_of_a_map(tmp_path):
  _measured(tmp_path)
  whole = map_reading.read(tmp_path / 'a.tif')
  part = map_reading.read(tmp_path / 'a.tif', (-5.0, 1.0, 4.0, 10.0))
  assert part.left <= -5.0 < part.left + _GSD and part.rgb.shape[:2] == (31, 31)
  east, north = np.meshgrid([-4.0, 0.0, 3.0], [9.0, 2.0])
  np.testing.assert_array_equal(
      part.heights(east, north), whole.heights(east, north)
  )
  assert np.isnan(part.heights(100.0, 0.0))
