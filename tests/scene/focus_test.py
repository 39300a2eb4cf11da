"""Weighed batches: rays fall where weights are, in proportion."""

from typing import NamedTuple

import numpy as np

from infnerf_jax.scene import focus, observations


class _Pyramid(NamedTuple):
  sizes: np.ndarray


_SIZES = np.array([[[20, 14], [10, 7]], [[13, 9], [6, 4]]])
_GRID = 4


def _maps(seed=0):
  rng = np.random.default_rng(seed)
  cells = rng.integers(0, 3, (2, 2, _GRID**2))
  return focus.NodeMaps(_GRID, cells, rng.integers(0, 3, (50, 2)))


def _ordinary():
  """Level 0 with 0.7, level 1 with 0.3 of the rays; pixels all alike."""
  pixels = _SIZES.prod(axis=-1).T.astype(float)  # [L, n]
  shares = pixels / pixels.sum(axis=1, keepdims=True)
  shares *= np.array([[0.7], [0.3]])
  ends = shares.reshape(-1).cumsum()
  return focus.Entries(np.array([0, 1]), ends / ends[-1])


def test_edges_cut_every_side_into_its_pixels():
  for size in (3, 4, 13, 20):
    pixel = np.arange(size)
    cell = pixel * _GRID // size
    first, last = focus.cell_edges(np.int64(size), _GRID, np.arange(_GRID))
    for c in range(_GRID):
      np.testing.assert_array_equal(
          pixel[cell == c], np.arange(first[c], last[c])
      )


def test_shares_are_those_of_pixels_times_weights():
  maps, weight = _maps(), np.array([1.0, 0.0, 2.5])
  entries = focus.Focus(maps, weight).entries(_Pyramid(_SIZES), _ordinary(), 0)
  # Pixel by pixel.
  expected = np.zeros((2, 2, _GRID**2))
  for level, share in enumerate((0.7, 0.3)):
    total = _SIZES[:, level].prod(axis=-1).sum()
    for photo in range(2):
      width, height = _SIZES[photo, level]
      for y in range(height):
        for x in range(width):
          cell = (y * _GRID // height) * _GRID + x * _GRID // width
          w = weight[maps.cells[photo, level, cell]]
          expected[level, photo, cell] += share * w / total
  expected = expected.reshape(-1) / expected.sum()
  got = np.diff(entries.ends, prepend=0.0)
  np.testing.assert_allclose(got, expected, atol=1e-12)


def test_without_weight_in_play_batches_are_ordinary():
  ordinary = _ordinary()
  none = focus.Focus(_maps(), np.zeros(3))
  assert none.entries(_Pyramid(_SIZES), ordinary, 0) is ordinary


def test_sightings_follow_the_weights():
  maps = _maps()
  seen = observations.Observations(
      np.array([0, 30, 50]), np.zeros((50, 2)), np.ones(50)
  )
  weight = np.array([1.0, 0.0, 3.0])
  one = focus.Focus(maps, weight)
  one.entries(_Pyramid(_SIZES), _ordinary(), 0)
  draw = (np.arange(20_000) + 0.5) / 20_000
  level = np.ones(len(draw), int)
  row = one.sightings(seen, np.array([1]), level, draw)
  count = np.bincount(row, minlength=50)
  assert not count[:30].any()  # of a photo that is not in play
  expected = weight[maps.sightings[:, 1]] * (np.arange(50) >= 30)
  np.testing.assert_allclose(
      count / count.sum(), expected / expected.sum(), atol=1e-3
  )


def test_rays_say_in_which_node_they_end():
  maps = _maps()
  one, rng = focus.Focus(maps, np.ones(3)), np.random.default_rng(1)
  photo, level = rng.integers(0, 2, (2, 200))
  size = _SIZES[photo, level]
  x, y = (rng.uniform(size=size.shape) * size).astype(np.int64).T
  found = one.ends_in(_Pyramid(_SIZES), photo, level, x, y)
  for i in range(200):
    width, height = size[i]
    cell = y[i] * _GRID // height * _GRID + x[i] * _GRID // width
    assert found[i] == maps.cells[photo[i], level[i], cell]
  row = rng.integers(0, 50, 200)
  np.testing.assert_array_equal(
      one.sightings_end_in(row, level), maps.sightings[row, level]
  )
