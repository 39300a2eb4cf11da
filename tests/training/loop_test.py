"""The loop: resumes to the bit, survives SIGKILL, stops on bad gradients."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import aerial
from infnerf_jax import errors
from infnerf_jax.scene import ray_batches
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import loop, settings
from tests.scene import builders


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scene')
  builders.infnerf(folder, num_photos=10)
  return folder


def _config(scene, **changes):
  config = aerial.get_config('quicktest')
  config.data.path = str(scene)
  config.data.downscale = 1.0
  config.num_pyramid_levels = 2
  config.data.pyramid_ray_share = (0.8, 0.2)
  config.batch_size = 64
  config.num_steps = 12
  config.optimizer.lr_decay_steps = 12
  config.checkpoint_every = 4
  config.field.num_grid_scales = 3
  config.field.base_resolution = 4
  config.field.hidden_width = 16
  config.field.log2_table_size = 8
  config.sampling.num_samples = (8, 6)
  config.num_prior_points = 2
  config.logging.log_every = 2
  config.preview_every = 0
  with config.unlocked():
    for name, value in changes.items():
      config[name] = value
  return config


def _stored(workdir):
  manager = checkpoint.CheckpointManager(workdir / 'checkpoints')
  return manager.restore()


def _assert_same(a, b):
  flat = lambda tree, at='': (
      [x for k in sorted(tree) for x in flat(tree[k], f'{at}/{k}')]
      if isinstance(tree, dict)
      else [(at, np.asarray(tree))]
  )
  for (name, x), (other, y) in zip(flat(a), flat(b), strict=True):
    assert name == other
    np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.fixture(scope='module')
def unbroken(scene, tmp_path_factory):
  """A run of 12 steps that nothing interrupts, and its metrics."""
  workdir = tmp_path_factory.mktemp('unbroken')
  loop.train(_config(scene), workdir)
  return workdir


def _metrics(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_resumed_equals_unbroken(scene, unbroken, tmp_path):
  # 6 is no checkpoint of its own but the end of the first call.
  loop.train(_config(scene, num_steps=6), tmp_path / 'run')
  loop.train(_config(scene), tmp_path / 'run')
  step, state = _stored(tmp_path / 'run')
  reference = _stored(unbroken)
  assert step == reference[0] == 12
  _assert_same(state, reference[1])
  steps = [row['step'] for row in _metrics(tmp_path / 'run')]
  assert steps == [2, 4, 6, 8, 10, 12]
  losses = lambda w: [row['loss'] for row in _metrics(w)]
  assert losses(tmp_path / 'run') == losses(unbroken)


_CHILD = """
import sys
sys.path.insert(0, {root!r})
from infnerf_jax.training import loop
from tests.training import loop_test
loop.train(loop_test._config({scene!r}), __import__('pathlib').Path({out!r}))
"""


def test_killed_run_resumes_to_the_same_bits(scene, unbroken, tmp_path):
  out = tmp_path / 'run'
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  code = _CHILD.format(root=root, scene=str(scene), out=str(out))
  child = subprocess.Popen(
      [sys.executable, '-c', code], cwd=root, stderr=subprocess.DEVNULL
  )
  try:
    deadline = time.monotonic() + 240
    # The first checkpoint is on disk; the run is somewhere behind it.
    while not (out / 'checkpoints' / '4' / 'manifest.json').exists():
      assert time.monotonic() < deadline and child.poll() is None
      time.sleep(0.01)
  finally:
    child.send_signal(signal.SIGKILL)
    child.wait()
  loop.train(_config(scene), out)
  step, state = _stored(out)
  assert step == 12
  _assert_same(state, _stored(unbroken)[1])


@pytest.mark.slow
def test_runs_that_grow_resume_before_at_and_behind_it(scene, tmp_path):
  config = _config(
      scene, grid_size=8, octree_growth_schedule=(0.5,), growth_rehearsal=0.25,
      checkpoints_kept=12,
  )  # fmt: skip
  config.checkpoint_every = 1
  loop.train(config, tmp_path / 'run')
  for killed_at in (5, 6, 7):  # levels join at 6
    out = tmp_path / str(killed_at)
    shutil.copytree(tmp_path / 'run', out)
    for step in range(killed_at + 1, 13):
      shutil.rmtree(out / 'checkpoints' / str(step))
    loop.train(config, out)
    _assert_same(_stored(out)[1], _stored(tmp_path / 'run')[1])


def test_workdir_of_another_config_is_refused(scene, unbroken):
  with pytest.raises(errors.InputError, match='batch_size'):
    loop.train(_config(scene, batch_size=32), unbroken)


def test_run_files_name_everything(unbroken):
  report = json.loads((unbroken / 'scene_report.json').read_text())
  assert report['photos_usable'] == 10
  assert report['photos_test'] == 2 and report['photos_train'] == 8
  split = json.loads((unbroken / 'split.json').read_text())
  assert len(split['test']) == 2 and len(split['train']) == 8
  for name in ('octree.npz', 'cameras.npz', 'config.json', 'provenance.json'):
    assert (unbroken / name).is_file()


def test_non_finite_steps_stop_the_run(scene, tmp_path, monkeypatch):
  real = ray_batches.sample_batch

  def poisoned(pyramid, rows, options, step, *args):
    batch = real(pyramid, rows, options, step, *args)
    if step >= 5:
      batch = batch._replace(rgb=np.full_like(batch.rgb, np.nan))
    return batch

  monkeypatch.setattr(ray_batches, 'sample_batch', poisoned)
  config = _config(scene)
  config.optimizer.max_skipped_in_row = 3
  config.checkpoint_every = 5
  with pytest.raises(FloatingPointError) as caught:
    loop.train(config, tmp_path)
  message = str(caught.value)
  assert 'steps 5 to 7' in message and 'loss' in message
  assert 'photos of the last batch' in message and '.png' in message
  step, state = _stored(tmp_path)
  assert step == 5 and int(state['skipped']) == 0


def test_dry_run_estimates(scene, tmp_path):
  from infnerf_jax.training import dry_run

  result = dry_run.estimate(_config(scene), tmp_path)
  assert result['photos'] == 10
  assert result['seconds'] > 0 and result['rays_per_second'] > 0
  assert sum(result['nodes_by_level']) >= 1
  text = dry_run.describe(result)
  assert text.splitlines()[-1] == 'fits here         yes'
  short = {**result, 'disk_free_bytes': 0, 'memory_available_bytes': 10**6}
  short.update(fits=False, warnings=['no sparse points'])
  text_of_short = dry_run.describe(short)
  assert 'wrong             no sparse points' in text_of_short
  assert 'no: too little memory and disk' in text_of_short.splitlines()[-1]
  assert 'nodes' in text and 'rays/s' in text
  assert not (tmp_path / 'checkpoints').exists()


def test_scene_without_points_trains_with_a_root(tmp_path):
  builders.transforms(tmp_path / 'scene', num_photos=8)
  config = _config(tmp_path / 'scene', num_steps=2)
  trained = loop.train(config, tmp_path / 'run')
  assert trained.run.plan.built.octree.num_nodes == 1
  assert 'no sparse points' in trained.run.report['octree']['octree']
  cameras = trained.run.plan.scene.cameras
  assert settings.training_downscale(config, cameras) == 1
