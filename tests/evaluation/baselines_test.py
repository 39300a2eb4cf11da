"""Baselines against brute force and closed forms."""

import numpy as np
import pytest

from infnerf_jax.evaluation import baselines, metrics


def _photo(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=(height, width, 3)).astype(np.float32)


def test_best_constant_beats_every_other_colour():
  truth = _photo(9, 7)
  best = baselines.best_constant_psnr(truth)
  mean = truth.reshape(-1, 3).mean(axis=0)
  for shift in np.eye(3) * 0.01:
    other = np.broadcast_to(mean + shift, truth.shape)
    assert metrics.psnr(other, truth) < best
  half = np.zeros((4, 4, 3), np.float32)
  half[:2] = 1.0
  assert baselines.best_constant_psnr(half) == pytest.approx(6.0206, abs=1e-3)
  valid = np.zeros((4, 4), bool)
  valid[0] = True
  assert baselines.best_constant_psnr(half, valid) == pytest.approx(100.0)
  assert baselines.best_constant_psnr(half, np.zeros((4, 4), bool)) is None


def _slow_blur(truth, valid):
  """Pixel by pixel: 2 x 2 means of what is valid, then bilinear weights."""
  height, width = truth.shape[:2]
  out = np.zeros_like(truth, dtype=np.float64)
  for y in range(height):
    for x in range(width):
      total, weight = np.zeros(3), 0.0
      cy, cx = (y + 0.5) / 2 - 0.5, (x + 0.5) / 2 - 0.5
      for dy in (0, 1):
        for dx in (0, 1):
          j, i = int(np.floor(cy)) + dy, int(np.floor(cx)) + dx
          share = (1 - abs(cy - j)) * (1 - abs(cx - i))
          j = min(max(j, 0), (height + 1) // 2 - 1)
          i = min(max(i, 0), (width + 1) // 2 - 1)
          for py in (2 * j, min(2 * j + 1, height - 1)):
            for px in (2 * i, min(2 * i + 1, width - 1)):
              total += share * valid[py, px] * truth[py, px]
              weight += share * valid[py, px]
      out[y, x] = total / max(weight, 1e-9)
  return out


@pytest.mark.parametrize('shape', [(6, 8), (7, 5), (1, 3)])
def test_blur_equals_brute_force(shape):
  truth = _photo(*shape, seed=1)
  valid = np.random.default_rng(2).uniform(size=shape) > 0.2
  np.testing.assert_allclose(
      baselines.blur_one_octave(truth, valid),
      _slow_blur(truth, valid),
      atol=1e-5,
  )


def test_blur_keeps_what_is_coarse_and_drops_the_last_octave():
  flat = np.full((8, 8, 3), 0.25, np.float32)
  assert baselines.blurred_psnr(flat) > 90
  x = np.arange(64) + 0.5
  fine = np.broadcast_to(0.5 + 0.4 * (-1.0) ** np.arange(64), (64, 64))
  coarse = np.broadcast_to(0.5 + 0.4 * np.sin(2 * np.pi * x / 32), (64, 64))
  stack = lambda v: np.repeat(v[..., None], 3, -1).astype(np.float32)
  # The finest pattern is gone: what remains is the error of grey.
  assert baselines.blurred_psnr(stack(fine)) == pytest.approx(
      -10 * np.log10(0.16), abs=1e-3
  )
  assert baselines.blurred_psnr(stack(coarse)) > 38
