"""The demo writes what it says; the train command's boundary."""

import json
import subprocess
import sys

import pytest

from configs import quickstart
from infnerf_jax import demo


@pytest.mark.slow
def test_demo(tmp_path):
  result = demo.run(quickstart.get_config('demo'), tmp_path)
  assert json.loads((tmp_path / 'demo.json').read_text())['psnr'] > 15
  for name in ('octree', 'oblique', 'nadir', 'far'):
    assert (tmp_path / f'{name}.png').stat().st_size > 1000
  levels = list(result['level_by_height'].values())
  assert levels == sorted(levels, reverse=True) and levels[0] > levels[-1]


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--config=configs/aerial.py'], 'workdir'),
        (
            ['--config=configs/aerial.py:nonsense=1', '--workdir=x'],
            'nonsense',
        ),
        (
            ['--config=configs/aerial.py', '--workdir=x', '--config.sede=1'],
            'sede',
        ),
    ],
)
def test_train_refuses_in_one_line(arguments, words, tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.train', *arguments],
      capture_output=True,
      text=True,
  )
  assert done.returncode == 2, done.stderr
  assert words in done.stderr and 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
