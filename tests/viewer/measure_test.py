"""Measuring: known lengths, areas and volumes."""

import numpy as np
import pytest

from infnerf_jax.viewer import measure


def _turn(angle):
  c, s = np.cos(angle), np.sin(angle)
  return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_lengths():
  points = [[0, 0, 0], [3, 4, 0], [3, 4, 12]]
  assert measure.length(points) == 17
  assert measure.plan_length(points) == 5
  assert measure.length(points[:1]) == 0


@pytest.mark.parametrize('offset', [0.0, 5.4e6])
def test_area_of_a_tilted_rectangle(offset):
  """4 m x 3 m on a slope of 3:4 covers 4 m x 2.4 m in plan."""
  corners = np.array([[0, 0, 0], [4, 0, 0], [4, 2.4, 1.8], [0, 2.4, 1.8]])
  corners = corners @ _turn(0.7).T + [offset, -offset, 100]
  np.testing.assert_allclose(measure.plan_area(corners), 9.6, rtol=1e-7)
  np.testing.assert_allclose(measure.surface_area(corners), 12, rtol=1e-7)
  # Either way round.
  np.testing.assert_allclose(measure.plan_area(corners[::-1]), 9.6, rtol=1e-7)


def test_area_of_a_shape_with_a_notch():
  """A 3 x 3 square whose upper middle third is cut out: 9 - 1."""
  notch = [[0, 0], [3, 0], [3, 3], [2, 3], [2, 2], [1, 2], [1, 3], [0, 3]]
  corners = np.concatenate([notch, np.zeros((8, 1))], axis=1)
  np.testing.assert_allclose(measure.plan_area(corners), 8)
  assert not measure.crosses_itself(corners)
  x, y = np.meshgrid(np.arange(30) / 10 + 0.05, np.arange(30) / 10 + 0.05)
  within = measure.inside(corners, x, y)
  expected = ~((x > 1) & (x < 2) & (y > 2))
  np.testing.assert_array_equal(within, expected)


def test_bow_ties_are_told():
  bow = [[0, 0, 0], [2, 2, 0], [2, 0, 0], [0, 2, 0]]
  assert measure.crosses_itself(bow)
  assert not measure.crosses_itself([[0, 0, 0], [2, 0, 0], [1, 2, 0]])


def test_planes():
  rng = np.random.default_rng(0)
  plan = rng.uniform(-50, 50, (9, 2)) + 3e5
  height = 0.3 * plan[:, 0] - 0.1 * plan[:, 1] + 7
  points = np.concatenate([plan, height[:, None]], axis=1)
  a, b, c = measure.fit_plane(points)
  np.testing.assert_allclose([a, b], [0.3, -0.1], atol=1e-9)
  np.testing.assert_allclose(plan @ [a, b] + c, height, atol=1e-6)
  # Two points make no plane: the base is level.
  np.testing.assert_allclose(
      measure.fit_plane([[0, 0, 2], [1, 0, 4]]), [0, 0, 3]
  )
  np.testing.assert_array_equal(
      measure.base_of('lowest', points), [0, 0, height.min()]
  )
  np.testing.assert_array_equal(measure.base_of('height', points, 5), [0, 0, 5])
  with pytest.raises(ValueError, match="got 'middle'"):
    measure.base_of('middle', points)


def _grid(extent, cell):
  return np.arange(-extent + cell / 2, extent, cell)


def test_volume_of_a_box_on_a_slope():
  """A box of 4 x 3 x 2.5 m on ground that rises by 1 in 5."""
  x = y = _grid(6.0, 0.05)
  ground = 0.2 * x[None] + 0 * y[:, None] + 30
  on_box = (abs(x[None]) < 2) & (abs(y[:, None]) < 1.5)
  heights = ground + 2.5 * on_box
  corners = np.array([[-4, -4], [4, -4], [4, 4], [-4, 4]], float)
  polygon = np.concatenate([corners, 0.2 * corners[:, :1] + 30], axis=1)
  found = measure.volume(
      polygon, x, y, heights, measure.base_of('plane', polygon)
  )
  np.testing.assert_allclose(found.above, 4 * 3 * 2.5, rtol=1e-3)
  np.testing.assert_allclose(found.below, 0, atol=1e-9)
  assert found.area == 64 and found.known == 1
  np.testing.assert_allclose(found.base, 30, atol=1e-9)


def test_volume_of_a_pit_below_its_rim_within_a_turned_polygon():
  """A pit of 3 x 2 x 1.5 m in level ground; the polygon stands askew."""
  x = y = _grid(8.0, 0.05)
  heights = np.where((abs(x[None]) < 1.5) & (abs(y[:, None]) < 1), -1.5, 0.0)
  square = np.array([[-5, 0, 0], [0, -5, 0], [5, 0, 0], [0, 5, 0]], float)
  found = measure.volume(square, x, y, heights, np.zeros(3))
  np.testing.assert_allclose(found.below, 9, rtol=2e-2)
  assert found.above == 0
  np.testing.assert_allclose(found.area, 50)
  # What has no surface counts as none, and is told.
  heights[np.broadcast_to(x < 0, heights.shape)] = np.nan
  half = measure.volume(square, x, y, heights, np.zeros(3))
  np.testing.assert_allclose(half.below, 4.5, rtol=2e-2)
  np.testing.assert_allclose(half.known, 0.5, atol=1e-2)


def test_volume_without_a_cell():
  tiny = np.array([[0, 0, 1], [1e-3, 0, 1], [0, 1e-3, 1]])
  found = measure.volume(tiny, [5.0], [5.0], [[3.0]], np.zeros(3))
  assert found.above == found.below == found.known == 0


def test_profiles_sum_rises_and_falls():
  along = np.arange(6.0)
  found = measure.profile(along, [1, 3, np.nan, 2, 2, 5])
  assert found.length == 5 and found.climb == 5 and found.fall == 1
  empty = measure.profile(along, np.full(6, np.nan))
  assert empty.climb == empty.fall == 0


@pytest.mark.parametrize(
    'value,text',
    [(1234.5, '1.234 km'), (12.345, '12.35 m'), (0.25, '25.0 cm'),
     (0.0025, '2.5 mm'), (-3.0, '-3.00 m')],
)  # fmt: skip
def test_units_of_lengths(value, text):
  assert measure.format_length(value) == text


def test_units_of_areas():
  assert measure.format_area(12.5) == '12.50 m²'
  assert measure.format_area(25_000) == '2.500 ha'
  assert measure.format_area(3.2e6) == '3.200 km²'
