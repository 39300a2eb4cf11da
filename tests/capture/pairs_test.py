"""Pairs of photos: counts, neighbours, and the choice between ways."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.capture import pairs


def _names(stem, num, step=1):
  return [f'{stem}{i * step:05d}.jpg' for i in range(num)]


@pytest.mark.parametrize(
    'names, gps, expected',
    [
        (_names('DJI_', 12), 1.0, 'exhaustive'),
        (_names('DJI_', 60), 1.0, 'spatial'),
        (_names('DJI_', 60), 0.0, 'exhaustive'),
        (_names('frame_', 60, 5), 0.0, 'sequential'),
        (_names('', 60), 0.0, 'sequential'),
        (_names('frame_', 60, 5), 1.0, 'spatial'),
    ],
)
def test_choice(names, gps, expected):
  matching, reason = pairs.choose_matching(names, np.full(len(names), gps))
  assert matching == expected
  assert reason


def test_exhaustive_is_all_pairs():
  found = pairs.make_pairs('exhaustive', _names('a', 7))
  assert len(found) == 21 and (found[:, 0] < found[:, 1]).all()


def test_sequential_grows_with_photos_not_their_square():
  found = pairs.make_pairs('sequential', _names('a', 300))
  assert len(found) < 300 * 15
  steps = set((found[:, 1] - found[:, 0]).tolist())
  assert steps == {*range(1, 11), 16, 32, 64, 128}


def test_spatial_pairs_neighbours_on_the_ground():
  # A grid flown in rows; heights are noise and must not matter.
  x, y = np.meshgrid(np.arange(10.0), np.arange(10.0))
  rng = np.random.default_rng(0)
  places = np.stack([x.ravel(), y.ravel(), rng.normal(size=100) * 1e3], -1)
  places[37] = np.nan
  found = set(map(tuple, pairs.make_pairs('spatial', _names('a', 100), places)))
  for i in range(100):
    for j in range(i + 1, 100):
      near = np.abs(places[i, :2] - places[j, :2]).max() <= 1
      if near or 37 in (i, j):
        assert (i, j) in found
  assert all(i < j for i, j in found)
  assert len(found) < 100 * 26
  assert (0, 99) not in found


def test_spatial_without_gps():
  with pytest.raises(errors.InputError, match='--matching=spatial'):
    pairs.make_pairs('spatial', _names('a', 5), np.full((5, 3), np.nan))
