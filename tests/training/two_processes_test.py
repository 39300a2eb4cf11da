"""Two processes with two devices each over loopback, and what kills them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from configs import aerial
from infnerf_jax.storage import checkpoint
from kernels.native import build
from tests.scene import builders
from tests.sharding import mesh_loop_test

_ROOT = pathlib.Path(__file__).parents[2]
_DEADLINE = 240  # s, for what takes a fraction of it
# No collective and no compilation of these runs keeps a process silent.
_TIMEOUT = 10


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scene')
  builders.infnerf(folder, num_photos=10)
  return folder


def _flags(scene, workdir, **changes):
  """Command line of the run that `mesh_loop_test._config` describes."""
  config = mesh_loop_test._config(scene, 0, 0, **changes)
  base = aerial.get_config('quicktest')
  flags = []

  def compare(here, there, path):
    for name, value in here.items():
      if hasattr(value, 'items'):
        compare(value, there[name], f'{path}.{name}')
      elif value != there[name]:
        flags.append(f'{path}.{name}={value}')

  compare(config, base, '--config')
  return [
      sys.executable, '-m', 'experiments.train',
      '--config=configs/aerial.py:quicktest', f'--workdir={workdir}',
      '--cpu_devices=2', f'--worker_timeout={_TIMEOUT}', *flags,
  ]  # fmt: skip


def _untested_kernels(folder):
  """A cache with the built kernels, none of which is trusted yet."""
  folder.mkdir()
  for path in build.cache_dir().glob('*.so'):
    (folder / path.name).symlink_to(path)
  return folder


def _start(command, *more, **variables):
  return subprocess.Popen(
      [*command, *more],
      cwd=_ROOT,
      env={
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          'OMP_NUM_THREADS': '1',
          # These programs take longer to compile than to run.
          'XLA_FLAGS': '--xla_backend_optimization_level=0',
          **variables,
      },
      stderr=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      text=True,
  )


def _wait_for(path, processes):
  deadline = time.monotonic() + _DEADLINE
  while not path.exists():
    ended = [p for p in processes if p.poll() is not None]
    assert not ended, ended[0].communicate()[1][-4000:]
    assert time.monotonic() < deadline
    time.sleep(0.05)


def _last_line(process, limit):
  """(exit status, last line of stderr, seconds until it ended)."""
  begin = time.monotonic()
  try:
    text = process.communicate(timeout=limit)[1]
  except subprocess.TimeoutExpired:
    process.kill()
    raise
  lines = [line for line in text.splitlines() if line.strip()]
  return process.returncode, lines, time.monotonic() - begin


def test_a_killed_worker_is_named_and_ends_the_launched_run(scene, tmp_path):
  changes = dict(num_steps=100_000, checkpoint_every=2)
  cache = _untested_kernels(tmp_path / 'cache')
  launcher = _start(
      _flags(scene, tmp_path, **changes),
      '--num_processes=2',
      INFNERF_CACHE=str(cache),
  )
  _wait_for(tmp_path / 'checkpoints' / '2' / 'manifest.json', [launcher])
  workers = {
      int(child.cmdline()[-1].partition('=')[2]): child
      for child in psutil.Process(launcher.pid).children()
  }
  workers[1].send_signal(signal.SIGKILL)
  status, lines, seconds = _last_line(launcher, 30)
  assert status == 1 and seconds < 10
  assert len([line for line in lines if line.startswith('error')]) == 1
  assert 'process 1 of 2' in lines[-1] and 'signal 9' in lines[-1]
  assert not any(worker.is_running() for worker in workers.values())
  rows = [
      json.loads(line)
      for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  # Two processes, two devices each: rays over processes, nodes over devices.
  first = [row for row in rows if 'samples_by_device' in row][0]
  assert [len(x) for x in first['samples_by_device']] == [2, 2]
  assert len(first['bytes_by_device']) == 4


def _free_address():
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{listener.getsockname()[1]}'


def _pair(command):
  address = _free_address()
  return [
      _start(
          command, f'--coordinator_address={address}', '--num_processes=2',
          f'--process_id={i}',
      )
      for i in range(2)
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_without_a_launcher_the_survivor_names_the_dead(
    scene, tmp_path, victim
):
  changes = dict(num_steps=100_000, checkpoint_every=2)
  pair = _pair(_flags(scene, tmp_path, **changes))
  _wait_for(tmp_path / 'checkpoints' / '2' / 'manifest.json', pair)
  pair[victim].send_signal(signal.SIGKILL)
  status, lines, seconds = _last_line(pair[1 - victim], 4 * _TIMEOUT)
  pair[victim].communicate()
  assert status not in (0, None) and seconds < _TIMEOUT + 5
  errors = [line for line in lines if line.startswith('error')]
  assert len(errors) == 1 and f'process {victim} of 2' in errors[0], '\n'.join(
      lines
  )
  # Two processes again, to the end and the score.
  done = checkpoint.CheckpointManager(tmp_path / 'checkpoints').latest_step()
  changes['num_steps'] = done + 2
  pair = _pair(_flags(scene, tmp_path, **changes))
  for process in pair:
    status, lines, _ = _last_line(process, _DEADLINE)
    assert status == 0, lines
  assert json.loads((tmp_path / 'eval.json').read_text())['num_steps'] == (
      done + 2
  )


@pytest.mark.slow
@pytest.mark.parametrize('data, node', [(1, 4), (2, 2)])
def test_two_processes_page_growing_nodes_and_resume(
    scene, tmp_path, data, node
):
  """A row goes back to devices of either process, or of both."""
  builders.save_ply(
      scene / 'sparse_points.ply', builders.points(32), dtype='f8'
  )
  # Level by level; about as many slots as a fourth of the nodes.
  changes = dict(
      num_steps=12, checkpoint_every=6, num_slots=4,
      octree_growth_schedule=(2, 4), growth_rehearsal=0.1,
  )  # fmt: skip
  mesh = [f'--config.devices.data={data}', f'--config.devices.node={node}']
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  for workdir, steps in ((whole, 12), (broken, 8), (broken, 12)):
    changes['num_steps'] = steps
    flags = [*_flags(scene, workdir, **changes), *mesh, '--config.grid_size=4']
    for process in _pair(flags):
      status, lines, _ = _last_line(process, _DEADLINE)
      assert status == 0, lines
    assert json.loads((workdir / 'eval.json').read_text())['num_steps'] == steps
  digest = lambda w: json.loads((w / 'eval.json').read_text())['params_sha256']
  assert digest(whole) == digest(broken)
  report = json.loads((whole / 'out_of_core.json').read_text())
  assert report['num_shards'] == node and report['bytes_read'] > 0
  assert report['now']['tracks']


@pytest.mark.slow
def test_bad_input_ends_all_with_status_2(scene, tmp_path):
  pair = _pair(_flags(scene, tmp_path, num_slots=4000))
  for process in pair:
    status, lines, _ = _last_line(process, _DEADLINE)
    assert status == 2 and 'num_slots' in lines[-1]
