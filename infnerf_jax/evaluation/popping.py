"""Popping: changes from frame to frame that the scene itself does not make."""

from typing import Any

import numpy as np


def unexplained_changes(frames, truth) -> np.ndarray:
  """How much each step of a film changes beyond what the truth changes.

  Args:
    frames: [N, H, W, 3] rendered.
    truth: [N, H, W, 3] of the same cameras.

  Returns:
    [N - 1] root mean square of the change of the error from frame to frame.
  """
  error = np.asarray(frames, np.float64) - np.asarray(truth, np.float64)
  change = np.diff(error, axis=0)
  return np.sqrt(np.mean(np.square(change), axis=(1, 2, 3)))


def measure(frames, truth) -> dict[str, Any]:
  """Popping of a film.

  Args:
    frames: [N, H, W, 3] rendered.
    truth: [N, H, W, 3].

  Returns:
    `largest` and `median` over the steps, their ratio `peak` (a film without
    jumps is near 1), and `psnr` against the truth in dB.
  """
  steps = unexplained_changes(frames, truth)
  error = np.mean(np.square(np.asarray(frames, np.float64) - truth))
  median = float(np.median(steps))
  return {
      'largest': float(steps.max()),
      'median': median,
      'peak': float(steps.max() / max(median, 1e-9)),
      'psnr': float(-10 * np.log10(max(error, 1e-12))),
      'steps': steps.tolist(),
  }
