"""Loading a run's folder: what it renders, and what it refuses."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

import infnerf_jax
from configs import common
from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import io as octree_io
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.scene import camera_io
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import workdir as workdir_lib
from tests import tiny_model

_NAMES = ('a.png', 'b.png', 'c.png')
_BOX = np.stack(
    [tiny_model.ROOT_MIN - 0.5, tiny_model.ROOT_MIN + tiny_model.SIDE + 0.5]
)


def _config():
  config = common.base()
  config.field.num_grid_scales = 4
  config.field.log2_table_size = 9
  config.field.base_resolution = 4
  config.field.hidden_width = 16
  config.field.num_geometry = 7
  config.field.appearance_dim = 4
  config.sampling.num_samples = (16, 12)
  config.background = (0.1, 0.2, 0.3)
  config.data.downscale = 2.0
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(workdir, model, spec, octree, cameras) of a run that was never trained."""
  folder = tmp_path_factory.mktemp('run')
  model, spec, octree = tiny_model.make_model()
  appearance = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
  cameras = cameras_lib.stack(
      [tiny_model.make_camera(angle) for angle in (0.1, 0.9, 2.0)]
  )
  config = workdir_lib.config_to_json(_config())
  json_files.write_json_atomic(folder / 'config.json', config)
  octree_io.save_octree(folder / 'octree.npz', octree, _BOX)
  camera_io.save_cameras(folder / 'cameras.npz', _NAMES, cameras)
  json_files.write_json_atomic(
      folder / 'split.json',
      {'train': ['b.png', 'c.png'], 'validation': [], 'test': ['a.png']},
  )
  state = {'params': {'nodes': model.nodes, 'appearance': appearance}}
  with checkpoint.CheckpointManager(folder / 'checkpoints') as manager:
    manager.save(30, jax.tree.map(lambda x: 0 * x, state))
    manager.save(40, state)
  return folder, model._replace(appearance=appearance), spec, octree, cameras


def test_loads_what_was_saved(run):
  folder, model, spec, octree, cameras = run
  loaded = infnerf_jax.load(folder)
  jax.tree.map(np.testing.assert_array_equal, loaded.model, model)
  assert loaded.spec == spec
  assert loaded.options == render_rays.RenderOptions(
      num_samples=(16, 12), opaque_end=True
  )
  np.testing.assert_array_equal(loaded.octree.children, octree.children)
  np.testing.assert_array_equal(
      loaded.cameras.cam_to_world, cameras.cam_to_world
  )
  assert loaded.photo_names == _NAMES
  assert loaded.num_steps == 40 and loaded.downscale == 2.0
  assert {k: v.tolist() for k, v in loaded.split.items()} == {
      'train': [1, 2], 'validation': [], 'test': [0],
  }  # fmt: skip
  np.testing.assert_array_equal(
      loaded.appearance(), model.appearance[1:].mean(axis=0)
  )
  np.testing.assert_array_equal(loaded.appearance('a.png'), model.appearance[0])
  assert infnerf_jax.load(folder, step=30).num_steps == 30


def test_renders_as_render_image_does(run):
  folder, model, spec, octree, cameras = run
  loaded = infnerf_jax.load(folder)
  expected = render_image.render_image(
      model,
      spec,
      cameras_lib.take(cameras, 2),
      octree,
      model.appearance[1],
      loaded.options,
      background=(0.1, 0.2, 0.3),
      ray_block=512,
  )
  found = loaded.render('c.png', appearance='b.png', ray_block=512)
  np.testing.assert_array_equal(found.rgb, expected.rgb)
  mean = loaded.render(cameras_lib.take(cameras, 2), ray_block=512)
  assert np.abs(mean.rgb - expected.rgb).max() > 1e-3
  with pytest.raises(errors.InputError, match="got 'z.png', expected one of"):
    loaded.render('z.png')


def _copy(run, tmp_path):
  return shutil.copytree(run[0], tmp_path / 'copy')


def test_skipping_empty_cells_is_another_scene(run):
  loaded = infnerf_jax.load(run[0])
  skipping = loaded.with_occupancy(resolution=6, min_alpha=1e9)
  assert loaded.model.occupancy is None
  assert not np.asarray(skipping.model.occupancy.occupied).any()
  image = skipping.render('c.png', ray_block=512, outputs=('opacity',))
  # Nothing is evaluated but what rays meet last, where they end opaque.
  assert set(np.unique(image.opacity)) <= {0.0, 1.0}


def test_foreign_folders_are_refused_by_name(run, tmp_path):
  with pytest.raises(errors.InputError, match='got no config.json'):
    infnerf_jax.load(tmp_path / 'nothing')
  for name, match in (
      ('octree.npz', 'octree.npz: no such file'),
      ('cameras.npz', 'cameras.npz: no such file'),
      ('split.json', 'split.json'),
  ):
    folder = _copy(run, tmp_path)
    (folder / name).unlink()
    with pytest.raises(errors.InputError, match=match):
      infnerf_jax.load(folder)
    shutil.rmtree(folder)
  folder = _copy(run, tmp_path)
  shutil.rmtree(folder / 'checkpoints')
  with pytest.raises(errors.InputError, match='found no checkpoint'):
    infnerf_jax.load(folder)


def test_files_that_do_not_fit_together_are_refused(run, tmp_path):
  folder = _copy(run, tmp_path)
  config = json.loads((folder / 'config.json').read_text())
  config['field']['appearance_dim'] = 8
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.InputError, match='appearance: got 4, expected 8'):
    infnerf_jax.load(folder)
  # A field that the writer did not know yet.
  del config['logging']['samples_by_node']
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.InputError, match='config.json: .*samples_by_node'):
    infnerf_jax.load(folder)
  del config['field']
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.InputError, match='config.json: .*field'):
    infnerf_jax.load(folder)
  (folder / 'config.json').write_text('{"a": ')
  with pytest.raises(errors.InputError, match='config.json'):
    infnerf_jax.load(folder)
  shutil.copy(run[0] / 'config.json', folder / 'config.json')
  (folder / 'split.json').write_text('{"test": ["unknown.png"]}')
  with pytest.raises(errors.InputError, match="split.json: got 'unknown.png'"):
    infnerf_jax.load(folder)


def test_empty_splits_have_no_score(run):
  loaded = infnerf_jax.load(run[0])
  with pytest.raises(errors.InputError, match='validation: got no photos'):
    loaded.evaluate('validation')


def test_the_package_alone_is_light():
  import subprocess

  code = 'import sys, infnerf_jax; print("jax" in sys.modules)'
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == 'False'
  with pytest.raises(AttributeError, match='no attribute'):
    infnerf_jax.nonsense  # pylint: disable=pointless-statement
