"""A ray whose last interval has no end takes its last colour's rest."""

import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays
from tests.training import tiny


def _render(opaque_end):
  state = tiny.state()
  around = tiny.surroundings()
  model = scene_model.SceneModel(
      around.tree,
      state.params['nodes'],
      state.params['appearance'],
      around.sample_aabb,
  )
  spec = tiny.spec()
  batch = tiny.batch(16)
  rays = cameras_lib.camera_rays(
      around.cameras,
      batch.photo_idx,
      batch.pix,
      batch.pixel_size,
      root_side=spec.root_side,
  )
  options = tiny.replace(tiny.RENDER, opaque_end=opaque_end)
  return render_rays.render_rays(model, spec, rays, jnp.zeros((16, 3)), options)


def test_only_the_last_weight_changes():
  clear, ended = _render(False), _render(True)
  met = np.asarray(clear.opacity[:, 0]) > 0
  assert met.any()
  np.testing.assert_allclose(np.asarray(ended.opacity)[met], 1, atol=1e-5)
  np.testing.assert_allclose(
      clear.weights[:, :-1], ended.weights[:, :-1], atol=1e-6
  )
  rest = 1 - np.asarray(clear.weights)[met, :-1].sum(axis=-1)
  np.testing.assert_allclose(
      np.asarray(ended.weights)[met, -1], rest, atol=1e-5
  )
  # Rays that miss the box stay clear.
  assert np.all(np.asarray(ended.opacity)[~met] == 0)
