"""Rays of a batch by groups of photos, so that a process reads only its own.

Group g has every G-th photo of a shuffled list and the g-th part of each
batch's rays. The batch stays a pure function of seed, step and G; a process
draws the groups in which its rays lie.
"""

import dataclasses
from typing import Callable, Sequence

import numpy as np

from infnerf_jax import errors
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import ray_batches

# Philox keys beside those of `ray_batches`.
_GROUP_KEY = 2**63 + 2**62
# Group 0 has the run's own seed.
_SEED_STRIDE = 0x9E3779B97F4A7C15


def group_photos(photo_rows, num_groups: int, seed: int) -> list[np.ndarray]:
  """Deals photos out to groups that are alike in number and in content.

  Args:
    photo_rows: [M] rows of the training photos.
    num_groups: G.
    seed: of the run.

  Returns:
    G increasing arrays of rows; the photos themselves where G is 1.

  Raises:
    InputError: more groups than photos.
  """
  photo_rows = np.asarray(photo_rows)
  if num_groups == 1:
    return [photo_rows]
  if num_groups > len(photo_rows):
    raise errors.InputError(
        f'config.data.photo_groups: got {num_groups}, expected at most the'
        f' {len(photo_rows)} training photos'
    )
  key = np.array([seed % 2**64, _GROUP_KEY], np.uint64)
  order = np.random.Generator(np.random.Philox(key=key)).permutation(
      len(photo_rows)
  )
  return [np.sort(photo_rows[order[g::num_groups]]) for g in range(num_groups)]


def sample_rays(
    pyramid: pyramid_lib.PhotoPyramid,
    groups: list[np.ndarray],
    options: ray_batches.BatchOptions,
    step: int,
    observations: observations_lib.Observations | None = None,
    *,
    rays: slice | None = None,
    focuses: Sequence[focus_lib.Focus] | None = None,
) -> ray_batches.RayBatch:
  """Some rays of a step's batch.

  Args:
    pyramid: photos.
    groups: of `group_photos`; their number divides the rays.
    options: of the whole batch.
    step: number of the step, from 0.
    observations: where the photos see sparse points.
    rays: which of the batch's; None: all.
    focuses: of each group, what to look at more than at other things.

  Returns:
    RayBatch of these rays.
  """
  focuses = focuses or [None] * len(groups)

  def draw(group, options):
    return ray_batches.sample_batch(
        pyramid, groups[group], options, step, observations, focuses[group]
    )

  return rays_of_groups(draw, options, len(groups), rays)


def rays_of_groups(
    draw: Callable[[int, ray_batches.BatchOptions], ray_batches.RayBatch],
    options: ray_batches.BatchOptions,
    num_groups: int,
    rays: slice | None = None,
) -> ray_batches.RayBatch:
  """Some rays of a batch to which each group gives its part.

  Args:
    draw: (group, options) to that group's rays.
    options: of the whole batch.
    num_groups: G.
    rays: which of the batch's; None: all.

  Returns:
    RayBatch of these rays.
  """
  if num_groups == 1:
    batch = draw(0, options)
    return batch if rays is None else _take(batch, rays)
  first, last, _ = (rays or slice(None)).indices(options.num_rays)
  size = options.num_rays // num_groups
  begin = first // size
  drawn = [
      draw(g, _of_group(options, g, num_groups))
      for g in range(begin, -(-last // size))
  ]
  batch = ray_batches.RayBatch(*map(np.concatenate, zip(*drawn, strict=True)))
  return _take(batch, slice(first - begin * size, last - begin * size))


def _of_group(options, group, num_groups) -> ray_batches.BatchOptions:
  return dataclasses.replace(
      options,
      num_rays=options.num_rays // num_groups,
      seed=(options.seed + group * _SEED_STRIDE) % 2**64,
      # All groups of a process share its memory for decoded photos.
      window_photos=max(1, options.window_photos // num_groups),
  )


def _take(batch, rays: slice) -> ray_batches.RayBatch:
  return ray_batches.RayBatch(*(x[rays] for x in batch))
