"""Empty cells are empty, and leaving them out changes nothing that shows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import (
  early_stop,
  occupancy,
  render_image,
  render_rays,
)  # fmt: skip
from kernels.locate import api as locate_op
from tests import tiny_model

OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))


@pytest.fixture(scope='module')
def scene():
  """A model one half of which is clear, and its grid."""
  model, spec, octree = tiny_model.make_model()
  last = np.array(model.nodes['density']['w1'])
  # Hidden values are at least zero: these weights make nothing of them. So the
  # root and the lower half of x are clear.
  last[:5, :, 0] = -60 * np.abs(last[:5, :, 0])
  last[5:, :, 0] *= 6
  nodes = {**model.nodes, 'density': {**model.nodes['density'], 'w1': last}}
  model = model._replace(nodes=nodes)
  grid = occupancy.make_occupancy(model, spec, resolution=24, min_alpha=0.02)
  return model, spec, octree, grid


def _densities(model, spec, points, level):
  num = len(points)
  zeros = np.zeros((num, 3), np.float32)
  located = locate_op.locate(
      points, zeros, zeros, np.zeros((num, 1), np.float32),
      np.full((num, 1), level, np.int32), model.tree.children,
      model.tree.slot_of_node, root_side=spec.root_side,
      max_level=spec.max_level,
  )  # fmt: skip
  raw = node_evaluation.node_density(
      model.nodes, model.tree, located.position[:, 0], located.slot[:, 0],
      jnp.arange(num, dtype=jnp.int32), spec=spec,
  )  # fmt: skip
  return np.asarray(scene_model.density(raw, spec))


def test_little_lies_in_empty_cells_at_any_level(scene):
  model, spec, _, grid = scene
  rng = np.random.default_rng(0)
  low, high = np.asarray(model.sample_aabb)
  points = rng.uniform(low, high, (4000, 3)).astype(np.float32)
  cell = np.floor((points - low) / np.asarray(grid.cell)).astype(int)
  shape = np.asarray(grid.shape)
  assert np.all(cell < shape)
  occupied = np.asarray(grid.occupied).reshape(shape)[tuple(cell.T)]
  assert 0.2 < occupied.mean() < 0.95
  width = float(np.asarray(grid.cell).max()) * spec.root_side
  for level in range(spec.max_level + 1):
    alpha = -np.expm1(-_densities(model, spec, points, level) * width)
    # Four places of a cell and its neighbours were looked at.
    assert (alpha[~occupied] > 0.04).mean() < 0.01
  rays = cameras_lib.Rays(
      origins=points, origins_lo=np.zeros_like(points),
      directions=np.tile(np.float32([0, 0, 1]), (len(points), 1)),
      base_radius=np.zeros((len(points), 1), np.float32),
      cone_slope=np.zeros((len(points), 1), np.float32),
      camera_idx=np.zeros(len(points), np.int32),
  )  # fmt: skip
  found = occupancy.is_occupied(
      grid, rays, np.zeros((len(points), 1), np.float32), spec.root_side
  )
  assert (np.asarray(found)[:, 0] == occupied).mean() > 0.999
  outside = rays._replace(origins=points + 10)
  assert np.asarray(
      occupancy.is_occupied(grid, outside, np.zeros((4000, 1)), spec.root_side)
  ).all()


@pytest.mark.parametrize('opaque_end', [False, True])
def test_pictures_without_empty_cells(scene, opaque_end):
  model, spec, octree, grid = scene
  # One round: its samples lie everywhere along the rays.
  options = render_rays.RenderOptions(num_samples=(24,), opaque_end=opaque_end)
  draw = lambda model: render_image.render_image(
      model, spec, tiny_model.make_camera(), octree, np.zeros(4), options,
      ray_block=512, outputs=('rgb', 'opacity', 'statistics'),
  )  # fmt: skip
  exact, skipping = draw(model), draw(model._replace(occupancy=grid))
  counted = lambda image: image.statistics.samples_by_level.sum()
  assert counted(skipping) < 0.8 * counted(exact)
  assert np.mean(np.square(skipping.rgb - exact.rgb)) < 2e-3
  # A grid without an empty cell changes no bit.
  full = grid._replace(occupied=jnp.ones_like(grid.occupied))
  np.testing.assert_array_equal(draw(model._replace(occupancy=full)).rgb,
                                exact.rgb)  # fmt: skip
  if opaque_end:
    empty = grid._replace(occupied=jnp.zeros_like(grid.occupied))
    opacity = draw(model._replace(occupancy=empty)).opacity
    assert np.all((opacity > 0.99) <= (exact.opacity > 0.99))
    assert np.any(opacity > 0.99)  # the last sample is always evaluated


def test_what_lies_behind_is_not_evaluated():
  rng = np.random.default_rng(1)
  slot = rng.integers(-1, 3, (7, 10)).astype(np.int32)
  delta = rng.uniform(0.1, 1.0, (7, 10)).astype(np.float32)
  given = np.where(slot < 0, 0, rng.uniform(0, 6, (7, 10))).astype(np.float32)
  asked = []

  def evaluate(slot, part):
    asked.append(np.asarray(slot))
    return (jnp.where(slot < 0, 0.0, given[:, part]),)

  (found,) = early_stop.densities(evaluate, slot, delta, stop_below=0.1)
  seen = np.concatenate(asked, axis=1)
  for ray in range(7):
    depth, end = 0.0, 10
    for first in range(0, 10, 3):  # parts of three samples
      if np.exp(-depth) <= 0.1:
        end = first
        break
      part = slice(first, first + 3)
      depth += float(np.sum(given[ray, part] * delta[ray, part]))
    np.testing.assert_array_equal(found[ray, :end], given[ray, :end])
    assert not np.any(found[ray, end:]) and np.all(seen[ray, end:] == -1)
    np.testing.assert_array_equal(seen[ray, :end], slot[ray, :end])
  (whole,) = early_stop.densities(evaluate, slot, delta, stop_below=0.0)
  np.testing.assert_array_equal(whole, given)


def test_stopping_early_changes_what_is_behind_only(scene):
  model, spec, octree, _ = scene
  draw = lambda **changes: render_image.render_image(
      model, spec, tiny_model.make_camera(), octree, np.zeros(4),
      dataclasses.replace(OPTIONS, **changes), ray_block=512,
      outputs=('rgb', 'opacity'),
  )  # fmt: skip
  exact, stopped = draw(), draw(stop_below=1e-3)
  # Proposals lose their tails: samples move a little.
  assert np.abs(stopped.rgb - exact.rgb).max() < 0.02
  assert np.abs(draw(stop_below=0.5).rgb - exact.rgb).max() > 0.02
