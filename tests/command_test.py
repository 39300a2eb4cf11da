"""Exit status and messages of commands."""

import logging
import os
import pathlib
import subprocess
import sys

import pytest

from infnerf_jax import command

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PROGRAM = """
'''Prints what it is told.'''
import sys
from absl import flags
from infnerf_jax import command, errors
_DO = flags.DEFINE_string('do', '', 'What to do.')
def main(argv):
  if _DO.value == 'input':
    raise errors.InputError('a.json: field: got 1,\\nexpected 2')
  if _DO.value == 'defect':
    raise ValueError('ours')
  if _DO.value == 'place':
    open('/dev/null/out.txt', 'w')
  if _DO.value == 'interrupt':
    raise KeyboardInterrupt
  print('done')
command.run(main)
"""
_CONFIG_PROGRAM = """
from ml_collections import config_flags
from infnerf_jax import command
_CONFIG = config_flags.DEFINE_config_file('config', None, 'x', lock_config=True)
command.run(lambda argv: print(_CONFIG.value.steps))
"""
_CONFIG = """
import ml_collections
def get_config(arg=None):
  if arg not in (None, 'fast'):
    raise ValueError(f'{arg}: expected fast')
  return ml_collections.ConfigDict({'steps': 1})
"""


def _run(command, cwd=_ROOT):
  path = os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')])
  return subprocess.run(
      [sys.executable, *command],
      capture_output=True,
      text=True,
      cwd=cwd,
      env={**os.environ, 'PYTHONPATH': path},
      check=False,
      timeout=600,
  )


@pytest.mark.parametrize(
    'args, status, message',
    [
        ([], 0, ''),
        (['--help'], 0, ''),
        (['--bogus=1'], 2, 'bogus'),
        (['extra'], 2, 'extra'),
        (['--do=input'], 2, 'a.json: field: got 1, expected 2'),
        (['--do=place'], 2, 'error: /dev/null/out.txt: Not a directory'),
        (['--do=interrupt'], 130, 'interrupted'),
    ],
)
def test_exit_status(tmp_path, args, status, message):
  program = tmp_path / 'program.py'
  program.write_text(_PROGRAM)
  done = _run([str(program), *args])
  assert done.returncode == status, done.stderr
  assert message in done.stderr
  if status:
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  if args == ['--help']:
    assert '--do' in done.stdout


def test_a_defect_keeps_its_traceback(tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(_PROGRAM)
  done = _run([str(program), '--do=defect'])
  assert done.returncode == 1
  assert 'Traceback' in done.stderr and 'ours' in done.stderr


@pytest.mark.parametrize(
    'args, status, message',
    [
        (['--config={}', '--config.steps=5'], 0, ''),
        (['--config={}', '--config.nothing=5'], 2, 'nothing'),
        (['--config={}', '--config.steps=many'], 2, 'many'),
        (['--config={}:slow'], 2, 'slow'),
        (['--config=absent.py'], 2, 'absent.py'),
    ],
)
def test_config_errors_are_one_line(tmp_path, args, status, message):
  config = tmp_path / 'config.py'
  config.write_text(_CONFIG)
  program = tmp_path / 'program.py'
  program.write_text(_CONFIG_PROGRAM)
  done = _run([str(program), *(a.format(config) for a in args)])
  assert done.returncode == status, done.stderr
  assert message in done.stderr
  if status:
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  else:
    assert done.stdout.strip() == '5'


def test_synthesize_says_what_it_would_do(tmp_path):
  out = tmp_path / 'scene'
  run = lambda *args: _run(['-m', 'experiments.synthesize', *args])
  done = run(f'--out={out}', '--dry_run', '--photos=30')
  assert done.returncode == 0, done.stderr
  assert '30 photos' in done.stdout and not out.exists()
  done = run(f'--out={out}', '--altitudes=low')
  assert done.returncode == 2 and 'altitudes' in done.stderr


def test_sigterm_ends_in_order_also_after_colmap_was_imported():
  code = (
      'import signal, os, time\n'
      'from absl import flags\n'
      'from infnerf_jax import command\n'
      'def main(argv):\n'
      '  from infnerf_jax.scene import readers\n'
      '  try:\n'
      '    os.kill(os.getpid(), signal.SIGTERM)\n'
      '    time.sleep(5)\n'
      '  finally:\n'
      '    print("cleaned up")\n'
      'command.run(main)\n'
  )
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, cwd=_ROOT
  )
  assert done.returncode == 143
  assert 'cleaned up' in done.stdout
  assert done.stderr.strip() == 'terminated'


@pytest.mark.parametrize(
    'place, level, shown',
    [
        ('infnerf_jax/training/loop.py', 'INFO', True),
        ('experiments/train.py', 'INFO', True),
        ('.venv/lib/python3.11/site-packages/orbax/save.py', 'INFO', False),
        ('.venv/lib/python3.11/site-packages/orbax/save.py', 'WARNING', True),
        ('../elsewhere/jax/thing.py', 'INFO', False),
    ],
)
def test_libraries_chatter_is_not_shown(place, level, shown):
  """Also where they lie below the checkout, as README's .venv does."""
  record = logging.LogRecord(
      'x', getattr(logging, level), str(_ROOT / place), 1, 'text', (), None
  )
  assert command._is_ours_or_serious(record) == shown
