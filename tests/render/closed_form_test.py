"""A sphere, a slab and a foggy box rendered against their closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays, sampling
from kernels.composite import api as composite_op
from tests import tiny_model


@functools.partial(jax.jit, static_argnames=('density_at', 'rounds'))
def _render(density_at, density, offsets, near, far, rounds=(512, 512)):
  """Rays along +x at offsets [R] from the axis through an analytic density."""
  near = jnp.full((len(offsets), 1), near)
  far = jnp.full((len(offsets), 1), far)
  sdist = sampling.stratified(None, offsets.shape, rounds[0])
  for i, count in enumerate(rounds):
    tdist = sampling.s_to_t(sdist, near, far, 10.0)
    t = 0.5 * (tdist[..., 1:] + tdist[..., :-1])
    extinction = density_at(t, offsets[:, None], density)
    delta = tdist[..., 1:] - tdist[..., :-1]
    color = jnp.stack([jnp.ones_like(t), 0.25 * jnp.ones_like(t), t], -1)
    pixel = composite_op.composite(extinction, delta, color, t)
    if i < len(rounds) - 1:
      sdist = sampling.resample(
          None, sdist, pixel.weights, rounds[i + 1], anneal=0.9, padding=0.01
      )
  return pixel


def _sphere(t, offset, density):
  """Radius 2 m, centre 6 m ahead on the axis."""
  return jnp.where((t - 6.0) ** 2 + offset**2 < 4.0, density, 0.0)


@pytest.mark.parametrize('density', [0.05, 0.4, 3.0])
def test_homogeneous_sphere(density):
  """opacity = 1 - exp(-density * chord)."""
  offsets = np.linspace(0, 2.5, 41)
  pixel = _render(_sphere, density, jnp.asarray(offsets), 0.1, 12.0)
  chord = 2 * np.sqrt(np.maximum(4 - offsets**2, 0))
  expected = 1 - np.exp(-density * chord)
  np.testing.assert_allclose(pixel.opacity, expected, atol=0.012)
  assert np.abs(np.asarray(pixel.opacity) - expected).mean() < 0.003
  # What the interior adds is the same colour, whatever the depth.
  np.testing.assert_allclose(pixel.rgb[:, 0], pixel.opacity, atol=1e-5)
  np.testing.assert_allclose(pixel.rgb[:, 1], pixel.opacity / 4, atol=1e-5)


def _slab(t, offset, density):
  """From 5 m to 8 m."""
  del offset
  return jnp.where((t > 5.0) & (t < 8.0), density, 0.0)


@pytest.mark.parametrize('density', [0.1, 1.0, 20.0])
def test_homogeneous_slab(density):
  """Opacity and mean distance of a slab from 5 m to 8 m."""
  pixel = _render(_slab, density, jnp.zeros(41), 0.1, 12.0)
  opacity = 1 - np.exp(-3 * density)
  np.testing.assert_allclose(pixel.opacity, opacity, atol=0.006)
  # Integral of density * exp(-density u) * (5 + u) du over 0 to 3.
  mean = 5 * opacity + 1 / density - (3 + 1 / density) * np.exp(-3 * density)
  np.testing.assert_allclose(pixel.distance, mean, rtol=0.006)
  np.testing.assert_allclose(pixel.rgb[:, 2], pixel.distance, rtol=1e-5)


def test_two_slabs_hide_in_order():
  """The front slab's transmittance scales what lies behind."""

  def slabs(t, _, density):
    front = (t > 2.0) & (t < 3.0)
    back = (t > 6.0) & (t < 7.0)
    return jnp.where(front, density, jnp.where(back, 2.0, 0.0))

  pixel = _render(slabs, 0.7, jnp.zeros(41), 0.1, 12.0)
  alpha_front, alpha_back = 1 - np.exp(-0.7), 1 - np.exp(-2.0)
  expected = alpha_front + (1 - alpha_front) * alpha_back
  np.testing.assert_allclose(pixel.opacity, expected, atol=0.006)


@pytest.fixture(scope='module')
def fog():
  """A model whose fields are constant: raw density 0, grey."""
  model, spec, octree = tiny_model.make_model()
  nodes = jax.tree.map(lambda x: x, model.nodes)
  nodes['table'] = jnp.zeros_like(nodes['table'])
  nodes['color'] = {
      **nodes['color'],
      'w2': jnp.zeros_like(nodes['color']['w2']),
  }
  return model._replace(nodes=nodes), spec, octree


def test_foggy_box_through_the_whole_renderer(fog):
  """Density 1 / h in the box: opacity = 1 - exp(-length / h) at any level."""
  model, spec, octree = fog
  camera = tiny_model.make_camera(focal=25.0, distance=7.0)
  row, column = np.mgrid[:36, :48]
  pix = np.stack([column, row], -1).reshape(-1, 2) + 0.5
  rays = jax.jit(cameras_lib.camera_rays)(
      scene_model.device_cameras(cameras_lib.stack([camera]), octree),
      jnp.zeros(len(pix), jnp.int32),
      jnp.asarray(pix, jnp.float32),
      jnp.full(len(pix), 0.1),
      root_side=spec.root_side,
  )
  colors = jax.jit(
      render_rays.render_rays, static_argnames=('spec', 'options')
  )(
      model,
      spec,
      rays,
      jnp.zeros((len(pix), spec.appearance_dim)),
      render_rays.RenderOptions(num_samples=(24, 48)),
  )
  # Slab by slab in float64.
  box = np.stack([tiny_model.ROOT_MIN, tiny_model.ROOT_MIN + tiny_model.SIDE])
  box = box + [[-0.5], [0.5]]
  origin = camera.cam_to_world[:, 3]
  direction = np.asarray(rays.directions, np.float64)
  ends = (box[:, None] - origin) / direction  # [2, R, 3]
  enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
  length = np.maximum(leave - enter, 0.0)
  expected = 1 - np.exp(-length / spec.half_side)
  # The outermost draws may leave a sliver of the ray uncovered.
  np.testing.assert_allclose(colors.opacity[:, 0], expected, atol=0.02)
  assert np.sum(length == 0) > 50 and expected.max() > 0.8
  np.testing.assert_allclose(
      colors.rgb, 0.5 * np.asarray(colors.opacity).repeat(3, -1), atol=1e-5
  )
  levels = np.asarray(colors.samples.level)[length > 0]
  assert set(np.unique(levels)) == {0, 1, 2}
