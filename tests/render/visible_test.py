"""Colours of what shows: against the exact renderer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.octree import levels
from infnerf_jax.render import render_rays, visible
from tests import tiny_model
from tests.render import blending_test

OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))


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
  shade = lambda w, **stop: visible.shade_visible(
      model, spec, samples, inputs, min_weight=w, opaque_end=opaque_end, **stop
  )
  everything, most = shade(1e-12), shade(1e-3)
  np.testing.assert_allclose(everything.rgb, exact.rgb, atol=1e-5)
  np.testing.assert_allclose(most.rgb, exact.rgb, atol=12e-3)
  np.testing.assert_allclose(most.opacity, exact.opacity, atol=1e-6)
  assert np.abs(shade(0.2).rgb - exact.rgb).max() > 1e-3
  stopped = shade(1e-12, stop_below=1e-3)
  np.testing.assert_allclose(stopped.rgb, exact.rgb, atol=4e-3)
