"""The peer renders what we render: two whole renderers, one picture."""

import types

import numpy as np
import pytest

pytest.importorskip('torch')

from infnerf_jax.evaluation.bench import torch_pictures  # noqa: E402
from infnerf_jax.octree import levels  # noqa: E402
from infnerf_jax.render import render_image, render_rays  # noqa: E402
from tests import tiny_model  # noqa: E402


@pytest.mark.parametrize('opaque_end', [False, True])
def test_eager_pytorch_renders_the_same_picture(opaque_end):
  model, spec, octree = tiny_model.make_model(appearance_dim=0)
  options = render_rays.RenderOptions(
      num_samples=(16, 12), opaque_end=opaque_end,
      level_policy=levels.BiasedPolicy(-1.0),
  )  # fmt: skip
  loaded = types.SimpleNamespace(
      model=model, spec=spec, octree=octree, options=options,
      background=(0.1, 0.2, 0.3), appearance=lambda: np.zeros(0, np.float32),
  )  # fmt: skip
  peer, camera = torch_pictures.Renderer(loaded), tiny_model.make_camera()
  found = peer.render(*peer.rays(camera, 1.0))
  expected = render_image.render_image(
      model, spec, camera, octree, np.zeros(0), options,
      background=loaded.background, ray_block=432, outputs=('rgb',),
  ).rgb  # fmt: skip
  np.testing.assert_allclose(found, expected, atol=2e-3)
  assert np.abs(found - expected).mean() < 1e-4
