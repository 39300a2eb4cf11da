"""What a picture scores that learned nothing, or nothing of the last octave."""

import numpy as np

from infnerf_jax.evaluation import metrics


def best_constant_psnr(truth, valid=None) -> float | None:
  """PSNR of the best single colour of a photo: its mean.

  Args:
    truth: [H, W, 3] uint8 or float in [0, 1].
    valid: [H, W] bool, None is all.

  Returns:
    dB, or None where no pixel is valid.
  """
  truth = metrics.to_float(truth)
  pixels = truth.reshape(-1, 3) if valid is None else truth[valid]
  if not len(pixels):
    return None
  color = pixels.astype(np.float64).mean(axis=0)
  return metrics.psnr(np.broadcast_to(color, truth.shape), truth, valid=valid)


def _halve(values):
  """[ceil(H / 2), ceil(W / 2), C] sums over 2 x 2 pixels, edges repeated."""
  height, width = values.shape[:2]
  values = np.pad(
      values, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge'
  )
  return (
      values[0::2, 0::2]
      + values[1::2, 0::2]
      + values[0::2, 1::2]
      + values[1::2, 1::2]
  )


def _double(values, axis, size):
  """Bilinear by two along an axis, pixel centres at one half."""
  length = values.shape[axis]
  lower = np.take(values, np.maximum(np.arange(length) - 1, 0), axis)
  upper = np.take(values, np.minimum(np.arange(length) + 1, length - 1), axis)
  pair = np.stack(
      [0.75 * values + 0.25 * lower, 0.75 * values + 0.25 * upper], axis + 1
  )
  shape = list(values.shape)
  shape[axis] = 2 * length
  return np.take(pair.reshape(shape), np.arange(size), axis)


def blur_one_octave(truth, valid=None) -> np.ndarray:
  """A photo without its last octave: area average by 2, bilinear back.

  Args:
    truth: [H, W, 3] uint8 or float in [0, 1].
    valid: [H, W] bool; invalid pixels do not bleed into their neighbours.

  Returns:
    [H, W, 3] float32.
  """
  truth = metrics.to_float(truth)
  height, width = truth.shape[:2]
  weight = np.ones(truth.shape[:2]) if valid is None else np.asarray(valid)
  weight = weight.astype(np.float64)[..., None]
  total = np.concatenate([truth * weight, weight], axis=-1)
  small = _halve(total)
  small = _double(_double(small, 0, height), 1, width)
  return (small[..., :3] / np.maximum(small[..., 3:], 1e-9)).astype(np.float32)


def blurred_psnr(truth, valid=None) -> float | None:
  """PSNR of the photo against itself blurred by one octave.

  A rendering below it has not resolved the finest detail of the photo.

  Args:
    truth: [H, W, 3] uint8 or float in [0, 1].
    valid: [H, W] bool, None is all.

  Returns:
    dB, or None where no pixel is valid.
  """
  return metrics.psnr(blur_one_octave(truth, valid), truth, valid=valid)
