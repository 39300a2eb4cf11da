"""Similarities between point sets, estimated so that outliers do not matter."""

import itertools
from typing import NamedTuple

import numpy as np

_NUM_TRIALS = 500
_NUM_ITERATIONS = 30
# Residuals beyond this many robust deviations count for little (Cauchy).
_CAUCHY = 2.0
_OUTLIER = 4.0
# GPS noise below this is not told from none, metres.
_MIN_SPREAD = 0.02
_MAD_TO_DEVIATION = 1.4826


class Similarity(NamedTuple):
  """x -> scale * rotation @ x + translation.

  Attributes:
    scale: target units per source unit.
    rotation: [3, 3].
    translation: [3] in target units.
  """

  scale: float
  rotation: np.ndarray
  translation: np.ndarray


def apply(transform: Similarity, points) -> np.ndarray:
  """[..., 3] points of the source in the target's frame."""
  turned = np.asarray(points) @ transform.rotation.T
  return transform.scale * turned + transform.translation


def mad(values) -> float:
  """Robust standard deviation about zero, of all numbers given."""
  return float(_MAD_TO_DEVIATION * np.median(np.abs(values)))


def inliers(residuals) -> np.ndarray:
  """[N] whether residuals [N, 3] are no outliers, horizontally."""
  size = np.linalg.norm(residuals[:, :2], axis=-1)
  return size <= _OUTLIER * max(mad(size), _MIN_SPREAD)


def rotation_between(source, target) -> np.ndarray:
  """[3, 3] smallest rotation that takes one unit vector [3] to another."""
  source, target = np.asarray(source, float), np.asarray(target, float)
  axis, cosine = np.cross(source, target), float(source @ target)
  if cosine < -1 + 1e-12:
    # Half a turn about any axis across.
    across = np.eye(3)[np.argmin(np.abs(source))]
    axis = np.cross(source, across)
    axis /= np.linalg.norm(axis)
    return 2 * np.outer(axis, axis) - np.eye(3)
  x, y, z = axis
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return np.eye(3) + cross + cross @ cross / (1 + cosine)


def fit_weighted(source, target, weights=None) -> Similarity:
  """Least-squares similarity (Umeyama 1991, equations 38 to 43).

  Args:
    source: [..., N, 3] points.
    target: [..., N, 3] the same points in the other frame.
    weights: [..., N] or None.

  Returns:
    Similarity whose fields carry the leading axes.
  """
  if weights is None:
    weights = np.ones(np.shape(source)[:-1])
  w = (weights / weights.sum(axis=-1, keepdims=True))[..., None]
  mean_s = (w * source).sum(axis=-2, keepdims=True)
  mean_t = (w * target).sum(axis=-2, keepdims=True)
  s, t = source - mean_s, target - mean_t
  left, values, right = np.linalg.svd(np.swapaxes(w * t, -1, -2) @ s)
  sign = np.ones_like(values)
  sign[..., -1] = np.sign(np.linalg.det(left) * np.linalg.det(right))
  rotation = (left * sign[..., None, :]) @ right
  variance = np.maximum((w * s**2).sum(axis=(-1, -2)), 1e-300)
  scale = (values * sign).sum(axis=-1) / variance
  turned = (rotation @ np.swapaxes(mean_s, -1, -2))[..., 0]
  translation = mean_t[..., 0, :] - scale[..., None] * turned
  return Similarity(scale, rotation, translation)


def fit_robust(source, target) -> Similarity:
  """Similarity by least median of squares, refined with Cauchy weights.

  Args:
    source: [N, 3], N >= 3.
    target: [N, 3].

  Returns:
    Similarity.
  """
  source, target = np.asarray(source, float), np.asarray(target, float)
  triples = _subsets(len(source), 3)
  trials = fit_weighted(source[triples], target[triples])
  turned = np.einsum('kij,nj->kni', trials.rotation, source)
  guess = trials.scale[:, None, None] * turned + trials.translation[:, None]
  error = np.median(np.linalg.norm(guess - target, axis=-1), axis=-1)
  best = np.argmin(np.where(trials.scale > 0, error, np.inf))
  fit = Similarity(*(field[best] for field in trials))
  for _ in range(_NUM_ITERATIONS):
    weights = _cauchy(apply(fit, source) - target)
    fit = fit_weighted(source, target, weights)
  return fit._replace(scale=float(fit.scale))


def fit_upright(source, target, upright) -> Similarity:
  """Similarity whose tilt is given; heights only shift it.

  Args:
    source: [N, 3], N >= 2.
    target: [N, 3], z up.
    upright: [3, 3] rotation that turns the source's up to +z.

  Returns:
    Similarity.
  """
  turned = np.asarray(source, float) @ np.asarray(upright).T
  target = np.asarray(target, float)
  # A similarity of the plane is linear in complex numbers.
  plane = turned[:, 0] + 1j * turned[:, 1]
  goal = target[:, 0] + 1j * target[:, 1]
  pairs = _subsets(len(plane), 2)
  step = plane[pairs[:, 1]] - plane[pairs[:, 0]]
  far = np.abs(step) > 1e-9 * max(np.abs(plane).max(), 1e-300)
  pairs, step = pairs[far], step[far]
  factor = (goal[pairs[:, 1]] - goal[pairs[:, 0]]) / step
  shift = goal[pairs[:, 0]] - factor * plane[pairs[:, 0]]
  error = np.abs(factor[:, None] * plane + shift[:, None] - goal)
  best = np.argmin(np.median(error, axis=-1))
  factor, shift = factor[best], shift[best]
  for _ in range(_NUM_ITERATIONS):
    offset = factor * plane + shift - goal
    weights = _cauchy(np.stack([offset.real, offset.imag], axis=-1))
    mean_p, mean_g = np.average(plane, weights=weights), np.average(
        goal, weights=weights
    )
    p, g = plane - mean_p, goal - mean_g
    factor = (weights * g * p.conj()).sum() / (weights * np.abs(p) ** 2).sum()
    shift = mean_g - factor * mean_p
  scale, angle = np.abs(factor), np.angle(factor)
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
  height = np.median(target[:, 2] - scale * turned[:, 2])
  return Similarity(
      float(scale), turn @ upright, np.array([shift.real, shift.imag, height])
  )


def _cauchy(residuals) -> np.ndarray:
  """[N] weights of residuals [N, D]."""
  size = np.linalg.norm(residuals, axis=-1)
  spread = _CAUCHY * max(mad(size), 1e-9)
  return 1 / (1 + (size / spread) ** 2)


def _subsets(num: int, size: int) -> np.ndarray:
  """[K, size] rows: all subsets where they are few, else a fixed sample."""
  if num <= 12:
    return np.array(list(itertools.combinations(range(num), size)))
  rng = np.random.default_rng(0)
  keys = rng.random((_NUM_TRIALS, num))
  return np.argsort(keys, axis=-1)[:, :size]
