"""The protocol on a tiny model whose photos it rendered itself."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from infnerf_jax import json_files
from infnerf_jax.evaluation import (
    baselines,
    evaluate,
    fitting,
    metrics,
    photo_scores,
)
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import scene as scene_lib
from tests import tiny_model

_OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))
_NAMES = ('a.png', 'b.png', 'c.png')
_BACKGROUND = (0.1, 0.2, 0.3)
_FIT = fitting.FitOptions(num_steps=60, num_rays=64)
_TRUE = np.array([1.5, -1.0, 0.5, 2.0], np.float32)


@pytest.fixture(scope='module')
def tiny():
  model, spec, octree = tiny_model.make_model(seed=3)
  appearance = jnp.zeros((3, 4)).at[1].set(0.2).at[0].set(9.0)
  return model._replace(appearance=appearance), spec, octree


@pytest.fixture(scope='module')
def photos(tiny, tmp_path_factory):
  """(cameras, pyramid) of three photos, taken with another appearance."""
  model, spec, octree = tiny
  folder = tmp_path_factory.mktemp('photos')
  cameras = [tiny_model.make_camera(angle) for angle in (0.2, 1.4, 2.9)]
  paths = []
  for name, camera in zip(_NAMES, cameras):
    image = render_image.render_image(
        model, spec, camera, octree, _TRUE, _OPTIONS,
        background=_BACKGROUND, outputs=('rgb', 'statistics'),
    )  # fmt: skip
    paths.append(folder / name)
    rgb = np.round(255 * image.rgb).astype(np.uint8)
    Image.fromarray(rgb).save(paths[-1])
  scene = scene_lib.Scene(
      photos=scene_lib.Photos(_NAMES, tuple(paths), (None,) * 3),
      cameras=cameras_lib.stack(cameras),
      points=None,
      visibility=None,
      frame={},
      report={},
  )
  pyramid, _, _ = pyramid_lib.build(
      scene, folder / 'cache', num_levels=2, show_progress=False
  )
  return scene.cameras, pyramid


def _evaluate(tiny, photos, rows=(0, 2), **protocol):
  return evaluate.evaluate(
      photo_scores.Subject(*tiny, _OPTIONS, _BACKGROUND),
      evaluate.PhotoTable(_NAMES, *photos),
      rows,
      evaluate.Protocol(**{'train_rows': [1], **protocol}),
      num_steps=77,
      show_progress=False,
  )


@pytest.fixture(scope='module')
def scores(tiny, photos):
  return _evaluate(tiny, photos, fit_options=_FIT)


def test_fields_are_the_contract_s_and_are_json(scores):
  assert set(scores) == {
      'psnr', 'ssim', 'psnr_fitted', 'ssim_fitted', 'by_pyramid_level',
      'by_photo', 'num_photos', 'num_nodes', 'samples_by_level',
      'nodes_touched_mean', 'params_touched_fraction', 'params_sha256',
      'num_steps',
  }  # fmt: skip
  assert scores['num_photos'] == 2 and scores['num_steps'] == 77
  assert scores['num_nodes'] == 17
  assert [p['name'] for p in scores['by_photo']] == ['a.png', 'c.png']
  assert [r['level'] for r in scores['by_pyramid_level']] == [0, 1]
  again = json.loads(json.dumps(json_files.plain(scores), allow_nan=False))
  assert again['psnr'] == scores['psnr']


def test_psnr_is_that_of_the_mean_embedding_of_training_photos(
    tiny, photos, scores
):
  model, spec, octree = tiny
  cameras, pyramid = photos
  for entry, row in zip(scores['by_photo'], (0, 2)):
    image = render_image.render_image(
        model, spec, cameras_lib.take(cameras, row), octree,
        np.full(4, 0.2), _OPTIONS, background=_BACKGROUND,
        outputs=('rgb', 'statistics'),
    )  # fmt: skip
    truth, _ = pyramid_lib.photo(pyramid, row, 0)
    error = np.mean((np.clip(image.rgb, 0, 1) - truth / 255.0) ** 2)
    assert entry['psnr'] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert entry['ssim'] == pytest.approx(metrics.ssim(image.rgb, truth))
    assert entry['psnr_constant'] == baselines.best_constant_psnr(truth)
    assert entry['nodes_touched'] == image.statistics.touched_slots.sum()
  assert scores['psnr'] == pytest.approx(
      np.mean([p['psnr'] for p in scores['by_photo']])
  )
  level = scores['by_pyramid_level'][1]
  assert level['psnr'] == pytest.approx(
      np.mean([p['by_pyramid_level'][1]['psnr'] for p in scores['by_photo']])
  )
  assert scores['by_pyramid_level'][0]['psnr'] == scores['psnr']


def test_the_true_embedding_explains_the_photos(tiny, photos):
  found = _evaluate(tiny, photos, appearance=_TRUE, fit=False)
  assert found['psnr'] > 50  # only rounding to bytes is left
  assert found['psnr_fitted'] is None
  # The average of renders is not the render of averages, but near it.
  assert 20 < found['by_pyramid_level'][1]['psnr'] < found['psnr']


def test_fitting_moves_towards_the_truth_and_scores_the_right_half(
    tiny, photos, scores
):
  assert scores['psnr_fitted'] > scores['psnr'] + 3
  assert scores['ssim_fitted'] > scores['ssim']
  model, spec, octree = tiny
  cameras, pyramid = photos
  camera = cameras_lib.take(cameras, 2)
  pictures = [(i, *pyramid_lib.photo(pyramid, 2, i)) for i in (0, 1)]

  def fit(spoil):
    left = []
    for level, rgb, valid in pictures:
      is_left = np.arange(rgb.shape[1]) < 24 // 2**level
      shown = np.where(is_left[:, None], rgb, 0).astype(np.uint8)
      left.append((level, shown if spoil else rgb, valid & is_left))
    return fitting.fit_appearance(
        model, spec, camera, octree,
        fitting.draw_pixels(left, pixel_size=1.0, num_rays=64, seed=(0, 2)),
        start=np.full(4, 0.2, np.float32),
        options=_OPTIONS,
        fit_options=_FIT,
        background=_BACKGROUND,
    )  # fmt: skip

  fitted = fit(spoil=False)
  # What the right half shows has no say.
  np.testing.assert_array_equal(fitted, fit(spoil=True))
  for level, rgb, _ in pictures:  # one embedding for all levels
    start = 24 // 2**level
    image = render_image.render_image(
        model, spec, camera, octree, fitted, _OPTIONS,
        background=_BACKGROUND, outputs=('rgb', 'statistics'),
        pyramid_level=level,
    )  # fmt: skip
    found = scores['by_photo'][1]['by_pyramid_level'][level]['psnr_fitted']
    expected = metrics.psnr(image.rgb[:, start:], rgb[:, start:])
    assert found == pytest.approx(expected, abs=0.01)


def test_counts_are_shares_of_the_rendered_samples(scores):
  assert len(scores['samples_by_level']) == 3
  assert sum(scores['samples_by_level']) == pytest.approx(1)
  touched = [p['nodes_touched'] for p in scores['by_photo']]
  assert scores['nodes_touched_mean'] == np.mean(touched)
  assert scores['params_touched_fraction'] == np.mean(touched) / 17


def test_digest_is_of_every_learned_bit(tiny):
  model, _, _ = tiny
  digest = evaluate.params_sha256(model)
  assert len(digest) == 64 and digest == evaluate.params_sha256(model)
  lowest = np.array(model.appearance)
  lowest[2, 3] = np.nextafter(lowest[2, 3], 1, dtype=np.float32)
  assert evaluate.params_sha256(model._replace(appearance=lowest)) != digest
  leaves = []
  for key, leaf in [
      ('appearance', model.appearance),
      ('nodes/color/w0', model.nodes['color']['w0']),
      ('nodes/color/w1', model.nodes['color']['w1']),
      ('nodes/color/w2', model.nodes['color']['w2']),
      ('nodes/density/w0', model.nodes['density']['w0']),
      ('nodes/density/w1', model.nodes['density']['w1']),
      ('nodes/table', model.nodes['table']),
  ]:
    leaf = np.asarray(leaf)
    leaves.append(f'{key}:{leaf.dtype}:{leaf.shape};'.encode() + leaf.tobytes())
  assert digest == hashlib.sha256(b''.join(leaves)).hexdigest()


def test_halves_of_coarser_levels_show_nothing_of_each_other():
  for width in (7, 48, 271, 500):
    for level in range(4):
      start = photo_scores.right_half_start(width, level)
      assert start * 2**level >= width // 2
      assert (start - 1) * 2**level < width // 2
      end = photo_scores.left_half_end(width, level)
      assert end * 2**level <= width // 2 < (end + 1) * 2**level
