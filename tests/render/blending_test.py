"""Blending of levels: no jump, the right shares, no other nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import levels
from infnerf_jax.render import render_rays
from tests import tiny_model

SIZES = dict(root_gsd=2.0, max_level=4)


def test_shares_fall_over_the_blend():
  policy = levels.BlendedPolicy(0.25)
  octaves = np.array([-1, 0.0, 1e-4, 0.125, 0.25, 0.6, 1.0, 1.0001, 2.1, 9.0])
  footprint = jnp.asarray(2.0 / 2.0**octaves, jnp.float32)
  share = policy.coarse_share(footprint, **SIZES)
  expected = [0, 0, 1, 0.5, 0, 0, 0, 1, 0.6, 0]
  np.testing.assert_allclose(share, expected, atol=2e-3)
  target = policy(footprint, **SIZES)
  plain = levels.determine_lod_level(footprint, **SIZES)
  np.testing.assert_array_equal(target, plain)


def test_policies_of_this_module_can_be_blended():
  plain = levels.determine_lod_level
  assert levels.blended(plain, 0.0) is plain
  assert levels.blended(plain, 0.5) == levels.BlendedPolicy(0.5, 0.0)
  biased = levels.BiasedPolicy(1.5)
  assert levels.blended(biased, 0.5) == levels.BlendedPolicy(0.5, 1.5)
  assert levels.blended(levels.BlendedPolicy(0.5, 1.5), 0.0) == biased
  with pytest.raises(ValueError, match='expected a share'):
    levels.blended(plain, 1.5)
  with pytest.raises(ValueError, match='no octaves'):
    levels.blended(lambda f, **_: f, 0.5)


def _rays(octree, distance):
  camera = tiny_model.make_camera(0.3, distance=distance, width=8, height=6)
  table = cameras_lib.Cameras(*(np.asarray(x)[None] for x in camera))
  device = scene_model.device_cameras(table, octree)
  pix = np.stack(np.meshgrid(np.arange(8), np.arange(6)), -1).reshape(-1, 2)
  return _camera_rays(
      device, jnp.zeros(48, jnp.int32), jnp.asarray(pix + 0.5, jnp.float32),
      jnp.ones(48), root_side=octree.side,
  )  # fmt: skip


_camera_rays = jax.jit(cameras_lib.camera_rays, static_argnames='root_side')


def test_blended_samples_mix_both_nodes():
  """Density and colour of the two levels by hand."""
  model, spec, octree = tiny_model.make_model()
  rays = _rays(octree, 2.0)
  options = render_rays.RenderOptions(
      num_samples=(12,), level_policy=levels.BlendedPolicy(0.7)
  )
  samples = render_rays.place_samples(None, model, spec, rays, options)
  share = np.asarray(samples.coarse.share)
  assert 0.1 < np.mean(share > 0) < 0.9
  inputs = render_rays.ray_inputs(rays, jnp.zeros((48, 4)))
  mixed = render_rays.shade_samples(model, spec, samples, inputs)
  alone = samples._replace(coarse=None)
  fine = render_rays.shade_samples(model, spec, alone, inputs)
  above = alone._replace(
      slot=samples.coarse.slot, position=samples.coarse.position
  )
  coarse = render_rays.shade_samples(model, spec, above, inputs)
  expected = (1 - share) * fine.density + share * coarse.density
  np.testing.assert_allclose(mixed.density, expected, rtol=1e-5, atol=1e-7)
  assert np.abs(mixed.rgb - fine.rgb).max() > 1e-3
  # The coarser node is an ancestor: its level is the one above.
  slot, parent = np.asarray(samples.slot), octree.parent
  shared = share > 0
  np.testing.assert_array_equal(
      np.asarray(samples.coarse.slot)[shared], parent[slot[shared]]
  )


def test_nothing_jumps_as_footprints_grow():
  """The same rays with cones that widen by tiny steps: levels alone change."""
  model, spec, octree = tiny_model.make_model()
  rays = _rays(octree, 3.0)

  def largest_step(policy):
    options = render_rays.RenderOptions(num_samples=(24,), level_policy=policy)

    @jax.jit
    def run(octaves):
      wider = rays._replace(cone_slope=rays.cone_slope * 2.0**octaves)
      appearance = jnp.zeros((48, 4))
      return render_rays.render_rays(
          model, spec, wider, appearance, options
      ).rgb

    frames = np.stack([run(octaves) for octaves in np.linspace(0, 1.5, 60)])
    return np.abs(np.diff(frames, axis=0)).max()

  jumps = largest_step(levels.determine_lod_level)
  assert jumps > 0.01
  # A step is a twentieth of the blend.
  assert largest_step(levels.BlendedPolicy(0.5)) < 0.2 * jumps
