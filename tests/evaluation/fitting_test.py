"""Fits of embeddings: closed forms, and never worse than the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.evaluation import fitting
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays
from tests import tiny_model

_OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))
_NUM_RAYS = 48


def _descend(losses, start, spread, **options):
  return np.asarray(
      fitting._descend(
          losses,
          jnp.asarray(start, jnp.float32),
          jnp.asarray(spread, jnp.float32),
          fitting.FitOptions(**options),
      )
  )


@pytest.mark.parametrize('prior', [0.0, 0.01, 1.0])
def test_linear_pictures_have_a_closed_form(prior):
  """Ridge regression in units of the spread."""
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(2, 30, 3))
  start, spread = rng.normal(size=3), np.array([0.5, 1.0, 2.0])
  truth = start + [0.4, -0.7, 1.0]
  target = matrix @ truth + 0.1 * rng.normal(size=(2, 30))
  losses = lambda e: jnp.mean((matrix @ e - target) ** 2, axis=-1)
  found = _descend(
      losses, start, spread, prior=prior, num_steps=300, learning_rate=0.1
  )
  # mean_l |M_l S z - r_l|^2 / base_l + prior |z|^2 / 3, r the start's error.
  left = target - matrix @ start
  base = np.mean(left**2, axis=-1)
  weight = 1 / (2 * 30 * base)
  scaled = matrix * spread
  normal = np.einsum('l,lri,lrj->ij', weight, scaled, scaled)
  normal += prior / 3 * np.eye(3)
  moved = np.linalg.solve(
      normal, np.einsum('l,lri,lr->i', weight, scaled, left)
  )
  np.testing.assert_allclose(found, start + spread * moved, atol=2e-3)


def test_no_level_pays_for_another():
  ends = jnp.asarray([[1.0, 0.0], [1.0, 4.0]])
  losses = lambda e: jnp.sum((e - ends) ** 2, axis=-1)
  # The first level stands at its best: every move would show it worse.
  start = np.array([1.0, 0.0])
  np.testing.assert_array_equal(_descend(losses, start, [1, 1]), start)
  # From here both can gain, but not by the mean's best point.
  start = np.array([0.0, 0.5])
  found = _descend(losses, start, [1, 1], prior=0.0, num_steps=60)
  before, after = np.asarray(losses(start)), np.asarray(losses(found))
  assert np.all(after <= before) and np.all(after < before)


def test_steps_that_overshoot_are_not_kept():
  losses = lambda e: jnp.sum((e - 1e-3) ** 2, keepdims=True)
  start = np.zeros(3)
  found = _descend(losses, start, [1, 1, 1], num_steps=1, learning_rate=5.0)
  np.testing.assert_array_equal(found, start)


def test_not_a_number_is_not_kept():
  losses = lambda e: jnp.where(e[:1] == 0, 1.0, jnp.nan)
  np.testing.assert_array_equal(_descend(losses, [0.0], [1.0]), [0.0])


@pytest.fixture(scope='module')
def scene():
  """(model, spec, octree, camera) whose nodes differ in what they learned."""
  model, spec, octree = tiny_model.make_model(seed=3)
  return model, spec, octree, tiny_model.make_camera(0.4)


def _level_errors(scene, embedding, pixels):
  """[L] mean squared errors, ray by ray as `render_rays` shows them."""
  model, spec, octree, camera = scene
  count = pixels.pixel_size.size
  rays = cameras_lib.camera_rays(
      scene_model.device_cameras(cameras_lib.stack([camera]), octree),
      jnp.zeros(count, jnp.int32),
      jnp.asarray(pixels.pix.reshape(-1, 2)),
      jnp.asarray(pixels.pixel_size.reshape(-1)),
      root_side=spec.root_side,
  )
  appearance = jnp.broadcast_to(jnp.asarray(embedding), (count, 4))
  render = jax.jit(render_rays.render_rays, static_argnums=(1, 4))
  rgb = render(model, spec, rays, appearance, _OPTIONS).rgb
  error = np.asarray(rgb).reshape(pixels.rgb.shape) - pixels.rgb
  return np.mean(error**2, axis=(1, 2))


def _fit(scene, pixels, **more):
  return fitting.fit_appearance(
      *scene[:2], scene[3], scene[2], pixels, options=_OPTIONS, **more
  )


def test_never_worse_than_the_start_at_any_level(scene):
  rng = np.random.default_rng(1)
  pictures = []
  for level in (0, 1):  # colours that no embedding explains
    shape = (36 // 2**level, 48 // 2**level)
    rgb = rng.integers(0, 256, shape + (3,), dtype=np.uint8)
    pictures.append((level, rgb, np.ones(shape, bool)))
  pixels = fitting.draw_pixels(
      pictures, pixel_size=1.0, num_rays=_NUM_RAYS, seed=0
  )
  start = np.array([0.3, -0.2, 0.0, 0.1], np.float32)
  # The first steps overshoot by far.
  options = fitting.FitOptions(num_rays=_NUM_RAYS, learning_rate=3.0)
  found = _fit(scene, pixels, start=start, fit_options=options)
  before = _level_errors(scene, start, pixels)
  after = _level_errors(scene, found, pixels)
  assert np.all(after <= before * (1 + 1e-5))
  assert after.mean() < 0.999 * before.mean()


def test_nothing_fits_to_nothing(scene):
  black = [(0, np.zeros((36, 48, 3), np.uint8), np.ones((36, 48), bool))]
  pixels = fitting.draw_pixels(
      black, pixel_size=1.0, num_rays=_NUM_RAYS, seed=0
  )
  start = np.array([0.3, -0.2, 0.0, 0.1], np.float32)
  assert fitting.draw_pixels(
      [(0, black[0][1], np.zeros((36, 48), bool))],
      pixel_size=1.0, num_rays=4, seed=0,
  ) is None  # fmt: skip
  np.testing.assert_array_equal(_fit(scene, None, start=start), start)
  assert _fit(scene, pixels, start=np.zeros(0)).shape == (0,)


def test_pixels_are_those_of_the_photo():
  rng = np.random.default_rng(2)
  pictures = []
  for level in (0, 2, 3):
    shape = (16 // 2**level, 24 // 2**level)
    rgb = rng.integers(0, 256, shape + (3,), dtype=np.uint8)
    pictures.append((level, rgb, rng.random(shape) < 0.5))
  pictures[1][2][:] = False  # a level that a mask hides
  pixels = fitting.draw_pixels(
      pictures, pixel_size=1.5, num_rays=20, seed=(7, 1)
  )
  again = fitting.draw_pixels(
      pictures, pixel_size=1.5, num_rays=20, seed=(7, 1)
  )
  np.testing.assert_array_equal(pixels.pix, again.pix)
  assert pixels.pix.shape == (2, 20, 2)
  for i, (level, rgb, valid) in enumerate([pictures[0], pictures[2]]):
    size = 1.5 * 2**level
    np.testing.assert_array_equal(pixels.pixel_size[i], size)
    column, row = (pixels.pix[i] / size - 0.5).astype(int).T
    np.testing.assert_allclose(pixels.rgb[i], rgb[row, column] / 255, atol=1e-6)
    assert valid[row, column].all()


def test_mean_and_spread_are_those_of_training():
  table = np.arange(12.0).reshape(4, 3)
  np.testing.assert_allclose(
      fitting.mean_appearance(table, [1, 3]), (table[1] + table[3]) / 2
  )
  np.testing.assert_allclose(fitting.mean_appearance(table), table.mean(0))
  assert fitting.mean_appearance(np.zeros((4, 0)), [0]).shape == (0,)
  np.testing.assert_allclose(
      fitting.appearance_spread(table, [1, 3]), (table[3] - table[1]) / 2
  )
  # One photo says nothing of how far others lie.
  np.testing.assert_array_equal(fitting.appearance_spread(table, [1]), 1)
