"""COLMAP's camera models as rows of our table of cameras, and back.

COLMAP's parameter vectors start with one or two focal lengths and the
principal point (pixels; the centre of the top-left pixel is (0.5, 0.5), as in
our table), followed by the coefficients of the lens.
"""

from typing import NamedTuple

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras


class Lens(NamedTuple):
  """Projection of one camera, without its pose and size.

  Attributes:
    projection: cameras.PERSPECTIVE or cameras.FISHEYE.
    intrinsics: [4] float64, fx, fy, cx, cy in pixels.
    distortion: [8] float64, see `cameras.Cameras`.
  """

  projection: int
  intrinsics: np.ndarray
  distortion: np.ndarray


# model -> (focal lengths, coefficients, projection). Our table keeps COLMAP's
# order: FULL_OPENCV has k1 k2 p1 p2 k3 k4 k5 k6, the shorter perspective models
# are prefixes of it, and the shorter fisheye models prefixes of k1 k2 k3 k4.
_MODELS = {
    'SIMPLE_PINHOLE': (1, 0, cameras.PERSPECTIVE),
    'PINHOLE': (2, 0, cameras.PERSPECTIVE),
    'SIMPLE_RADIAL': (1, 1, cameras.PERSPECTIVE),
    'RADIAL': (1, 2, cameras.PERSPECTIVE),
    'OPENCV': (2, 4, cameras.PERSPECTIVE),
    'FULL_OPENCV': (2, 8, cameras.PERSPECTIVE),
    'SIMPLE_FISHEYE': (1, 0, cameras.FISHEYE),
    'FISHEYE': (2, 0, cameras.FISHEYE),
    'SIMPLE_RADIAL_FISHEYE': (1, 1, cameras.FISHEYE),
    'RADIAL_FISHEYE': (1, 2, cameras.FISHEYE),
    'OPENCV_FISHEYE': (2, 4, cameras.FISHEYE),
}


def supported() -> tuple[str, ...]:
  """Names of the camera models that are read."""
  return tuple(_MODELS)


def from_colmap(model: str, params, *, where: str, intrinsics=None) -> Lens:
  """A lens from COLMAP's model name and parameters.

  Args:
    model: COLMAP's name, for example 'OPENCV'.
    params: the whole parameter vector, or the coefficients alone where
      `intrinsics` are given.
    where: start of the error's line: file and photo or camera.
    intrinsics: [4] fx, fy, cx, cy that the source states apart from `params`;
      both must agree.

  Returns:
    Lens.

  Raises:
    InputError: unknown model, wrong number of parameters or disagreement.
  """
  if model not in _MODELS:
    raise errors.InputError(
        f'{where}: camera model: got {model}, expected one of '
        f'{", ".join(_MODELS)} (COLMAP undistorts others: colmap '
        'image_undistorter)'
    )
  num_focal, num_coefficients, projection = _MODELS[model]
  try:
    params = np.asarray(params, np.float64).reshape(-1)
  except (TypeError, ValueError):
    raise errors.InputError(
        f'{where}: distortion params: got {str(params)[:60]}, expected numbers'
    ) from None
  num_head = num_focal + 2
  distortion = np.zeros(cameras.NUM_DISTORTION)
  if len(params) == num_head + num_coefficients:
    focal = np.broadcast_to(params[:num_focal], (2,))
    stated = np.concatenate([focal, params[num_focal:num_head]])
    if intrinsics is not None and not np.allclose(
        stated, intrinsics, rtol=1e-6, atol=1e-6
    ):
      raise errors.InputError(
          f'{where}: distortion params: got fx, fy, cx, cy {stated.tolist()}, '
          f'expected those of intrinsic {np.asarray(intrinsics).tolist()}'
      )
    intrinsics = stated if intrinsics is None else intrinsics
    distortion[:num_coefficients] = params[num_head:]
  elif len(params) == num_coefficients and intrinsics is not None:
    distortion[:num_coefficients] = params
  else:
    raise errors.InputError(
        f'{where}: params of {model}: got {len(params)}, expected '
        f'{num_head + num_coefficients}'
    )
  return Lens(projection, np.array(intrinsics, np.float64), distortion)


def to_colmap(lens: Lens) -> tuple[str, list[float]]:
  """COLMAP's model name and whole parameter vector of a lens.

  Args:
    lens: the smallest of PINHOLE, OPENCV, FULL_OPENCV and OPENCV_FISHEYE that
      holds all coefficients is chosen.

  Returns:
    (model, parameters).

  Raises:
    ValueError: COLMAP has no such model (orthographic).
  """
  if lens.projection == cameras.FISHEYE:
    model = 'OPENCV_FISHEYE'
  elif lens.projection != cameras.PERSPECTIVE:
    raise ValueError(f'projection: got {lens.projection}, expected 0 or 1')
  elif np.any(lens.distortion[4:]):
    model = 'FULL_OPENCV'
  else:
    model = 'OPENCV' if np.any(lens.distortion) else 'PINHOLE'
  _, num_coefficients, _ = _MODELS[model]
  head = np.asarray(lens.intrinsics, np.float64).tolist()
  return model, head + lens.distortion[:num_coefficients].tolist()
