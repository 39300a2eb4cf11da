"""Photos added to a finished run: what learns, what stays, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import infnerf_jax
from infnerf_jax import errors
from infnerf_jax.evaluation.scaling import growing
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.training import extension, loop, route
from tests.scene import builders
from tests.training import loop_test

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def _narrow(entries):
  """Photos that see a part of the scene only."""
  for entry in entries.values():
    entry['intrinsic'][0][0] = entry['intrinsic'][1][1] = 200.0


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scenes')
  builders.infnerf(folder / 'a', num_photos=10, edit=_narrow)
  builders.infnerf(folder / 'b', num_photos=6, center=(2.5, 0, 0), edit=_narrow)
  return folder


def _config(scenes, *extra, **changes):
  config = loop_test._config(
      scenes / 'a', root_octaves=2, max_depth=4, grid_size=8, **changes
  )
  config.field.appearance_dim = 2
  config.data.extra_paths = ','.join(str(scenes / name) for name in extra)
  return config


def _more(scenes):
  config = _config(scenes, 'b', num_steps=20)
  config.optimizer.lr_decay_steps = 12
  return config


@pytest.fixture(scope='module')
def base(scenes, tmp_path_factory):
  """(workdir, Trained) of 12 steps."""
  workdir = tmp_path_factory.mktemp('base') / 'run'
  return workdir, loop.train(_config(scenes), workdir)


@pytest.fixture(scope='module')
def extended(scenes, base, tmp_path_factory):
  """(workdir, Trained) of 8 more steps with six more photos."""
  workdir = tmp_path_factory.mktemp('extended') / 'run'
  shutil.copytree(base[0], workdir)
  return workdir, loop.train(_more(scenes), workdir)


def test_nodes_that_nobody_touched_are_the_same_bytes(base, extended):
  before, after = base[1], extended[1]
  octree = after.run.plan.built.octree
  old = growing.row_digests(before.run.plan.built.octree, before.state)
  now = growing.row_digests(octree, after.state)
  assert set(old) < set(now)
  keys = tree_lib.node_key(octree.level, octree.coord)
  learns = after.run.retraining.learns
  stays = [int(key) for key in keys[~learns]]
  assert len(stays) > 2
  assert all(now[key] == old[key] for key in stays)
  # All that learns did, the new nodes among them; ancestors always do.
  known = [int(key) for key in keys[learns] if int(key) in old]
  assert sum(now[key] != old[key] for key in known) > len(known) // 2
  assert learns[0] and learns[octree.parent[np.flatnonzero(learns)[1:]]].all()
  new = np.array([int(key) not in old for key in keys])
  assert learns[new].all() and new.sum() > 3


def test_what_was_learned_of_old_photos_stays(base, extended):
  count = len(base[1].run.plan.scene.photos.names)
  old = np.asarray(base[1].state.params['appearance'])
  new = np.asarray(extended[1].state.params['appearance'])
  np.testing.assert_array_equal(new[:count], old)
  # New photos begin with what photos that nobody has seen are shown with.
  start = old[base[1].run.split.train].mean(axis=0)
  assert (new[count:] != start).any()


def test_old_photos_replay_and_keep_their_split(base, extended):
  run, config = extended[1].run, _more(extended[0].parent)
  count = len(base[1].run.plan.scene.photos.names)
  assert run.split.test.tolist() == [*base[1].run.split.test, count]
  draw = route.ray_drawer(config, run)
  batch = draw(15)
  is_new = batch.photo_idx >= count
  assert is_new.sum() == 32 and len(is_new) == 64
  # Dealt out evenly, and by processes as by one.
  assert is_new[:32].sum() == 16
  for a, b in zip(draw(15, slice(16, 48)), batch, strict=True):
    np.testing.assert_array_equal(a, b[16:48])
  assert not set(batch.photo_idx) & set(run.split.test)


def test_reports_and_loads_as_every_step_was(base, extended):
  workdir, trained = extended
  report = json.loads((workdir / 'scene_report.json').read_text())['extension']
  nodes = report['nodes_retrained'] + report['nodes_untouched']
  assert nodes == trained.run.plan.built.octree.num_nodes
  assert report['first_step'] == 12 and report['nodes_new'] > 0
  now = infnerf_jax.load(workdir)
  assert (now.num_steps, now.octree.num_nodes) == (20, nodes)
  assert now.photo_names[-1] == 'b/05.png'
  assert now.open_pyramid().photos.names == now.photo_names
  assert (np.asarray(now.model.tree.slot_of_node) >= 0).all()
  # As a kill before the first checkpoint leaves it: the run as it was.
  killed = workdir.parent / 'killed'
  shutil.copytree(workdir, killed)
  shutil.rmtree(killed / 'checkpoints')
  shutil.copytree(base[0] / 'checkpoints', killed / 'checkpoints')
  then = infnerf_jax.load(killed)
  assert (then.num_steps, len(then.photo_names)) == (12, 10)
  assert then.octree.num_nodes == base[1].run.plan.built.octree.num_nodes
  assert then.open_pyramid().photos.names == then.photo_names


@pytest.mark.slow
def test_resumes_to_the_same_bits(scenes, extended, tmp_path):
  shutil.copytree(extended[0], tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '20')
  loop.train(_more(scenes), tmp_path / 'run')
  loop_test._assert_same(
      loop_test._stored(tmp_path / 'run')[1], loop_test._stored(extended[0])[1]
  )


def test_what_cannot_be_added_leaves_the_run_as_it_was(scenes, base, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(base[0], workdir)
  config = (workdir / 'config.json').read_text()

  def refused(config, match):
    with pytest.raises(errors.InputError, match=match) as caught:
      loop.train(config, workdir)
    assert '\n' not in str(caught.value)

  refused(_config(scenes, 'b'), 'num_steps: got 12, expected more')
  builders.infnerf(scenes / 'far', num_photos=4, center=(60.0, 0, 0))
  refused(_config(scenes, 'far', num_steps=20), 'outside of the octree')
  # A failed attempt is no extension: another may follow, or none.
  assert (workdir / 'config.json').read_text() == config
  assert extension.find(_config(scenes), workdir) is None
  found = extension.find(_config(scenes, 'b', num_steps=20), workdir)
  assert found.first_step == 12 and found.base_paths == ()
  loop.train(_config(scenes), workdir)
  (workdir / 'nodes').mkdir()
  refused(_config(scenes, 'b', num_steps=20), 'a run that pages its nodes')
  (workdir / 'nodes').rmdir()
  shutil.rmtree(workdir / 'checkpoints' / '12')
  refused(_config(scenes, 'b', num_steps=20), 'found step 8 of 12')


def test_paths_may_only_be_added(scenes, extended):
  for other in ((), ('a',)):
    with pytest.raises(errors.InputError, match='may only be added behind'):
      extension.find(_config(scenes, *other, num_steps=20), extended[0])
  # A third field later begins where the second ended.
  config = _config(scenes, 'b', 'c', num_steps=30)
  found = extension.find(config, extended[0])
  assert found.first_step == 20
  assert found.base_paths == (str(scenes / 'b'),)


_CHILD = """
import pathlib, sys
sys.path.insert(0, {root!r})
from infnerf_jax.training import loop
from tests.training import extension_test
loop.train(extension_test._more(pathlib.Path({scenes!r})), {out!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize('step', [12, 16])
def test_killed_it_resumes_to_the_same_bits(
    scenes, base, extended, tmp_path, step
):
  """Killed before the first checkpoint of the extension, and behind it."""
  out = tmp_path / 'run'
  shutil.copytree(base[0], out)
  code = _CHILD.format(root=_ROOT, scenes=str(scenes), out=str(out))
  child = subprocess.Popen(
      [sys.executable, '-c', code], cwd=_ROOT, stderr=subprocess.DEVNULL
  )
  wanted = (
      out / 'extensions' / '0001' / extension.RECORD
      if step == 12
      else out / 'checkpoints' / '16' / 'manifest.json'
  )
  try:
    deadline = time.monotonic() + 240
    while not wanted.exists():
      assert time.monotonic() < deadline and child.poll() is None
      time.sleep(0.01)
  finally:
    child.send_signal(signal.SIGKILL)
    child.wait()
  assert infnerf_jax.load(out).num_steps >= step
  loop.train(_more(scenes), out)
  loop_test._assert_same(
      loop_test._stored(out)[1], loop_test._stored(extended[0])[1]
  )
