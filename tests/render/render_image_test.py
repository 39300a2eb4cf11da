"""Pictures against rays rendered one by one, whatever the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import memory, render_image, render_rays
from infnerf_jax.render import ray_block as ray_block_lib
from tests import tiny_model

_OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))
_APPEARANCE = np.array([0.3, -1.0, 0.5, 2.0], np.float32)


@pytest.fixture(scope='module')
def tiny():
  return tiny_model.make_model()


def _render(tiny, camera=None, **more):
  model, spec, octree = tiny
  arguments = dict(background=(0.2, 0.5, 0.9), outputs=render_image.OUTPUTS)
  return render_image.render_image(
      model,
      spec,
      tiny_model.make_camera() if camera is None else camera,
      octree,
      _APPEARANCE,
      _OPTIONS,
      **{**arguments, **more},
  )


@pytest.fixture(scope='module')
def picture(tiny):
  return _render(tiny, ray_block=512)


def _assert_same(a, b):
  for name, value in a._asdict().items():
    if isinstance(value, np.ndarray):
      np.testing.assert_allclose(
          value, getattr(b, name), atol=1e-3, rtol=1e-4, err_msg=name
      )


def test_equals_rays_made_by_hand(tiny, picture):
  """Pixel centres at one half, row by row; composited on the background."""
  model, spec, octree = tiny
  camera = tiny_model.make_camera()
  row, column = np.mgrid[:36, :48]
  pix = np.stack([column, row], -1).reshape(-1, 2) + 0.5
  count = len(pix)
  rays = jax.jit(cameras_lib.camera_rays)(
      scene_model.device_cameras(cameras_lib.stack([camera]), octree),
      jnp.zeros(count, jnp.int32),
      jnp.asarray(pix, jnp.float32),
      jnp.ones(count),
      root_side=spec.root_side,
  )
  colors = jax.jit(
      render_rays.render_rays, static_argnames=('spec', 'options')
  )(model, spec, rays, jnp.tile(_APPEARANCE, (count, 1)), _OPTIONS)
  opacity = np.asarray(colors.opacity)
  rgb = colors.rgb + (1 - opacity) * np.array([0.2, 0.5, 0.9])
  np.testing.assert_allclose(picture.rgb.reshape(-1, 3), rgb, atol=1e-3)
  np.testing.assert_allclose(picture.opacity.reshape(-1, 1), opacity, atol=1e-3)
  weights = np.asarray(colors.weights, np.float64)
  np.testing.assert_allclose(
      picture.weights.reshape(weights.shape), weights, atol=1e-3
  )
  level = np.sum(weights * np.asarray(colors.samples.level), -1) / opacity[:, 0]
  np.testing.assert_allclose(picture.level.reshape(-1), level, atol=5e-3)
  assert picture.level.max() > 0.5  # children are in use
  # Median distance, slowly, and its part along the axis.
  tdist = np.asarray(colors.samples.tdist, np.float64)
  distance = [
      np.interp(0.5 * w.sum(), np.concatenate([[0], np.cumsum(w)]), t)
      for w, t in zip(weights, tdist)
  ]
  np.testing.assert_allclose(picture.distance.reshape(-1), distance, atol=1e-2)
  cosine = np.asarray(rays.directions) @ camera.cam_to_world[:, 2]
  np.testing.assert_allclose(
      picture.depth.reshape(-1),
      picture.distance.reshape(-1) * cosine,
      rtol=1e-4,
  )
  assert picture.opacity.std() > 0.01 and picture.rgb.std() > 0.01


def test_neither_blocks_nor_other_outputs_matter(tiny, picture):
  outputs = ('rgb', 'normals', 'statistics')
  other = _render(tiny, ray_block=700, outputs=outputs)
  assert other.ray_block == 700 and picture.ray_block == 512
  np.testing.assert_allclose(other.rgb, picture.rgb, atol=1e-3)
  # Almost: a normal doubles what rounding does to neighbouring depths.
  agree = np.sum(other.normals * picture.normals, axis=-1) > 0.999
  met = picture.opacity > 0.5
  assert agree[met].mean() > 0.99
  np.testing.assert_array_equal(
      picture.statistics.samples_by_level, other.statistics.samples_by_level
  )
  np.testing.assert_array_equal(
      picture.statistics.touched_slots, other.statistics.touched_slots
  )
  absent = [name for name, value in other._asdict().items() if value is None]
  assert set(absent) == set(render_image.ImageOutputs._fields) - {
      *outputs, 'num_rays', 'ray_block', 'seconds',
  }  # fmt: skip


def test_the_same_call_gives_the_same_bits(tiny, picture):
  again = _render(tiny, ray_block=512)
  np.testing.assert_array_equal(picture.rgb, again.rgb)
  np.testing.assert_array_equal(picture.weights, again.weights)


def test_crop_is_a_part_of_the_picture(tiny, picture):
  crop = _render(tiny, ray_block=512, crop=(7, 5, 30, 21))
  assert crop.rgb.shape == (16, 23, 3) and crop.num_rays == 16 * 23
  np.testing.assert_allclose(crop.rgb, picture.rgb[5:21, 7:30], atol=1e-4)
  with pytest.raises(ValueError, match='picture of 48x36'):
    _render(tiny, crop=(0, 0, 49, 36))


def test_pyramid_levels_have_larger_pixels_and_coarser_nodes(tiny, picture):
  small = _render(tiny, ray_block=512, pyramid_level=2)
  same = _render(tiny, ray_block=512, pixel_size=4.0)
  assert small.rgb.shape == (9, 12, 3)
  _assert_same(small, same)
  assert small.level.mean() < picture.level.mean()
  counts = small.statistics.samples_by_level
  shares = counts / counts.sum()
  full = picture.statistics.samples_by_level
  assert shares[0] > (full / full.sum())[0]
  # Every ray that meets the box has all its samples.
  assert counts.sum() <= 9 * 12 * 12
  camera = tiny_model.make_camera(width=49, height=37)
  size = render_image.image_size(camera, pixel_size=1.5, pyramid_level=1)
  assert size == (16, 12)


def test_statistics_count_every_round(tiny, picture):
  model, spec, octree = tiny
  touched = picture.statistics.touched_slots
  assert touched.shape == (17,) and touched[0]
  assert picture.statistics.samples_by_level.shape == (3,)
  away = tiny_model.make_camera(distance=4.0)
  pose = away.cam_to_world.copy()
  pose[:, 2] *= -1  # looks away (and is mirrored, which rays do not mind)
  nothing = _render(tiny, away._replace(cam_to_world=pose), ray_block=512)
  assert nothing.statistics.samples_by_level.sum() == 0
  assert not nothing.statistics.touched_slots.any()
  np.testing.assert_allclose(
      nothing.rgb,
      np.broadcast_to([0.2, 0.5, 0.9], nothing.rgb.shape),
      atol=1e-6,
  )


def test_orthographic_pictures_see_past_their_centre(tiny):
  """The box must be met where a pixel's ray starts, not the camera."""
  model, spec, octree = tiny
  center = tiny_model.ROOT_MIN + tiny_model.SIDE / 2
  aside = center + [1.5 * tiny_model.SIDE, 0, 4.0]
  camera = cameras_lib.make_camera(
      focal=4.0,
      width=64,
      height=16,
      cam_to_world=cameras_lib.look_at(aside, aside - [0, 0, 4.0]),
      projection=cameras_lib.ORTHOGRAPHIC,
  )
  seen = _render(tiny, camera, ray_block=512)
  # 4 pixels a metre; the box's left side is 8 m from the camera's centre.
  x = aside[0] + (np.arange(64) + 0.5 - 32) / 4
  inside = np.abs(x - center[0]) < tiny_model.SIDE / 2 + 0.5
  assert inside.sum() == 18
  met = seen.opacity.max(axis=0) > 1e-3
  np.testing.assert_array_equal(met, inside)
  np.testing.assert_allclose(seen.depth, seen.distance, rtol=1e-6)


def test_normals_of_a_plane():
  camera = tiny_model.make_camera()
  normal = np.array([0.3, -0.2, 0.9])
  normal /= np.linalg.norm(normal)
  row, column = np.mgrid[:36, :48]
  pix = np.stack([column, row], -1) + 0.5
  local = np.concatenate(
      [(pix - [24, 18]) / 40.0, np.ones((36, 48, 1))], axis=-1
  )
  directions = local @ camera.cam_to_world[:, :3].T
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  t = -2.0 / (directions @ normal)  # plane two metres below the camera
  opacity = np.ones((36, 48))
  opacity[0, 0] = 0.2
  found = render_image.normals_from_points(
      directions * t[..., None], directions, opacity
  )
  away = np.sum(found[1:] * directions[1:], axis=-1)
  assert np.all(away < 0)  # towards the camera
  np.testing.assert_allclose(np.abs(found[1:] @ normal), 1, atol=1e-5)
  np.testing.assert_array_equal(found[0, 0], 0)


def test_surface_distance_of_known_weights():
  tdist = jnp.asarray([[0.0, 1, 2, 4, 8]] * 4)
  weights = jnp.asarray(
      [
          [0.0, 0.0, 1.0, 0.0],  # middle of the third interval
          [0.5, 0.0, 0.0, 0.5],  # exactly at the end of the first
          [0.1, 0.2, 0.2, 0.0],  # a quarter of the second... 0.25 = 0.1 + 0.15
          [0.0, 0.0, 0.0, 0.0],  # nothing: the far end
      ]
  )
  found = ray_block_lib.surface_distance(weights, tdist)
  np.testing.assert_allclose(found, [3.0, 1.0, 1.75, 8.0], rtol=1e-5)


def test_budget_chooses_the_block_and_refuses_what_cannot_work(tiny):
  model, spec, _ = tiny
  resident = memory.model_bytes(model)
  assert resident == sum(x.nbytes for x in jax.tree.leaves(model))
  choose = lambda gb: memory.choose_ray_block(model, spec, _OPTIONS, gb)
  fused = memory.is_fused(model, spec)
  per_ray = memory.bytes_per_ray(spec, _OPTIONS, fused=fused)
  tight = choose((resident + 300 * per_ray) / 1e9)
  assert tight == 256
  assert choose(None) == choose(0) == choose(100.0)
  with pytest.raises(errors.InputError, match='max_memory_gb: got 1e-06'):
    choose(1e-6)


@pytest.mark.parametrize(
    'implementation',
    [pytest.param('xla', marks=pytest.mark.slow), 'best'],
)
def test_estimate_bounds_what_the_compiler_takes(implementation):
  model, spec, octree = tiny_model.make_model(
      implementation=None if implementation == 'best' else implementation
  )
  camera = cameras_lib.stack([tiny_model.make_camera()])
  block = ray_block_lib.Block(
      *(np.int32(i) for i in (0, 0, 0, 48, 48 * 36)), np.float32(1)
  )
  compiled = ray_block_lib.render_block.lower(
      model,
      scene_model.device_cameras(camera, octree),
      jnp.asarray(_APPEARANCE),
      jnp.zeros(3),
      block,
      spec=spec,
      options=_OPTIONS,
      outputs=('depth', 'distance', 'opacity', 'rgb'),
      ray_block=1024,
  ).compile()
  analysis = compiled.memory_analysis()
  taken = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
  fused = memory.is_fused(model, spec)
  assert not (implementation == 'xla' and fused)
  estimate = 1024 * memory.bytes_per_ray(spec, _OPTIONS, fused=fused)
  assert taken < estimate
  assert taken > 0.1 * estimate  # the estimate is not absurd either


def test_out_of_memory_retries_with_half_and_names_the_budget():
  tried = []

  def run(block):
    tried.append(block)
    if block > 300:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 2 GB requested')
    return 'done'

  def again(run, block, budget):
    return render_image._with_smaller_blocks(
        run, block, budget, lambda rays: 1e6 * rays
    )

  assert again(run, 512, 1.5) == ('done', 256)
  assert tried == [512, 256]
  found = 'max_memory_gb: got 1.5 GB;.* need about 4.1 and 2.05 GB'
  with pytest.raises(errors.InputError, match=found):
    again(run, 4096, 1.5)

  def broken(block):
    raise jax.errors.JaxRuntimeError('INTERNAL: something else')

  with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
    again(broken, 512, None)


def test_progress_reaches_the_end(tiny):
  seen = []
  _render(
      tiny,
      ray_block=512,
      progress=lambda done, total: seen.append((done, total)),
  )
  assert seen == [(512, 1728), (1024, 1728), (1536, 1728), (1728, 1728)]


def test_unknown_outputs_are_refused(tiny):
  with pytest.raises(ValueError, match="got \\['colour'\\]"):
    _render(tiny, outputs=('rgb', 'colour'))
