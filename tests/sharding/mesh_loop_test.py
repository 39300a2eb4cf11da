"""The loop over meshes; `eight_devices_test` runs it on eight devices."""

import json

import jax
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.evaluation import train_and_evaluate
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import loop, sharded_step
from tests.scene import builders
from tests.sharding import devices
from tests.training import loop_test

pytestmark = devices.NEEDS_EIGHT

_TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scene')
  builders.infnerf(folder, num_photos=10)
  return folder


def _config(scene, data, node, **changes):
  return loop_test._config(
      scene, devices={'data': data, 'node': node}, **changes
  )


def _stored(workdir, step):
  manager = checkpoint.CheckpointManager(workdir / 'checkpoints')
  return manager.restore(step=step)[1]


def _rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def one_step(scene, tmp_path_factory):
  """Workdirs of one step on one device and on 2 x 2, growth on."""
  found = {}
  for shape in ((0, 0), (2, 2)):
    found[shape] = tmp_path_factory.mktemp('run')
    config = _config(
        scene, *shape, num_steps=1, octree_growth_schedule=(2, 3),
        growth_rehearsal=0.0,
    )  # fmt: skip
    config.logging.log_every = 1
    loop.train(config, found[shape])
  return found[0, 0], found[2, 2]


def test_one_step_is_the_single_device_s(one_step):
  single, sharded = (_stored(workdir, 1) for workdir in one_step)
  # Gradients of one step from zero: Adam's moments.
  flat = jax.tree_util.tree_flatten_with_path(single['opt_state'])[0]
  others = jax.tree.leaves(sharded['opt_state'])
  for (path, want), got in zip(flat, others, strict=True):
    error = np.abs(np.asarray(got, np.float64) - want)
    name = jax.tree_util.keystr(path)
    assert error.max(initial=0) <= _TOLERANCE * np.abs(want).max(
        initial=0
    ), name
  (one,), (four,) = (_rows(workdir) for workdir in one_step)
  for name in ('loss', 'distortion', 'depth', 'consistency'):
    np.testing.assert_allclose(four[name], one[name], rtol=_TOLERANCE)
  assert one['samples_by_level'] == four['samples_by_level']


def test_metrics_tell_what_devices_do_and_hold(one_step):
  (row,) = _rows(one_step[1])
  samples = np.array(row['samples_by_device'])
  assert samples.shape == (2, 2) and samples.min() >= 0
  np.testing.assert_allclose(
      row['sample_imbalance'], samples.max() / samples.mean()
  )
  held = row['bytes_by_device']
  assert len(held) == 8 and min(held[:4]) > 0
  assert 0 < row['resident_share'] <= 1 <= row['memory_imbalance']


def test_a_run_goes_on_elsewhere_through_growth(scene, one_step, monkeypatch):
  workdir = one_step[1]
  growing = dict(octree_growth_schedule=(2, 3), growth_rehearsal=0.0)
  made, real = [], sharded_step.make_sharded_train_step

  def make(*args):
    made.append(real(*args))
    return made[-1]

  monkeypatch.setattr(sharded_step, 'make_sharded_train_step', make)
  trained = loop.train(_config(scene, 1, 4, num_steps=5, **growing), workdir)
  assert int(trained.state.step) == 5
  # Partitions change at steps 2 and 3, the program does not.
  assert [step._cache_size() for step in made] == [1]
  # On one device again, with validation and previews there.
  config = _config(scene, 0, 0, num_steps=6, **growing)
  loop.train(config, workdir)
  assert _stored(workdir, 6)['step'] == 6
  assert [row['step'] for row in _rows(workdir)] == [1, 2, 4, 5, 6]


def test_scores_and_previews_of_a_mesh_run(scene, tmp_path):
  config = _config(scene, 2, 1, num_steps=2, preview_every=2, eval_every=2)
  config.data.validation_every = 4
  scores = train_and_evaluate.train_and_evaluate(config, tmp_path)
  assert np.isfinite(scores['psnr']) and scores['num_steps'] == 2
  assert list((tmp_path / 'previews').glob('*.png'))
  assert 'validation_psnr' in _rows(tmp_path)[-1]


@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(data=3, node=3), 'config.devices: got data=3, node=3'),
        (dict(data=3, node=1), 'config.batch_size: got 64'),
        (dict(data=1, node=4, ray_microbatch=2), 'ray_microbatch: got 2'),
        (dict(data=1, node=2, num_slots=4000), 'num_slots: got 4000'),
    ],
)
def test_what_a_mesh_cannot_run_is_one_line(scene, changes, words, tmp_path):
  with pytest.raises(errors.InputError) as caught:
    loop.train(_config(scene, **changes), tmp_path)
  assert words in str(caught.value) and '\n' not in str(caught.value)
