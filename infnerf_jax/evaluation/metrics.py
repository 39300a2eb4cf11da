"""PSNR and SSIM of rendered photos, with pixels that do not count.

Pictures are [H, W, 3] in [0, 1] with the photos' own encoding; `valid` [H, W]
is False where a mask leaves a pixel out of the score.
"""

import functools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

SSIM_WINDOW = 11
# Mean squared error of equal pictures, so that scores stay finite numbers.
_MIN_ERROR = 1e-10


def to_float(rgb) -> np.ndarray:
  """[..., 3] float32 in [0, 1] of uint8 or float pictures."""
  rgb = np.asarray(rgb)
  if rgb.dtype == np.uint8:
    return rgb.astype(np.float32) / 255
  return np.clip(rgb.astype(np.float32), 0.0, 1.0)


def _check_shapes(rendered, truth, valid):
  if rendered.shape != truth.shape or rendered.shape[-1:] != (3,):
    raise ValueError(f'got {rendered.shape}, {truth.shape}, expected [H, W, 3]')
  if valid is not None and np.shape(valid) != truth.shape[:-1]:
    raise ValueError(
        f'valid: got {np.shape(valid)}, expected {truth.shape[:-1]}'
    )


def psnr(rendered, truth, valid=None) -> float | None:
  """Peak signal-to-noise ratio over the valid pixels.

  Args:
    rendered: [H, W, 3] uint8 or float in [0, 1] (clipped to it).
    truth: likewise.
    valid: [H, W] bool, None is all.

  Returns:
    dB, at most 100; None where no pixel is valid.
  """
  rendered, truth = to_float(rendered), to_float(truth)
  _check_shapes(rendered, truth, valid)
  error = np.square(rendered.astype(np.float64) - truth).mean(axis=-1)
  if valid is not None:
    error = error[np.asarray(valid, bool)]
  if not error.size:
    return None
  return float(-10 * np.log10(max(error.mean(), _MIN_ERROR)))


@functools.partial(jax.jit, static_argnames='window')
def _ssim_map(rendered, truth, window):
  """[H - window + 1, W - window + 1] SSIM, the mean over channels."""
  values = dm_pix.ssim(
      rendered,
      truth,
      max_val=1.0,
      filter_size=window,
      filter_sigma=1.5,
      return_map=True,
  )
  return jnp.mean(values, axis=-1)


def _windows_all_valid(valid, window):
  """[H - window + 1, W - window + 1] windows without an invalid pixel."""
  bad = np.pad(np.cumsum(np.cumsum(~valid, axis=0), axis=1), ((1, 0), (1, 0)))
  count = (
      bad[window:, window:]
      - bad[:-window, window:]
      - bad[window:, :-window]
      + bad[:-window, :-window]
  )
  return count == 0


def ssim(rendered, truth, valid=None) -> float | None:
  """Structural similarity (Wang 2004), Gaussian window of 11, mean of colours.

  With a mask it is the mean over the windows that hold valid pixels only.

  Args:
    rendered: [H, W, 3] uint8 or float in [0, 1] (clipped to it).
    truth: likewise.
    valid: [H, W] bool, None is all.

  Returns:
    -1 to 1; None where no window fits (pictures below 11 pixels, or masks).
  """
  rendered, truth = to_float(rendered), to_float(truth)
  _check_shapes(rendered, truth, valid)
  if min(truth.shape[:2]) < SSIM_WINDOW:
    return None
  values = np.asarray(_ssim_map(rendered, truth, SSIM_WINDOW), np.float64)
  if valid is not None:
    values = values[_windows_all_valid(np.asarray(valid, bool), SSIM_WINDOW)]
  return float(values.mean()) if values.size else None


def mean_score(scores) -> float | None:
  """Mean of the scores that exist (None where none does)."""
  scores = [score for score in scores if score is not None]
  return float(np.mean(scores)) if scores else None
