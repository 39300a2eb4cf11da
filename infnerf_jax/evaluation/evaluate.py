"""The evaluation protocol.

`psnr`, `ssim`: whole photos, mean appearance embedding. `psnr_fitted`,
`ssim_fitted`: the embedding alone is fitted to the left half of a photo, once,
and scored on its right half. Both at every pyramid level, against
area-averaged photos; the headline figures are those of level 0. Scores are
means over photos.
"""

import contextlib
from typing import Any, NamedTuple, Sequence

import numpy as np

from infnerf_jax import progress as progress_lib
from infnerf_jax.evaluation import fitting, metrics, photo_scores
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.storage import leaves, store_digest


class PhotoTable(NamedTuple):
  """Photos to score renders against, row by row.

  Attributes:
    names: P names.
    cameras: table [P].
    pyramid: pixels.
  """

  names: Sequence[str]
  cameras: cameras_lib.Cameras
  pyramid: pyramid_lib.PhotoPyramid


class Protocol(NamedTuple):
  """How photos are scored.

  Attributes:
    train_rows: rows whose mean embedding `psnr` is taken with; None: all.
    appearance: [A] embedding instead of that mean.
    fit: whether to score the right halves with fitted embeddings.
    fit_options: of the fit.
    seed: of the fits' pixels.
  """

  train_rows: Any = None
  appearance: Any = None
  fit: bool = True
  fit_options: fitting.FitOptions = fitting.FitOptions()
  seed: int = 0


def params_sha256(model: scene_model.SceneModel) -> str:
  """Digest of all learned values (node fields and appearance).

  Args:
    model: scene.

  Returns:
    64 hexadecimal digits; equal if and only if every bit is.
  """
  return leaves.params_sha256(
      {'nodes': model.nodes, 'appearance': model.appearance}
  )


def _digest(subject: photo_scores.Subject) -> str:
  """`params_sha256` of a subject, from its store where it has one."""
  if subject.store is None:
    return params_sha256(subject.model)
  return store_digest.params_sha256(
      subject.store.store, {'appearance': subject.model.appearance}
  )


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
              for name in photo_scores.SCORES
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


def _score_photos(subject, photos, rows, protocol, show_progress):
  """Scores of every photo, in order."""
  learned = subject.model.appearance
  appearance, fit = protocol.appearance, None
  if appearance is None:
    appearance = fitting.mean_appearance(learned, protocol.train_rows)
  # A fit needs all nodes of a photo's pyramid at once.
  if protocol.fit and not (subject.store is not None and len(appearance)):
    spread = fitting.appearance_spread(learned, protocol.train_rows)
    fit = photo_scores.Fit(spread, protocol.fit_options, protocol.seed)
  total = np.prod(photos.pyramid.sizes[rows].astype(np.int64), axis=-1).sum()
  done, scores = 0, []
  with contextlib.ExitStack() as stack:
    update = lambda *unused, **also_unused: None
    if show_progress:
      bar = progress_lib.Progress(int(total), description='evaluate (rays)')
      update = stack.enter_context(bar).update

    def watch(rays, psnr):
      nonlocal done
      done += rays
      update(done, **({} if psnr is None else {'psnr': psnr}))

    for row in rows:
      camera = cameras_lib.take(photos.cameras, row)
      one = photo_scores.score_photo(
          subject, camera, photos.pyramid, row, appearance,
          fit=fit, watch=watch,
      )  # fmt: skip
      scores.append({'name': str(photos.names[row]), **one})
  return scores


def evaluate(
    subject: photo_scores.Subject,
    photos: PhotoTable,
    photo_rows: Sequence[int],
    protocol: Protocol = Protocol(),
    *,
    num_steps: int = 0,
    show_progress: bool = True,
) -> dict[str, Any]:
  """Scores photos; what `eval.json` says.

  Args:
    subject: what is scored, and how it is rendered.
    photos: pixels and cameras of all photos.
    photo_rows: rows to score.
    protocol: embeddings and fits.
    num_steps: training steps done, for the record.
    show_progress: draw a progress bar.

  Returns:
    The contract's fields; scores that do not exist are None.
  """
  rows = [int(row) for row in photo_rows]
  scores = _score_photos(subject, photos, rows, protocol, show_progress)
  return {
      **{
          name: metrics.mean_score(photo[name] for photo in scores)
          for name in photo_scores.SCORES
      },
      'by_pyramid_level': _by_pyramid_level(scores),
      **_counts(scores, subject.octree),
      'by_photo': scores,
      'num_photos': len(scores),
      'num_nodes': subject.octree.num_nodes,
      'params_sha256': _digest(subject),
      'num_steps': int(num_steps),
  }
