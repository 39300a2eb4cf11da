"""Suite `traversal`: samples placed by traversal against those by proposals.

What decides on any device is what the fields must answer for a picture of the
same quality: densities and colours a ray, at a PSNR. CPU time is beside it,
without a native traversal.
"""

import dataclasses
import statistics
import time

import numpy as np

from infnerf_jax.evaluation import metrics
from infnerf_jax.evaluation.bench import harness
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import pyramid as pyramid_lib

_LOSS_TARGET = 0.1
# Step in the finest node_gsd, and samples of a ray at most.
STEPS = ((1.0, 256), (2.0, 256), (4.0, 128), (8.0, 64))
# Light below which a renderer might stop, and weight without a colour.
_NOTHING_LEFT = 1e-3


def _variants(loaded):
  """Options by name, and what a ray's densities cost where that is fixed."""
  exact = loaded.options
  yield 'exact', exact, sum(exact.num_samples)
  for step, most in STEPS:
    yield f'step {step:g}', dataclasses.replace(
        exact, sampler='traverse', step=step, max_samples=most,
        min_weight=_NOTHING_LEFT,
    ), None  # fmt: skip


def _needed(weights) -> tuple[float, float]:
  """(samples before a ray's light is used up, those that show), a ray."""
  before = np.cumsum(weights, axis=-1) - weights
  lit = (weights > 0) & (before < 1 - _NOTHING_LEFT)
  rays = weights[..., 0].size
  return lit.sum() / rays, (weights >= _NOTHING_LEFT).sum() / rays


def _measure(draw, rgb, valid):
  """(CPU seconds, PSNR, densities, lit samples, colours), the last a ray."""
  draw(('rgb',))  # compiles
  seconds = []
  for _ in range(2):
    start = time.process_time()
    image = draw(('rgb',))
    seconds.append(time.process_time() - start)
  counted = draw(('weights', 'statistics'))
  samples = counted.statistics.samples_by_level.sum() / counted.num_rays
  lit, shown = _needed(counted.weights)
  return min(seconds), metrics.psnr(image.rgb, rgb, valid), samples, lit, shown


def rows(loaded, *, max_views: int = 2) -> list[harness.Row]:
  """Rows of a run.

  Args:
    loaded: a LoadedScene whose photos are at hand.
    max_views: test photos.

  Returns:
    Rows by sampler: PSNR lost against the basic renderer, and its cost.
  """
  start = time.process_time()
  walked = loaded.with_traversal()
  baking = time.process_time() - start
  pyramid = loaded.open_pyramid()
  found = {}
  for row in loaded.split['test'][:max_views]:
    rgb, valid = pyramid_lib.photo(pyramid, row, 0)
    camera = cameras_lib.take(loaded.cameras, row)
    for name, options, _ in _variants(loaded):
      draw = lambda outputs, o=options, c=camera: walked.render(
          c, options=o, pixel_size=loaded.downscale, outputs=outputs
      )
      found.setdefault(name, []).append(_measure(draw, rgb, valid))
  means = {k: np.mean(v, axis=0) for k, v in found.items()}
  made = [
      harness.make_row(
          'traversal/tree/CPU time to make it', baking, 's',
          note=f'{walked.model.traversal.children.shape[0]} nodes',
      )
  ]  # fmt: skip
  for name, _, fixed in _variants(loaded):
    made += _variant_rows(name, fixed, means, found)
  return made


def _variant_rows(name, fixed, means, found):
  seconds, psnr, samples, lit, shown = means[name]
  slower = statistics.median(
      mine[0] / exact[0] for mine, exact in zip(found[name], found['exact'])
  )
  loss = means['exact'][1] - psnr
  densities = samples if fixed is None else fixed
  label = f'traversal/{name}'
  return [
      harness.make_row(
          f'{label}/PSNR lost', loss, 'dB', reference=means['exact'][1],
          ratio=loss, target=_LOSS_TARGET, rule='<=',
          note=f'{len(found[name])} test photos',
      ),
      harness.make_row(
          f'{label}/densities a ray', densities, 'samples',
          reference=lit, ratio=densities / lit,
          note='reference: those before the light is used up',
          detail={'colours a ray': shown},
      ),
      harness.make_row(
          f'{label}/CPU time against exact', seconds, 's', ratio=slower,
          note='of a picture; the traversal by XLA: it has no native kernel',
      ),
  ]  # fmt: skip
