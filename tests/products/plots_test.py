"""Pictures of a run from its folder alone."""

import json

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.octree import io as octree_io
from infnerf_jax.products import plots
from tests import tiny_model


def _rows():
  return [
      {
          'step': 10 * i,
          'psnr': 10 + i,
          'loss': 1 / i,
          'rays_per_second': 1e5,
          'samples_by_level': [i, 3 * i],
      }
      for i in range(1, 20)
  ] + [{'step': 200, 'validation_psnr': 31.0}]


def _scores():
  row = lambda level: {
      'level': level, 'psnr': 30 + level, 'ssim': 0.9,
      'psnr_fitted': 31 + level, 'ssim_fitted': None,
  }  # fmt: skip
  return {
      'by_pyramid_level': [row(0), row(1)],
      'by_photo': [{'name': 'b', 'psnr': 31.0}, {'name': 'a', 'psnr': 29.0}],
  }


def test_smoothing_is_a_mean_of_neighbours():
  values = np.random.default_rng(0).normal(size=9)
  expected = [values[max(0, i - 1) : i + 2].mean() for i in range(9)]
  np.testing.assert_allclose(plots.smoothed(values, 3), expected)
  np.testing.assert_allclose(plots.smoothed([4.0], 15), [4.0])


def test_curves_show_the_numbers():
  axes = plots.training_curves(_rows()).axes
  np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), range(11, 30))
  np.testing.assert_array_equal(axes[0].lines[2].get_ydata(), [31.0])
  assert axes[1].get_yscale() == 'log'
  low = axes[2].collections[0].get_paths()[0].vertices
  # A quarter of the samples is the root's throughout.
  assert low[:, 1].max() == pytest.approx(0.25)
  axes = plots.scores_by_level(_scores()).axes
  found = [line.get_ydata().tolist() for line in axes[0].lines]
  assert found == [[30, 31], [31, 32]]
  assert len(axes[1].lines) == 1
  assert [p.get_height() for p in axes[2].patches] == [29.0, 31.0]


def test_what_there_is_of_a_run_is_drawn(tmp_path):
  (tmp_path / 'config.json').write_text('{"data": {"path": ""}}')
  assert plots.write_plots(tmp_path) == []
  lines = [json.dumps(row) for row in _rows()]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines) + '\n{"step": 3')
  (tmp_path / 'eval.json').write_text(json.dumps(_scores()))
  octree = tiny_model.make_octree()
  octree_io.save_octree(
      tmp_path / 'octree.npz', octree, np.array([[0.0] * 3, [1.0] * 3])
  )
  files = plots.write_plots(tmp_path)
  assert [f.name for f in files] == ['training.png', 'scores.png', 'octree.png']
  for file in files:
    with PIL.Image.open(file) as image:
      assert np.asarray(image.convert('L')).std() > 5


def test_no_run_is_refused(tmp_path):
  with pytest.raises(errors.InputError, match='expected the folder of a run'):
    plots.write_plots(tmp_path)
