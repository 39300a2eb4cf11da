"""Shared proposals: intervals of tiles, and pictures against exact ones."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.models import scene_model
from infnerf_jax.render import (
  render_image,
  render_rays,
  shared_proposals,
  tiles,
)  # fmt: skip
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
  columns, rows, num = 5, 4, 7
  weights = rng.uniform(size=(rows * columns, num)).astype(np.float16)
  corners = tiles.Corners(jnp.asarray(weights), columns, rows, 3, 10)
  column = np.array([0, 3, 1, 4, 2])
  row = np.array([0, 1, 2, 0, 3])
  found = corners.of_tiles(column + 3, row + 10)
  grid = weights.astype(np.float32).reshape(rows, columns, num)
  for i, (x, y) in enumerate(zip(column, row)):
    # The last column and row of corners belong to the tiles before.
    x, y = min(x, columns - 2), min(y, rows - 2)
    largest = grid[y : y + 2, x : x + 2].max(axis=(0, 1))
    np.testing.assert_array_equal(found[i], largest)
  looks = shared_proposals.is_worth_a_look(
      jnp.asarray([[0.0, 0.0, 0.5, 0.0, 0.0, 1e-4, 0.0]])
  )
  np.testing.assert_array_equal(looks[0], [0, 1, 1, 1, 0, 0, 0])


def test_tiles_have_as_many_samples_as_their_weights_spread_over():
  options = dataclasses.replace(
      OPTIONS, num_samples=(16, 32), samples_per_interval=4.0, padding=0.0
  )
  weights = np.zeros((3, 16), np.float32)
  weights[0, 5] = 0.7
  weights[1, 2:4] = weights[1, 10:12] = 0.3
  sdist = shared_proposals.tile_intervals(jnp.asarray(weights), options)
  length = np.diff(np.asarray(sdist), axis=-1)
  counts = (length > 0).sum(axis=-1)
  assert (np.diff(counts[:2]) > 4) and counts[2] == 32
  # One interval at full weight and two at a quarter: 4 exp(entropy), rounded.
  share = np.array([1, 0.25, 0.25]) / 1.5
  want = np.ceil(4 * np.exp(-np.sum(share * np.log(share))))
  assert counts[0] == want
  for row, count in zip(length, counts):
    assert (row[:count] > 0).all() and (row[count:] == 0).all()
  few = dataclasses.replace(options, samples_per_interval=0.0)
  everywhere = shared_proposals.tile_intervals(jnp.asarray(weights), few)
  assert (np.diff(np.asarray(everywhere), axis=-1) > 0).all()


def test_two_rounds_apart_are_two_rounds_together():
  """A ray's own proposal weights give the exact renderer's samples."""
  model, spec, octree = tiny_model.make_model()
  rays = blending_test._rays(octree, 3.0)
  first, last = render_rays.sampling_rounds(None, model, spec, rays, OPTIONS)
  samples = shared_proposals.proposal_round(model, spec, rays, OPTIONS)
  np.testing.assert_array_equal(samples.t, first.t)
  again = shared_proposals.last_round(model, spec, rays, OPTIONS, last.sdist)
  np.testing.assert_array_equal(again.t, last.t)
  np.testing.assert_array_equal(again.slot, last.slot)


@pytest.mark.parametrize('threshold', [0.0, 0.05, 2.0])
def test_corners_between_look_where_others_found_something(
    monkeypatch, threshold
):
  monkeypatch.setattr(shared_proposals, '_MIN_PROPOSAL', threshold)
  model, spec, octree = tiny_model.make_model()
  cameras = scene_model.device_cameras(
      render_image._single_row(tiny_model.make_camera()), octree
  )
  # Compiled anew for each threshold.
  options = dataclasses.replace(
      OPTIONS, proposal_stride=2, first_stride=4, padding=threshold
  )
  corners = functools.partial(
      tiles._corners, (model, spec, cameras), options, ((0, 0, 8, 8), 6.0, 32)
  )
  coarse, everywhere = corners(4)[0], corners(2)[0]
  found = np.asarray(corners(2, coarse)[0].weights[:25])
  everywhere = np.asarray(everywhere.weights[:25])
  grid = np.asarray(coarse.weights[:9], np.float32).reshape(3, 3, -1)
  for i, (row, column) in enumerate(np.ndindex(5, 5)):
    x, y = min(column // 2, 1), min(row // 2, 1)
    near = np.pad(grid[y : y + 2, x : x + 2].max(axis=(0, 1)), 1)
    looks = np.maximum(np.maximum(near[:-2], near[2:]), near[1:-1]) >= threshold
    assert (found[i][~looks] == 0).all()
    # Nothing before them hides more than it did; fewer things may.
    assert (found[i][looks] >= everywhere[i][looks]).all()
  if threshold == 0:
    np.testing.assert_array_equal(found, everywhere)


def test_tiles_do_not_depend_on_the_crop():
  fast = shared_proposals.fast(OPTIONS)
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
