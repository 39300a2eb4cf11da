"""Shifts of pictures that are known."""

import numpy as np
import pytest
from scipy import ndimage

from infnerf_jax.accuracy import registration


def _texture(seed=0, size=96):
  noise = np.random.default_rng(seed).random((size, size))
  smooth = ndimage.gaussian_filter(noise, 2.0)
  return (smooth - smooth.min()) / np.ptp(smooth)


@pytest.mark.parametrize('right, down', [(0, 0), (2.3, -1.6), (-0.45, 3.1)])
def test_shift_is_right_and_down(right, down):
  truth = _texture()
  found = ndimage.shift(truth, (down, right), order=3)
  part = np.s_[24:72, 24:72]
  moved = registration.shift(found[part], truth[part])
  np.testing.assert_allclose(moved, [right, down], atol=0.06)


def test_what_shows_nothing_has_no_shift():
  assert registration.shift(np.full((32, 32), 0.5), _texture(size=32)) is None
  assert registration.shift(_texture(1, 32), np.full((32, 32), 0.5)) is None


def test_grey_of_bytes_and_floats():
  colors = np.zeros((2, 2, 3), np.uint8)
  colors[0, 0] = 255, 255, 0
  np.testing.assert_allclose(registration.grey(colors)[0, 0], 2 / 3)
  np.testing.assert_allclose(registration.grey(colors / 255)[0, 0], 2 / 3)
