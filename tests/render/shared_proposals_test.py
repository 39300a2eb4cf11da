"""Shared proposals and colours of what shows: against the exact renderer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.octree import levels
from infnerf_jax.render import render_image, render_rays, shared_proposals
from tests import tiny_model
from tests.render import blending_test

OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))


def _image(options, **more):
  model, spec, octree = tiny_model.make_model()
  return render_image.render_image(
      model, spec, tiny_model.make_camera(), octree, np.zeros(4), options,
      ray_block=512, outputs=('rgb', 'opacity', 'statistics'), **more,
  )  # fmt: skip


def test_weights_are_the_largest_of_four_corners():
  rng = np.random.default_rng(0)
  columns, rows, stride, num = 5, 4, 3, 7
  weights = rng.uniform(size=(rows * columns, num)).astype(np.float16)
  column = np.array([0, 2, 3, 11, 5])
  row = np.array([0, 1, 8, 3, 5])
  found = shared_proposals.corner_weights(
      jnp.asarray(weights), columns, column, row, stride
  )
  grid = weights.astype(np.float32).reshape(rows, columns, num)
  for i, (x, y) in enumerate(zip(column // stride, row // stride)):
    largest = grid[y : y + 2, x : x + 2].max(axis=(0, 1))
    padded = np.pad(largest, 1)
    spread = np.maximum(padded[:-2], padded[2:])
    np.testing.assert_allclose(
        found[i], np.maximum(largest, 0.5 * spread), rtol=1e-6
    )


def test_two_rounds_apart_are_two_rounds_together():
  """A ray's own proposal weights give the exact renderer's samples."""
  model, spec, octree = tiny_model.make_model()
  rays = blending_test._rays(octree, 3.0)
  first, last = render_rays.sampling_rounds(None, model, spec, rays, OPTIONS)
  samples = shared_proposals.proposal_round(model, spec, rays, OPTIONS)
  np.testing.assert_array_equal(samples.t, first.t)
  weights = render_rays.proposal_weights(model, spec, samples)
  again = shared_proposals.last_round(model, spec, rays, OPTIONS, weights)
  np.testing.assert_array_equal(again.t, last.t)
  np.testing.assert_array_equal(again.slot, last.slot)


@pytest.mark.parametrize('blend', [0.0, 0.5])
@pytest.mark.parametrize('opaque_end', [False, True])
def test_colours_that_do_not_show_are_not_missed(blend, opaque_end):
  model, spec, octree = tiny_model.make_model()
  rays = blending_test._rays(octree, 3.0)
  policy = levels.blended(levels.determine_lod_level, blend)
  options = dataclasses.replace(OPTIONS, level_policy=policy)
  samples = render_rays.place_samples(None, model, spec, rays, options)
  inputs = render_rays.ray_inputs(rays, jnp.zeros((48, 4)))
  exact = render_rays.shade_samples(
      model, spec, samples, inputs, opaque_end=opaque_end
  )
  shade = lambda w: shared_proposals.shade_visible(
      model, spec, samples, inputs, min_weight=w, opaque_end=opaque_end
  )
  everything, most = shade(1e-12), shade(1e-3)
  np.testing.assert_allclose(everything.rgb, exact.rgb, atol=1e-5)
  np.testing.assert_allclose(most.rgb, exact.rgb, atol=12e-3)
  np.testing.assert_allclose(most.opacity, exact.opacity, atol=1e-6)
  assert np.abs(shade(0.2).rgb - exact.rgb).max() > 1e-3


def test_tiles_do_not_depend_on_the_crop():
  fast = dataclasses.replace(shared_proposals.fast(OPTIONS), proposal_stride=4)
  whole = _image(fast)
  part = _image(fast, crop=(5, 3, 37, 30))
  np.testing.assert_allclose(part.rgb, whole.rgb[3:30, 5:37], atol=1e-5)
  exact = _image(OPTIONS)
  # What proposals touch is counted although pixels do not draw them.
  assert not np.any(
      part.statistics.touched_slots & ~whole.statistics.touched_slots
  )
  assert whole.statistics.touched_slots.sum() >= (
      0.7 * exact.statistics.touched_slots.sum()
  )
  np.testing.assert_allclose(
      whole.opacity.mean(), exact.opacity.mean(), atol=0.05
  )


def test_other_rounds_are_refused_or_left_alone():
  three = render_rays.RenderOptions(num_samples=(8, 8, 8))
  assert shared_proposals.fast(three).proposal_stride == 1
  with pytest.raises(ValueError, match='expected 1, or more with two rounds'):
    _image(dataclasses.replace(three, proposal_stride=4))
