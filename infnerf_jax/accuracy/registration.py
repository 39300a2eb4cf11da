"""How far two pictures of one place are apart, in parts of a pixel."""

import numpy as np
from scipy import ndimage
from skimage import registration

# Below this contrast (of the colour range) a patch says nothing of its place.
_MIN_CONTRAST = 0.02
_STEPS = 20  # of a pixel
_ROUNDS = 3


def shift(found, truth) -> np.ndarray | None:
  """Shift of a picture against another of the same place.

  Args:
    found: [N, N] grey values in [0, 1].
    truth: [N, N], the same place as it should be.

  Returns:
    [2] pixels, right and down, by which what `found` shows lies beside its
    place in `truth`; None where they show too little, or nothing in common.
  """
  if min(np.std(found), np.std(truth)) < _MIN_CONTRAST:
    return None
  total = np.zeros(2)
  for _ in range(_ROUNDS):
    # What is left once the shift so far is taken back: the window would draw
    # large shifts towards none.
    back = ndimage.shift(found, -total, order=1, mode='nearest')
    total = total + _step(back, truth)
    if np.abs(total).max() > len(found) / 4:
      return None
  return np.array([total[1], total[0]])


def _step(found, truth) -> np.ndarray:
  """[2] pixels, down and right, by which `found` lies beside `truth`."""
  # Edges of patches are no edges of what they show.
  window = np.hanning(len(found) + 2)[1:-1]
  weight = np.outer(window, window)
  centred = [
      (p - np.average(p, weights=weight)) * weight for p in (found, truth)
  ]
  # The library says how `truth` must move, which is the same.
  step, _, _ = registration.phase_cross_correlation(
      *centred, upsample_factor=_STEPS, normalization=None
  )
  return step


def grey(rgb) -> np.ndarray:
  """[..., ] grey values in [0, 1] of colours [..., 3] in [0, 1] or bytes."""
  rgb = np.asarray(rgb, np.float64)
  return rgb.mean(axis=-1) / (255 if rgb.max(initial=0) > 1 else 1)
