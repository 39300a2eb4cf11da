"""Rays by traversal against a slow quadrature of the same samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import levels
from infnerf_jax.render import (
  occupancy,
  render_image,
  render_rays,
  traversal,
  traversed_rays,
)  # fmt: skip
from kernels.node_field import reference as field_reference
from tests import tiny_model

OPTIONS = render_rays.RenderOptions(
    sampler='traverse', step=3.0, max_samples=160,
    level_policy=levels.BiasedPolicy(-1.0),
)  # fmt: skip
NUM_RAYS = 24


# Op by op they would be compiled one by one.
_place = jax.jit(traversed_rays.place_samples, static_argnums=(1, 3))
_shade = jax.jit(traversed_rays.shade_samples, static_argnums=(1, 5))
_fields = jax.jit(field_reference.node_field, static_argnames='spec')


def _grid(shape, occupied, aabb):
  low, high = np.asarray(aabb, np.float32)
  return occupancy.Occupancy(
      jnp.asarray(occupied.reshape(-1)), jnp.asarray(shape, jnp.int32),
      jnp.asarray(low), jnp.asarray((high - low) / np.array(shape)),
  )  # fmt: skip


@pytest.fixture(scope='module')
def scene():
  """Model with a traversal, its flags of cells, spec, rays, ray inputs."""
  model, spec, octree = tiny_model.make_model()
  shape = (13, 16, 11)
  flags = np.zeros(shape, bool)
  flags[3:9, 4:12, 2:7] = flags[10, 2, 8] = True
  grid = _grid(shape, flags, model.sample_aabb)
  model = model._replace(traversal=traversal.make_traversal(model, grid))
  rng = np.random.default_rng(4)
  origins = rng.uniform(-0.6, 1.6, (NUM_RAYS, 3)).astype(np.float32)
  towards = rng.uniform(0.2, 0.8, (NUM_RAYS, 3)) - origins
  towards[0] *= -1  # flies away
  directions = towards / np.linalg.norm(towards, axis=-1, keepdims=True)
  column = lambda x: np.full((NUM_RAYS, 1), x, np.float32)
  rays = cameras_lib.Rays(
      origins=origins, origins_lo=np.zeros_like(origins),
      directions=directions.astype(np.float32), base_radius=column(0.0),
      cone_slope=rng.uniform(0.01, 0.05, (NUM_RAYS, 1)).astype(np.float32),
      camera_idx=np.full((NUM_RAYS, 1), -1, np.int32),
  )  # fmt: skip
  rays = jax.tree.map(jnp.asarray, rays)
  inputs = render_rays.ray_inputs(rays, jnp.zeros((NUM_RAYS, 4)))
  return model, grid, spec, rays, inputs, octree


def _ends(scene, r, options):
  """Interval ends of a ray by the definition, and whether each is occupied."""
  model, grid, spec, rays, _, _ = scene
  near, far = (
      float(x[r, 0]) for x in render_rays.ray_limits(model, spec, rays, options)
  )
  step = options.step * spec.root_gsd / 2**spec.max_level
  ends = np.minimum(near + np.arange(int((far - near) / step) + 2) * step, far)
  t = 0.5 * (ends[1:] + ends[:-1])
  x = np.asarray(rays.origins[r], np.float64) + (
      t[:, None] * np.asarray(rays.directions[r], np.float64) / spec.root_side
  )
  cell = np.floor((x - np.asarray(grid.low)) / np.asarray(grid.cell))
  shape = np.asarray(grid.shape)
  cell = np.clip(cell, 0, shape - 1).astype(int)
  flags = np.asarray(grid.occupied).reshape(shape)
  real = ends[1:] > ends[:-1]
  return t[real], np.diff(ends)[real], flags[tuple(cell.T)][real]


def test_samples_are_those_of_occupied_space(scene):
  """All of occupied cells; few that lie beside them, where cells do not fit."""
  model, _, spec, rays, _, _ = scene
  placed = _place(model, spec, rays, OPTIONS)
  kept = some = empty = 0
  for r in range(NUM_RAYS):
    t, delta, occupied = _ends(scene, r, OPTIONS)
    mine = slice(int(placed.ray_offsets[r]), int(placed.ray_offsets[r + 1]))
    found = np.asarray(placed.samples.t[mine, 0])
    if not len(t):
      assert not len(found)
    if not len(t) or len(found) == OPTIONS.max_samples:
      continue
    near = np.abs(found[:, None] - t[None]) < 1e-3 * delta.max()
    assert np.all(near.any(axis=1))  # on the comb
    assert np.all(near.any(axis=0)[occupied])  # nothing occupied is left out
    kept += len(found)
    some += occupied.sum()
    empty += len(t)
  assert some > 400 and kept < 0.7 * empty
  assert int(placed.ray_offsets[1]) == 0  # the ray that flies away


def _located(scene, r, distances, options):
  """(level, position, slot) of samples by walking the octree on the host."""
  _, _, spec, rays, _, _ = scene
  footprint = np.asarray(distances * rays.cone_slope[r], np.float32)
  targets = options.level_policy(
      footprint, root_gsd=spec.root_gsd, max_level=spec.max_level
  )
  return [
      _walked_to(scene, r, t, target)
      for t, target in zip(distances, np.asarray(targets))
  ]


def _walked_to(scene, r, t, target):
  model, _, spec, rays, _, _ = scene
  x = np.asarray(rays.origins[r], np.float64) + (
      t * np.asarray(rays.directions[r], np.float64) / spec.root_side
  )
  q = (x - 0.5) * 2
  m = max(1.0, np.abs(q).max())
  node, level, place = 0, 0, ((2 - 1 / m) * q / m + 2) / 4
  local, children = x, np.asarray(model.tree.children)
  if np.any((x < 0) | (x >= 1)):
    return level, place, 0
  while level < target:
    upper = local >= 0.5
    child = children[node, int(upper @ [4, 2, 1])]
    if child < 0:
      break
    node, level, local = child, level + 1, 2 * local - upper
    place = local
  return level, place, int(model.tree.slot_of_node[node])


def _samples_of(placed, r, opaque_end):
  """([n] t, [n] delta) of a ray, with the end of one that met nothing."""
  mine = slice(int(placed.ray_offsets[r]), int(placed.ray_offsets[r + 1]))
  t = np.asarray(placed.samples.t[mine, 0])
  if opaque_end and not len(t) and placed.has_length[r]:
    return np.asarray(placed.far[r]), np.ones(1)
  return t, np.diff(np.asarray(placed.samples.tdist[mine]))[:, 0]


@pytest.mark.parametrize('opaque_end', [False, True])
def test_colours_equal_a_slow_quadrature(scene, opaque_end):
  model, _, spec, rays, inputs, _ = scene
  options = dataclasses.replace(OPTIONS, opaque_end=opaque_end)
  placed = _place(model, spec, rays, OPTIONS)  # alike for both
  got = _shade(model, spec, placed, rays, inputs, options)
  samples = [_samples_of(placed, r, opaque_end) for r in range(NUM_RAYS)]
  where = [_located(scene, r, t, options) for r, (t, _) in enumerate(samples)]
  flat = [w for ray in where for w in ray]
  assert len(flat) > 100
  # One call of one shape: the reference's fields of all samples.
  raw, rgb = _fields(
      model.nodes, jnp.asarray([w[1] for w in flat], jnp.float32),
      jnp.asarray([w[2] for w in flat], jnp.int32),
      jnp.asarray([r for r, w in enumerate(where) for _ in w], jnp.int32),
      inputs, spec=spec.field,
  )  # fmt: skip
  density = np.asarray(scene_model.density(raw, spec), np.float64)
  first = 0
  for r, (t, delta) in enumerate(samples):
    far, mine = float(placed.far[r, 0]), slice(first, first + len(t))
    first += len(t)
    depth = density[mine] * delta
    if opaque_end and len(t):
      depth[-1] = np.inf
    through = np.exp(-np.concatenate([[0], np.cumsum(depth[:-1])]))[: len(t)]
    weights = (1 - np.exp(-depth)) * through
    color = weights @ np.asarray(rgb[mine], np.float64)
    distance = weights @ t + (1 - weights.sum()) * far
    np.testing.assert_allclose(got.rgb[r], color, atol=2e-4)
    np.testing.assert_allclose(got.opacity[r, 0], weights.sum(), atol=1e-4)
    np.testing.assert_allclose(got.distance[r, 0], distance, rtol=1e-3)
    # The rows say the same as the ragged samples.
    shown = np.asarray(got.weights[r])
    np.testing.assert_allclose(shown.sum(), weights.sum(), atol=1e-4)
    np.testing.assert_allclose(
        shown @ np.asarray(got.samples.level[r]),
        weights @ [w[0] for w in where[r]] if len(t) else 0.0,
        atol=2e-3,
    )
  assert np.all(np.diff(got.samples.tdist, axis=1) >= 0)


def test_gradients_equal_those_of_the_same_samples_in_rows(scene):
  """Through `render_rays.shade_samples`, whose compositing is not ragged."""
  model, _, spec, rays, inputs, _ = scene
  placed = _place(model, spec, rays, OPTIONS)
  rows = _shade(model, spec, placed, rays, inputs, OPTIONS).samples
  weight = jnp.asarray(
      np.random.default_rng(5).normal(size=(NUM_RAYS, 3)), jnp.float32
  )

  def loss(trained, shade):
    nodes = {**model.nodes, **trained}
    colors = shade(model._replace(nodes=nodes))
    return jnp.sum(weight * colors.rgb) + jnp.mean(colors.distance)

  shades = (
      lambda m: traversed_rays.shade_samples(
          m, spec, placed, rays, inputs, OPTIONS
      ),
      lambda m: render_rays.shade_samples(m, spec, rows, inputs),
  )
  trained = {k: model.nodes[k] for k in ('density', 'color')}
  got, want = (jax.jit(jax.grad(lambda n, s=s: loss(n, s)))(trained)
               for s in shades)  # fmt: skip
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.any(np.asarray(b))
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_footprints_of_a_policy():
  sizes = dict(root_gsd=1.7, max_level=4)
  plain = traversal.level_footprints(levels.determine_lod_level, **sizes)
  np.testing.assert_allclose(plain, 1.7 / 2.0 ** np.arange(4), rtol=1e-5)
  biased = traversal.level_footprints(levels.BiasedPolicy(-1.0), **sizes)
  np.testing.assert_allclose(biased, 2 * plain, rtol=1e-5)
  assert traversal.level_footprints(
      levels.determine_lod_level, root_gsd=1.0, max_level=0
  ).shape == (0,)


def test_pictures(scene):
  """Colours of what shows alone, against many samples in one round."""
  model, grid, spec, _, _, octree = scene
  full = grid._replace(occupied=jnp.ones_like(grid.occupied))
  model = model._replace(traversal=traversal.make_traversal(model, full))
  policy = levels.blended(OPTIONS.level_policy, 0.5)
  fine = dataclasses.replace(
      OPTIONS, level_policy=policy, step=4.0, max_samples=150
  )
  draw = lambda options: render_image.render_image(
      model, spec, tiny_model.make_camera(), octree, np.zeros(4), options,
      ray_block=256, pyramid_level=2,
      outputs=('rgb', 'distance', 'depth', 'opacity', 'level', 'coverage',
               'half_distance', 'statistics'),
  )  # fmt: skip
  got = draw(dataclasses.replace(fine, min_weight=1e-3))
  want = draw(
      dataclasses.replace(fine, sampler='proposals', num_samples=(150,))
  )
  for name, atol in (('rgb', 0.02), ('opacity', 0.02), ('level', 0.05),
                     ('coverage', 0.02), ('distance', 0.1)):  # fmt: skip
    error = np.abs(getattr(got, name) - getattr(want, name))
    assert np.mean(error) < atol, name
  np.testing.assert_array_equal(
      got.statistics.touched_slots, want.statistics.touched_slots
  )


def test_a_scene_without_a_traversal_is_refused(scene):
  model, _, spec, rays, inputs, _ = scene
  with pytest.raises(ValueError, match='expected one of .*with_traversal'):
    traversed_rays.render_by_traversal(
        model._replace(traversal=None), spec, rays, inputs, OPTIONS
    )
