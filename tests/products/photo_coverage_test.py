"""What photos see of a map."""

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import photo_coverage


def _cameras(places):
  """Cameras 50 m above places, which see 40 x 20 m each."""
  return cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=500, width=400, height=200,
              cam_to_world=cameras_lib.look_at(
                  [x, y, 50], [x, y, 0], (0, 1, 0)
              ),
          )
          for x, y in places
      ]
  )  # fmt: skip


def _counts(coverage, points):
  return coverage.counts(
      lambda rows, columns: points[np.ix_(rows, columns)], points.shape[:2]
  )


def test_counts_of_photos():
  places = [(0, 0), (10, 0), (10, 5), (400, 0)]
  coverage = photo_coverage.PhotoCoverage(_cameras(places))
  x, y = np.meshgrid(np.arange(-60, 60, 0.5), np.arange(30, -30, -0.5))
  points = np.stack([x, y, np.zeros_like(x)], axis=-1)
  found = _counts(coverage, points)
  want = sum(
      ((np.abs(x - a) < 20) & (np.abs(y - b) < 10)).astype(int)
      for a, b in places
  )
  assert set(np.unique(want)) == {0, 1, 2, 3}
  # Between places that are looked up a count goes over to the next.
  away = photo_coverage._STRIDE
  for value in range(4):
    inner = want == value
    for axis in (0, 1):
      for step in (-away, away):
        inner = inner & (np.roll(want, step, axis) == value)
    for corner in ((away, away), (away, -away), (-away, away), (-away, -away)):
      inner = inner & (np.roll(want, corner, (0, 1)) == value)
    inner[:away] = inner[-away:] = inner[:, :away] = inner[:, -away:] = False
    assert inner.any()
    np.testing.assert_allclose(found[inner], value, atol=1e-5)
  assert np.abs(np.rint(found) - want).max() <= 2


def test_higher_places_are_seen_by_fewer():
  coverage = photo_coverage.PhotoCoverage(_cameras([(0, 0)]))
  points = np.zeros((3, 50, 3))
  points[..., 0] = np.linspace(0, 25, 50)
  low = _counts(coverage, points).sum()
  points[..., 2] = 25
  assert 0.4 * low < _counts(coverage, points).sum() < 0.6 * low


def test_blobs_and_gaps_do_not_count():
  rows, columns = np.indices((200, 300))
  slope = 40.0 + 0.02 * columns
  distance = slope.copy()
  distance[20:30, 40:60] = 3.0  # a blob near the cameras
  distance[100:110, :] = np.inf
  found = photo_coverage.surroundings_of(distance, 10.0)
  assert np.abs(found - slope).max() < 1.5
  nothing = np.full((5, 7), np.inf)
  np.testing.assert_array_equal(
      photo_coverage.surroundings_of(nothing, 10.0), 10.0
  )
