"""Run folders: locks, configs that may and may not differ, provenance."""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys

import ml_collections
import pytest

from infnerf_jax import errors, json_files
from infnerf_jax.training import workdir as workdir_lib

_ROOT = pathlib.Path(__file__).parents[2]


def make_config(**changes):
  config = ml_collections.ConfigDict(
      {
          'num_steps': 100,
          'checkpoint_every': 10,
          'max_memory_gb': 0.0,
          'lr': 0.01,
          'far': float('inf'),
          'none': None,
          'sampling': {'num_samples': (64, 32), 'near': 0.03},
          'logging': {'tensorboard': False},
      }
  )
  config.warmup = config.get_ref('num_steps') // 10
  config.update_from_flattened_dict(changes)
  return config


def test_config_round_trip(tmp_path):
  config = make_config()
  with workdir_lib.prepare_workdir(tmp_path / 'a' / 'b', config) as workdir:
    assert workdir.is_new and workdir.path == tmp_path / 'a' / 'b'
  assert workdir_lib.load_config(workdir.path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    'changes',
    [
        {'checkpoint_every': 7},
        {'max_memory_gb': 2.5},
        {'logging.tensorboard': True},
    ],
)
def test_some_fields_may_differ(tmp_path, changes):
  workdir_lib.prepare_workdir(tmp_path, make_config()).close()
  with workdir_lib.prepare_workdir(tmp_path, make_config(**changes)) as again:
    assert not again.is_new
  stored = workdir_lib.load_config(tmp_path)
  for name, value in changes.items():
    for part in name.split('.'):
      stored = stored[part]
    assert stored == value


def test_num_steps_and_devices_may_differ(tmp_path):
  config = make_config()
  with config.unlocked():
    config.warmup = 3
  workdir_lib.prepare_workdir(tmp_path, config).close()
  with config.unlocked():
    config.num_steps = 500
    config.devices = ml_collections.ConfigDict({'count': 2})
    config.logging.new = 'x'
  workdir_lib.prepare_workdir(tmp_path, config).close()
  assert workdir_lib.load_config(tmp_path).num_steps == 500


def test_other_differences_are_named_with_both_values(tmp_path, caplog):
  workdir_lib.prepare_workdir(tmp_path, make_config()).close()
  before = (tmp_path / 'config.json').read_text()
  other = make_config(**{'lr': 0.02, 'sampling.near': 0.1})
  other.sampling.num_samples = (64, 16)
  other.extra = 'x'
  other.num_steps = 5  # and with it warmup, which refers to it
  with pytest.raises(errors.InputError) as caught:
    workdir_lib.prepare_workdir(tmp_path, other)
  message = str(caught.value)
  assert '\n' not in message
  for part in (
      'config.json',
      'lr: found 0.01, got 0.02',
      'sampling.near: found 0.03, got 0.1',
      'sampling.num_samples: found [64, 32], got [64, 16]',
      'extra: found nothing, got "x"',
      'warmup: found 10, got 0',
  ):
    assert part in message
  assert 'num_steps' not in message
  assert (tmp_path / 'config.json').read_text() == before
  # The refusal gave the lock back in order.
  workdir_lib.prepare_workdir(tmp_path, make_config()).close()
  assert not caplog.text


def test_a_run_that_never_began_leaves_the_folder_free(tmp_path):
  with pytest.raises(errors.InputError, match='no such scene'):
    with workdir_lib.prepare_workdir(tmp_path, make_config()):
      raise errors.InputError('no such scene')
  workdir_lib.prepare_workdir(tmp_path, make_config(lr=0.5)).close()
  with pytest.raises(errors.InputError, match='no such scene'):
    with workdir_lib.prepare_workdir(tmp_path, make_config(lr=0.5)):
      raise errors.InputError('no such scene')
  assert workdir_lib.load_config(tmp_path).lr == 0.5


def test_second_writer_is_refused(tmp_path):
  with workdir_lib.prepare_workdir(tmp_path, make_config()):
    with pytest.raises(
        errors.InputError, match=rf'in use by process {os.getpid()} on'
    ):
      workdir_lib.prepare_workdir(tmp_path, make_config())
  workdir_lib.prepare_workdir(tmp_path, make_config()).close()


_HOLD = """
import sys, time, ml_collections
from infnerf_jax.training import workdir
held = workdir.prepare_workdir(sys.argv[1], ml_collections.ConfigDict({'a': 1}))
print('held', flush=True)
time.sleep(60)
"""


def test_lock_of_a_killed_process_is_taken_over(tmp_path, caplog):
  config = ml_collections.ConfigDict({'a': 1})
  child = subprocess.Popen(
      [sys.executable, '-c', _HOLD, str(tmp_path)],
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      stdout=subprocess.PIPE,
      text=True,
  )
  with child:
    assert child.stdout.readline() == 'held\n'
    with pytest.raises(errors.InputError, match=f'process {child.pid} on'):
      workdir_lib.prepare_workdir(tmp_path, config)
    child.send_signal(signal.SIGKILL)
  with caplog.at_level(logging.WARNING):
    workdir_lib.prepare_workdir(tmp_path, config).close()
  assert f'stale lock of process {child.pid}' in caplog.text
  caplog.clear()
  workdir_lib.prepare_workdir(tmp_path, config).close()
  assert not caplog.text


def test_bad_folders_are_input_errors(tmp_path):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(errors.InputError, match='expected a folder to write to'):
    workdir_lib.prepare_workdir(tmp_path / 'file', make_config())
  for name in ('file', 'file/run'):
    with pytest.raises(errors.InputError, match='--workdir: .*Not a directory'):
      workdir_lib.check_place(tmp_path / name)
  workdir_lib.check_place(tmp_path / 'new' / 'run')
  assert not (tmp_path / 'new').exists()
  with pytest.raises(errors.InputError, match=r'config\.json: No such file'):
    workdir_lib.load_config(tmp_path / 'absent')
  (tmp_path / 'config.json').write_text('{"lr": 0.0')
  with pytest.raises(errors.InputError, match=r'config\.json: .*expected JSON'):
    workdir_lib.prepare_workdir(tmp_path, make_config())
  (tmp_path / 'config.json').write_text('[1]')
  with pytest.raises(errors.InputError, match='expected an object'):
    workdir_lib.load_config(tmp_path)


def test_provenance_records_every_start(tmp_path):
  for _ in range(2):
    workdir_lib.prepare_workdir(tmp_path, make_config()).close()
  starts = json.loads((tmp_path / 'provenance.json').read_text())['starts']
  assert len(starts) == 2
  assert starts[0]['versions']['jax'] and starts[0]['versions']['python']
  assert 'commit' in starts[0] and starts[0]['machine']['cores'] >= 1


def test_write_json_atomic(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  json_files.write_json_atomic(path, {'x': [1.5, float('nan')], 'p': path})
  want = {'x': [1.5, None], 'p': str(path)}
  assert json.loads(path.read_text()) == want

  def fail(*unused):
    raise OSError('disk')

  monkeypatch.setattr(os, 'fsync', fail)
  with pytest.raises(OSError):
    json_files.write_json_atomic(path, {'x': 2})
  assert json.loads(path.read_text()) == want
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']
