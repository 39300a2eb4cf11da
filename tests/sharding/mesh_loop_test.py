"""The loop over meshes; `eight_devices_test` runs it on eight devices."""

import json
import shutil

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
  """A tree of many nodes, and a step that compiles quickly.

  `sharded_step_test` has all losses and rounds.
  """
  config = loop_test._config(
      scene, devices={'data': data, 'node': node}, **changes
  )
  config.grid_size, config.max_depth = 8, 3
  config.sampling.num_samples = (12,)
  config.lambda_regularization = config.lambda_depth = 0.0
  return config


def _stored(workdir, step):
  manager = checkpoint.CheckpointManager(workdir / 'checkpoints')
  return manager.restore(step=step)[1]


def _rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


_GROWING = dict(octree_growth_schedule=(1, 3), growth_rehearsal=0.0)


def _steps(config, last):
  config.num_steps, config.checkpoint_every = last, 1
  config.checkpoints_kept, config.logging.log_every = 3, 1
  return config


@pytest.fixture(scope='module')
def runs(scene, tmp_path_factory):
  """Workdirs of two steps on 2 x 2; and of its first with a second on one.

  Level 1 joins between them.
  """
  made, real = [], sharded_step.make_sharded_train_step

  def make(*args):
    made.append(real(*args))
    return made[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharded_step, 'make_sharded_train_step', make)
    four = tmp_path_factory.mktemp('four')
    loop.train(_steps(_config(scene, 2, 2, **_GROWING), 2), four)
  # Partitions changed, the program did not.
  assert [step._cache_size() for step in made] == [1]
  one = tmp_path_factory.mktemp('one') / 'run'
  shutil.copytree(four, one)
  shutil.rmtree(one / 'checkpoints' / '2')
  loop.train(_steps(_config(scene, 0, 0, **_GROWING), 2), one)
  return four, one


def test_a_step_is_that_of_the_single_device_that_resumes(runs):
  sharded, single = (_stored(workdir, 2) for workdir in runs)
  # Adam's moments are sums of gradients.
  flat = jax.tree_util.tree_flatten_with_path(single['opt_state'])[0]
  others = jax.tree.leaves(sharded['opt_state'])
  for (path, want), got in zip(flat, others, strict=True):
    error = np.abs(np.asarray(got, np.float64) - want)
    limit = _TOLERANCE * np.abs(want).max(initial=0)
    assert error.max(initial=0) <= limit, jax.tree_util.keystr(path)
  # The same step from the same state: the first rows are the same line.
  four, one = (_rows(workdir) for workdir in runs)
  assert four[0] == one[0] and len(four) == len(one) == 2
  for name in ('loss', 'distortion'):
    np.testing.assert_allclose(four[1][name], one[1][name], rtol=_TOLERANCE)
  assert one[1]['samples_by_level'] == four[1]['samples_by_level']
  assert one[1]['samples_by_level'][1] > 0 == one[0]['samples_by_level'][1]


def test_metrics_tell_what_devices_do_and_hold(runs):
  row = _rows(runs[0])[-1]
  samples = np.array(row['samples_by_device'])
  assert samples.shape == (2, 2) and samples.min() > 0
  np.testing.assert_allclose(
      row['sample_imbalance'], samples.max() / samples.mean()
  )
  held = row['bytes_by_device']
  assert len(held) == 8 and min(held[:4]) > 0
  # 13 nodes: the root and six of the others.
  assert row['resident_share'] == 7 / 13 and row['memory_imbalance'] == 1


@pytest.mark.slow
def test_photos_are_added_over_a_mesh_as_on_one_device(scene, tmp_path):
  builders.infnerf(tmp_path / 'more', num_photos=4, center=(0.4, 0, 0))
  base = tmp_path / 'base'
  config = _config(scene, 0, 0, root_octaves=2)
  loop.train(_steps(config, 2), base)
  found = []
  for shape in ((2, 2), (0, 0)):
    out = tmp_path / f'run{shape[0]}'
    shutil.copytree(base, out)
    config = _config(scene, *shape, root_octaves=2)
    config.data.extra_paths = str(tmp_path / 'more')
    run = loop.train(_steps(config, 3), out).run
    assert run.plan.built.report['extension']['nodes_new'] > 0
    found.append(_stored(out, 3))
  sharded, single = found
  for got, want in zip(
      jax.tree.leaves(sharded['opt_state']),
      jax.tree.leaves(single['opt_state']),
      strict=True,
  ):
    error = np.abs(np.asarray(got, np.float64) - want)
    assert error.max(initial=0) <= _TOLERANCE * np.abs(want).max(initial=0)


@pytest.mark.slow
def test_scores_and_previews_of_a_mesh_run(scene, tmp_path):
  config = _config(scene, 1, 4, num_steps=2, preview_every=2, eval_every=2)
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
