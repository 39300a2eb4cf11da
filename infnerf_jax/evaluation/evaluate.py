"""The evaluation protocol.

`psnr`, `ssim`: whole photos, mean appearance embedding. `psnr_fitted`,
`ssim_fitted`: the embedding alone is fitted to the left half of a photo and
scored on its right half. Both at every pyramid level, against area-averaged
photos; the headline figures are those of level 0. Scores are means over
photos.
"""

import contextlib
import hashlib
from typing import Any, NamedTuple, Sequence

import jax
import numpy as np

from infnerf_jax import progress as progress_lib
from infnerf_jax.evaluation import baselines, fitting, metrics
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.scene import pyramid as pyramid_lib

_SCORES = ('psnr', 'ssim', 'psnr_fitted', 'ssim_fitted')


class _Subject(NamedTuple):
  """What is scored, and how it is rendered."""

  model: scene_model.SceneModel
  spec: scene_model.ModelSpec
  octree: tree_lib.Octree
  options: render_rays.RenderOptions
  background: tuple[float, float, float]
  max_memory_gb: float | None


def params_sha256(model: scene_model.SceneModel) -> str:
  """Digest of all learned values (node fields and appearance).

  Args:
    model: scene.

  Returns:
    64 hexadecimal digits; equal if and only if every bit is.
  """
  digest = hashlib.sha256()
  learned = {'nodes': model.nodes, 'appearance': model.appearance}
  leaves, _ = jax.tree_util.tree_flatten_with_path(learned)
  for path, leaf in sorted(leaves, key=lambda item: str(item[0])):
    value = np.asarray(leaf)
    name = jax.tree_util.keystr(path)
    digest.update(f'{name} {value.dtype} {value.shape};'.encode())
    digest.update(np.ascontiguousarray(value))
  return digest.hexdigest()


def mean_appearance(appearance, train_rows=None) -> np.ndarray:
  """[A] mean embedding of the photos that training saw.

  Args:
    appearance: [P, A].
    train_rows: their rows; None is all.
  """
  appearance = np.asarray(appearance, np.float32)
  if train_rows is not None and len(train_rows):
    appearance = appearance[np.asarray(train_rows)]
  return appearance.mean(axis=0)


def right_half_start(width: int, pyramid_level: int) -> int:
  """First column of a level that shows nothing of the photo's left half.

  Args:
    width: columns at level 0; the left half are the first width // 2.
    pyramid_level: level.
  """
  return -(-(width // 2) // 2**pyramid_level)


def _render(subject, camera, appearance, truth, level, pixel_size, **more):
  """Renders what a photo shows at one level; sizes must agree."""
  image = render_image.render_image(
      subject.model,
      subject.spec,
      camera,
      subject.octree,
      appearance,
      subject.options,
      background=subject.background,
      max_memory_gb=subject.max_memory_gb,
      pyramid_level=level,
      pixel_size=pixel_size,
      # One set of outputs: one program for all pictures.
      outputs=('rgb', 'statistics'),
      **more,
  )
  if image.rgb.shape != truth.shape:
    raise ValueError(
        f'got a render of {image.rgb.shape}, a photo of {truth.shape}'
    )
  return image


def _fitted_scores(subject, camera, embedding, rgb, valid, level, scale, start):
  """psnr and ssim of the right half with a fitted embedding."""
  height, width = rgb.shape[:2]
  if start >= width:
    return None, None
  rgb, valid = rgb[:, start:], valid[:, start:]
  crop = (start, 0, width, height)
  image = _render(
      subject, camera, embedding, rgb, level, scale, crop=crop
  )  # fmt: skip
  return metrics.psnr(image.rgb, rgb, valid), metrics.ssim(
      image.rgb, rgb, valid
  )


def evaluate_photo(
    subject, camera, pyramid, row, appearance, *, fit, fit_options, seed,
    watch=None,
) -> dict[str, Any]:  # fmt: skip
  """Scores one photo at every pyramid level.

  Args:
    subject: what is scored.
    camera: single row.
    pyramid: pixels.
    row: of the photo in the pyramid.
    appearance: [A] embedding of `psnr` and `ssim`.
    fit: whether the fitted scores are wanted.
    fit_options: of the fit.
    seed: of the fit's pixels.
    watch: called with the rays done after each picture.

  Returns:
    Scores, baselines, counts; `statistics` is render_image's of level 0.
  """
  scale = pyramid.downscale
  widths = pyramid.sizes[row, :, 0]
  embedding, levels, statistics, extra = appearance, [], None, {}
  for level in range(pyramid.sizes.shape[1]):
    if not np.all(pyramid.sizes[row, level] > 0):
      continue
    rgb, valid = pyramid_lib.photo(pyramid, row, level)
    image = _render(subject, camera, appearance, rgb, level, scale)
    scores = {
        'level': level,
        'psnr': metrics.psnr(image.rgb, rgb, valid),
        'ssim': metrics.ssim(image.rgb, rgb, valid),
    }
    if level == 0:
      statistics = image.statistics
      extra['psnr_constant'] = baselines.best_constant_psnr(rgb, valid)
      extra['psnr_blurred'] = baselines.blurred_psnr(rgb, valid)
    if fit:
      start = right_half_start(int(widths[0]), level)
      if level == 0:
        left = valid & (np.arange(rgb.shape[1]) < start)
        embedding = fitting.fit_appearance(
            subject.model, subject.spec, camera, subject.octree, rgb, left,
            start=appearance, options=subject.options,
            fit_options=fit_options, background=subject.background,
            pixel_size=scale, seed=seed,
        )  # fmt: skip
      pair = _fitted_scores(
          subject, camera, embedding, rgb, valid, level, scale, start
      )
      scores['psnr_fitted'], scores['ssim_fitted'] = pair
    levels.append(scores)
    if watch is not None:
      watch(rgb.shape[0] * rgb.shape[1], scores['psnr'])
  first = {name: levels[0].get(name) for name in _SCORES}
  return {
      **first, **extra, 'by_pyramid_level': levels, 'statistics': statistics
  }  # fmt: skip


def _by_pyramid_level(photos):
  """Means over photos, from level 0 up."""
  found = {}
  for photo in photos:
    for scores in photo['by_pyramid_level']:
      found.setdefault(scores['level'], []).append(scores)
  return [
      {
          'level': level,
          **{
              name: metrics.mean_score(s.get(name) for s in found[level])
              for name in _SCORES
          },
      }
      for level in sorted(found)
  ]


def _counts(photos, octree):
  """How many samples and nodes the photos of level 0 took."""
  statistics = [photo.pop('statistics') for photo in photos]
  samples = np.zeros(octree.num_levels, np.int64)
  for photo, one in zip(photos, statistics, strict=True):
    samples += one.samples_by_level
    photo['nodes_touched'] = int(one.touched_slots.sum())
  touched = [photo['nodes_touched'] for photo in photos]
  mean = float(np.mean(touched)) if touched else None
  return {
      'samples_by_level': (samples / max(samples.sum(), 1)).tolist(),
      'nodes_touched_mean': mean,
      # Nodes are of one size, so nodes count as parameters do.
      'params_touched_fraction': (
          None if mean is None else mean / octree.num_nodes
      ),
  }


def evaluate(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    octree: tree_lib.Octree,
    cameras: cameras_lib.Cameras,
    pyramid: pyramid_lib.PhotoPyramid,
    photo_rows: Sequence[int],
    *,
    photo_names: Sequence[str],
    options: render_rays.RenderOptions = render_rays.RenderOptions(),
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    train_rows=None,
    appearance=None,
    fit: bool = True,
    fit_options: fitting.FitOptions = fitting.FitOptions(),
    num_steps: int = 0,
    seed: int = 0,
    max_memory_gb: float | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
  """Scores photos; what `eval.json` says.

  Args:
    model: scene, on the device.
    spec: static facts.
    octree: the host's tree.
    cameras: table [P] of all photos.
    pyramid: pixels of the same photos.
    photo_rows: rows to score.
    photo_names: P names.
    options: sampling.
    background: rgb behind everything.
    train_rows: rows whose mean embedding `psnr` is taken with; None: all.
    appearance: [A] embedding instead of that mean.
    fit: whether to score the right halves with fitted embeddings.
    fit_options: of the fit.
    num_steps: training steps done, for the record.
    seed: of the fits' pixels.
    max_memory_gb: see `render_image`.
    show_progress: draw a progress bar.

  Returns:
    The contract's fields; scores that do not exist are None.
  """
  if appearance is None:
    appearance = mean_appearance(model.appearance, train_rows)
  subject = _Subject(model, spec, octree, options, background, max_memory_gb)
  rows = [int(row) for row in photo_rows]
  total = int(np.prod(pyramid.sizes[rows].astype(np.int64), axis=-1).sum())
  photos, done = [], 0
  with contextlib.ExitStack() as stack:
    bar = None
    if show_progress:
      bar = stack.enter_context(
          progress_lib.Progress(total, description='evaluate (rays)')
      )

    def watch(rays, psnr):
      nonlocal done
      done += rays
      if bar is not None:
        bar.update(done, **({} if psnr is None else {'psnr': psnr}))

    for row in rows:
      scores = evaluate_photo(
          subject, cameras_lib.take(cameras, row), pyramid, row, appearance,
          fit=fit, fit_options=fit_options, seed=(seed, row), watch=watch,
      )  # fmt: skip
      photos.append({'name': str(photo_names[row]), **scores})
  return {
      **{
          name: metrics.mean_score(photo[name] for photo in photos)
          for name in _SCORES
      },
      'by_pyramid_level': _by_pyramid_level(photos),
      **_counts(photos, octree),
      'by_photo': photos,
      'num_photos': len(photos),
      'num_nodes': octree.num_nodes,
      'params_sha256': params_sha256(model),
      'num_steps': int(num_steps),
  }
