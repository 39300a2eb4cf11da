"""Exit statuses and single lines, as a shell sees them."""

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

_PROGRAM = '''"""Trains things.

More about it.
"""
import errno
import os
import signal
import sys
from absl import flags, logging
from ml_collections import config_flags
from infnerf_jax import command, errors

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.')
_FAULT = flags.DEFINE_enum(
    'fault', '', ['', 'input', 'defect', 'memory', 'xla', 'disk', 'interrupt',
     'terminate'],
    'What goes wrong.')
_NUMBER = flags.DEFINE_integer('number', 1, 'A number.')

class XlaRuntimeError(RuntimeError):
  pass

def main(argv):
  assert 'jax' not in sys.modules and 'numpy' not in sys.modules
  raised = {
      'input': errors.InputError('a.json: x: got 1,\\nexpected 2'),
      'defect': ValueError('ours'),
      'memory': MemoryError(),
      'xla': XlaRuntimeError('RESOURCE_EXHAUSTED: Out of memory\\nmore'),
      'disk': OSError(errno.ENOSPC, 'disk full', 'dir'),
      'interrupt': KeyboardInterrupt(),
  }.get(_FAULT.value)
  if _FAULT.value == 'terminate':
    try:
      os.kill(os.getpid(), signal.SIGTERM)
    finally:
      print('cleaned up')
  if raised:
    raise raised
  logging.info('ours')
  print(_CONFIG.value.lr if _CONFIG.value else 'no config')

if __name__ == '__main__':
  command.run(main)
'''

_CONFIG = """
import ml_collections

def get_config(arg=None):
  if arg == 'nope':
    raise ValueError('config argument nope: unknown')
  return ml_collections.ConfigDict({
      'lr': 0.1, 'num_steps': 10, 'ray_microbatch': 0,
      'sampling': {'near': 0.03, 'shares': (0.5, 0.5)}})
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('command')
  (folder / 'program.py').write_text(_PROGRAM)
  (folder / 'config.py').write_text(_CONFIG)
  (folder / 'broken.py').write_text('def get_config(:\n')
  (folder / 'raises.py').write_text('def get_config():\n  return nothing.x\n')
  (folder / 'empty.py').write_text('')
  return folder


def run(folder, *arguments):
  return subprocess.run(
      [sys.executable, 'program.py', *arguments],
      cwd=folder,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True,
      text=True,
      timeout=60,
  )


@pytest.mark.parametrize(
    'arguments,expected',
    [
        (['--nope=1'], "flag 'nope'"),
        (['--number=x'], '--number=x'),
        (['surplus'], "got argument 'surplus', expected flags only"),
        (
            ['--config=absent.py'],
            '--config: absent.py: found no such file, expected a config file',
        ),
        (['--config=.'], '--config: '),
        (['--config=absent.py', '--config.lr=1'], 'absent.py: found no such'),
        (['--config=broken.py'], 'broken.py, line 1: '),
        (['--config=raises.py'], "NameError: name 'nothing' is not defined"),
        (['--config=empty.py'], 'get_config'),
        (['--config=config.py:nope'], 'config argument nope: unknown'),
        (
            ['--config=config.py', '--config.num_step=1'],
            '--config.num_step: unknown config key, did you mean num_steps?',
        ),
        (
            ['--config=config.py', '--config.sampling.zzz=1'],
            '.zzz: unknown config key, expected one of near, shares',
        ),
        (
            ['--config=config.py', '--config.lr.x=1'],
            '--config.lr has no fields',
        ),
        (
            ['--config=config.py', '--config.num_steps=x'],
            '--config.num_steps=x',
        ),
        (['--config=config.py', '--config.lr=1,2'], '--config.lr=1,2'),
        (['--config=config.py', '--config.sampling=3'], '--config.sampling=3'),
        (['--fault=input'], 'error: a.json: x: got 1, expected 2'),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else '',
)
def test_bad_input_is_one_line_and_status_2(folder, arguments, expected):
  done = run(folder, *arguments)
  assert done.returncode == 2, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == 1 and expected in lines[0], done.stderr
  assert not done.stdout


@pytest.mark.parametrize(
    'fault,status,expected',
    [
        ('memory', 1, 'out of memory: set --config.ray_microbatch (got 0,'),
        ('xla', 1, 'out of memory: set --config.ray_microbatch'),
        ('disk', 1, 'disk full'),
        ('interrupt', 130, 'interrupted'),
        ('terminate', 143, 'terminated'),
    ],
)
def test_what_the_machine_lacks_is_one_line(folder, fault, status, expected):
  done = run(folder, f'--fault={fault}', '--config=config.py')
  assert done.returncode == status
  assert len(done.stderr.splitlines()) == 1 and expected in done.stderr
  assert done.stdout == ('cleaned up\n' if fault == 'terminate' else '')


def test_defects_keep_their_traceback(folder):
  done = run(folder, '--fault=defect')
  assert done.returncode == 1
  assert 'Traceback' in done.stderr and 'ValueError: ours' in done.stderr


def test_help_shows_the_commands_own_flags(folder):
  done = run(folder, '--config=absent.py', '--help')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('Trains things.')
  assert '--number' in done.stdout and '--config' in done.stdout
  assert '--logtostderr' not in done.stdout
  assert not done.stderr


def test_good_input_runs(folder):
  done = run(folder, '--config=config.py', '--config.lr=0.5')
  assert (done.returncode, done.stdout) == (0, '0.5\n'), done.stderr
