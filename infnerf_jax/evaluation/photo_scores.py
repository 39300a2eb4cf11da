"""Scores of one photo at every level of its pyramid.

Whole pictures with a given embedding, and right halves with one that is
fitted to the left halves.
"""

from typing import Any, Callable, NamedTuple

import numpy as np

from infnerf_jax.evaluation import baselines, fitting, metrics
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.streaming import store_scene

SCORES = ('psnr', 'ssim', 'psnr_fitted', 'ssim_fitted')


class Subject(NamedTuple):
  """What is scored, and how it is rendered.

  Attributes:
    model: scene, on the device.
    spec: static facts.
    octree: the host's tree.
    options: sampling.
    background: rgb behind everything.
    max_memory_gb: see `render_image`.
    store: scene that renders from its store as it goes; of `model` only the
      appearance is then looked at, and no embedding is fitted.
  """

  model: scene_model.SceneModel
  spec: scene_model.ModelSpec
  octree: tree_lib.Octree
  options: render_rays.RenderOptions = render_rays.RenderOptions()
  background: tuple[float, float, float] = (0.0, 0.0, 0.0)
  max_memory_gb: float | None = None
  store: store_scene.StoreScene | None = None


class Fit(NamedTuple):
  """How embeddings are fitted.

  Attributes:
    spread: [A] how far embeddings of training lie apart.
    options: steps and prior.
    seed: of the pixels.
  """

  spread: np.ndarray
  options: fitting.FitOptions
  seed: int


class _Picture(NamedTuple):
  """A photo at one pyramid level."""

  level: int
  rgb: np.ndarray
  valid: np.ndarray


def left_half_end(width: int, pyramid_level: int) -> int:
  """Columns of a level that show nothing of the photo's right half.

  Args:
    width: columns at level 0; the left half are the first width // 2.
    pyramid_level: level.
  """
  return (width // 2) // 2**pyramid_level


def right_half_start(width: int, pyramid_level: int) -> int:
  """First column of a level that shows nothing of the photo's left half.

  Args:
    width: columns at level 0; the left half are the first width // 2.
    pyramid_level: level.
  """
  return -(-(width // 2) // 2**pyramid_level)


def _pictures(pyramid, row) -> list[_Picture]:
  """The photo at every pyramid level that it has."""
  return [
      _Picture(level, *pyramid_lib.photo(pyramid, row, level))
      for level in range(pyramid.sizes.shape[1])
      if np.all(pyramid.sizes[row, level] > 0)
  ]


def _render(subject, camera, appearance, picture, pixel_size, crop=None):
  """Renders what a picture shows; sizes must agree."""
  options = dict(
      background=subject.background,
      pyramid_level=picture.level,
      pixel_size=pixel_size,
      crop=crop,
      # One set of outputs: one program for all pictures.
      outputs=('rgb', 'statistics'),
  )
  if subject.store is not None:
    image = subject.store.render(
        camera, appearance=appearance, options=subject.options, **options
    )
  else:
    image = render_image.render_image(
        subject.model,
        subject.spec,
        camera,
        subject.octree,
        appearance,
        subject.options,
        max_memory_gb=subject.max_memory_gb,
        **options,
    )
  if image.rgb.shape != picture.rgb.shape:
    raise ValueError(
        f'got a render of {image.rgb.shape}, a photo of {picture.rgb.shape}'
    )
  return image


def _fitted_embedding(subject, camera, pictures, appearance, scale, fit, row):
  """[A] the embedding of the left halves."""
  width = pictures[0].rgb.shape[1]
  left = []
  for level, rgb, valid in pictures:
    is_left = np.arange(rgb.shape[1]) < left_half_end(width, level)
    left.append((level, rgb, valid & is_left))
  pixels = fitting.draw_pixels(
      left,
      pixel_size=scale,
      num_rays=fit.options.num_rays,
      seed=(fit.seed, row),
  )
  return fitting.fit_appearance(
      subject.model, subject.spec, camera, subject.octree, pixels,
      start=appearance, spread=fit.spread, options=subject.options,
      fit_options=fit.options, background=subject.background,
  )  # fmt: skip


def _fitted_scores(subject, camera, embedding, picture, scale, start):
  """psnr and ssim of the columns from `start` on."""
  level, rgb, valid = picture
  height, width = rgb.shape[:2]
  if start >= width:
    return {'psnr_fitted': None, 'ssim_fitted': None}
  half = _Picture(level, rgb[:, start:], valid[:, start:])
  crop = (start, 0, width, height)
  image = _render(subject, camera, embedding, half, scale, crop)
  return {
      'psnr_fitted': metrics.psnr(image.rgb, half.rgb, half.valid),
      'ssim_fitted': metrics.ssim(image.rgb, half.rgb, half.valid),
  }


def score_photo(
    subject: Subject,
    camera: cameras_lib.Cameras,
    pyramid: pyramid_lib.PhotoPyramid,
    row: int,
    appearance,
    *,
    fit: Fit | None = None,
    watch: Callable[[int, float | None], None] | None = None,
) -> dict[str, Any]:
  """Scores one photo at every pyramid level.

  Args:
    subject: what is scored.
    camera: single row.
    pyramid: pixels.
    row: of the photo in the pyramid.
    appearance: [A] embedding of `psnr` and `ssim`.
    fit: how the embedding of the fitted scores is found; None: no such scores.
    watch: called with the rays done and the psnr after each picture.

  Returns:
    Scores, baselines, counts; `statistics` is render_image's of level 0.
  """
  scale, pictures = pyramid.downscale, _pictures(pyramid, row)
  if fit is not None and not len(appearance):
    embedding = appearance
  elif fit is not None:
    embedding = _fitted_embedding(
        subject, camera, pictures, appearance, scale, fit, row
    )
  levels, statistics = [], None
  for picture in pictures:
    level, rgb, valid = picture
    image = _render(subject, camera, appearance, picture, scale)
    statistics = image.statistics if statistics is None else statistics
    scores = {
        'level': level,
        'psnr': metrics.psnr(image.rgb, rgb, valid),
        'ssim': metrics.ssim(image.rgb, rgb, valid),
    }
    if fit is not None:
      start = right_half_start(pictures[0].rgb.shape[1], level)
      scores |= _fitted_scores(
          subject, camera, embedding, picture, scale, start
      )
    levels.append(scores)
    if watch is not None:
      watch(rgb.shape[0] * rgb.shape[1], scores['psnr'])
  return {
      **{name: levels[0].get(name) for name in SCORES},
      'psnr_constant': baselines.best_constant_psnr(*pictures[0][1:]),
      'psnr_blurred': baselines.blurred_psnr(*pictures[0][1:]),
      'by_pyramid_level': levels,
      'statistics': statistics,
  }
