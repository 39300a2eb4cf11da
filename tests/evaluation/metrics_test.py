"""Scores against scikit-image and closed forms."""

import numpy as np
import pytest
from skimage import metrics as skimage_metrics

from infnerf_jax.evaluation import metrics


def _pair(height=40, width=53, seed=0):
  rng = np.random.default_rng(seed)
  smooth = np.cumsum(np.cumsum(rng.normal(size=(height, width, 3)), 0), 1)
  smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
  noisy = np.clip(smooth + 0.05 * rng.normal(size=smooth.shape), 0, 1)
  return noisy.astype(np.float32), smooth.astype(np.float32)


def test_psnr_equals_scikit_image():
  noisy, smooth = _pair()
  expected = skimage_metrics.peak_signal_noise_ratio(
      smooth.astype(np.float64), noisy.astype(np.float64), data_range=1.0
  )
  assert metrics.psnr(noisy, smooth) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_a_known_error_and_of_bytes():
  truth = np.full((4, 5, 3), 51, np.uint8)  # 0.2
  assert metrics.psnr(np.full((4, 5, 3), 0.3), truth) == pytest.approx(
      20.0, abs=1e-4
  )
  assert metrics.psnr(truth, truth) == pytest.approx(100.0)
  # Renderings beyond white count as white.
  white = np.full((4, 5, 3), 255, np.uint8)
  assert metrics.psnr(np.full((4, 5, 3), 7.0), white) == pytest.approx(100.0)


def test_ssim_equals_scikit_image():
  noisy, smooth = _pair()
  _, full = skimage_metrics.structural_similarity(
      smooth.astype(np.float64),
      noisy.astype(np.float64),
      data_range=1.0,
      channel_axis=-1,
      gaussian_weights=True,
      sigma=1.5,
      truncate=3.5,  # radius 5: a window of 11
      use_sample_covariance=False,
      full=True,
  )
  expected = full[5:-5, 5:-5].mean()
  assert metrics.ssim(noisy, smooth) == pytest.approx(expected, abs=1e-4)
  assert metrics.ssim(smooth, smooth) == pytest.approx(1.0, abs=1e-6)


def test_invalid_pixels_do_not_count():
  noisy, smooth = _pair()
  valid = np.ones(smooth.shape[:2], bool)
  valid[3:9, 20:31] = False
  broken = np.where(valid[..., None], noisy, 1 - smooth)
  inside = np.square(noisy - smooth)[valid].astype(np.float64).mean()
  expected = -10 * np.log10(inside)
  assert metrics.psnr(broken, smooth, valid) == pytest.approx(
      expected, abs=1e-4
  )
  assert metrics.ssim(broken, smooth, valid) == pytest.approx(
      metrics.ssim(noisy, smooth, valid), abs=1e-6
  )
  assert metrics.ssim(broken, smooth) < metrics.ssim(noisy, smooth) - 0.02
  # Windows that touch no hole, one by one.
  count = sum(
      valid[y : y + 11, x : x + 11].all() for y in range(30) for x in range(43)
  )
  assert metrics._windows_all_valid(valid, 11).sum() == count


def test_nothing_to_score_is_none():
  noisy, smooth = _pair(10, 30)
  assert metrics.ssim(noisy, smooth) is None
  none = np.zeros(smooth.shape[:2], bool)
  assert metrics.psnr(noisy, smooth, none) is None
  noisy, smooth = _pair(20, 30)
  assert metrics.ssim(noisy, smooth, np.zeros((20, 30), bool)) is None
  assert metrics.mean_score([None, 2.0, 4.0]) == 3.0
  assert metrics.mean_score([None]) is None
  with pytest.raises(ValueError, match='expected'):
    metrics.psnr(noisy, smooth[:-1])
