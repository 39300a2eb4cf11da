"""Sweeps: what runs, what is not repeated, and the table's arithmetic."""

import json
import os
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.evaluation import sweep, sweep_table

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
import ml_collections
def get_config(arg=None):
  return ml_collections.ConfigDict(
      {'seed': 0, 'num_steps': 10, 'rate': 0.5, 'on': True, 'shape': (1, 2),
       'name': 'a', 'part': {'size': 3}})
def sweep(add):
  add()
  add(rate=1, shape=(3, 4))
  add(**{'part.size': 5, 'on': False, 'name': 'b c'})
"""
# Stands in for experiments.train: the score says what it was told.
_TRAINER = """
import json, pathlib, sys
flags = dict(a[2:].split('=', 1) for a in sys.argv[1:])
folder = pathlib.Path(flags['workdir'])
with open(folder.parent.parent / 'calls', 'a') as file:
  file.write(folder.name + '\\n')
if (folder.parent.parent / 'fail').exists():
  print('error: no luck')
  sys.exit(2)
config = {'seed': 0, 'num_steps': 10, 'rate': 0.5, 'on': True, 'shape': [1, 2],
          'name': 'a', 'part': {'size': 3}}
read = {'rate': float, 'seed': int, 'name': str, 'on': lambda t: t == 'True',
        'shape': lambda t: list(eval(t))}
for key, text in flags.items():
  if key == 'config.part.size':
    config['part']['size'] = int(text)
  elif key.startswith('config.'):
    config[key[7:]] = read[key[7:]](text)
(folder / 'config.json').write_text(json.dumps(config))
score = 20 + config['rate'] + config['part']['size'] + config['seed'] ** 2
levels = [{'level': 0, 'psnr': score}, {'level': 1, 'psnr': score + 1}]
(folder / 'eval.json').write_text(json.dumps(
    {'num_steps': 10, 'psnr': score, 'ssim': None, 'num_nodes': 7,
     'by_pyramid_level': levels, 'by_photo': [{'psnr': 1.0}]}))
"""


def _config():
  space = {}
  exec(_CONFIG, space)
  return space['get_config']()


def _runs(tmp_path, seeds=()):
  path = tmp_path / 'config.py'
  path.write_text(_CONFIG)
  rows = sweep.with_seeds(sweep.load_sweep(f'{path}:quick'), seeds)
  return sweep.make_runs(
      rows, _config(), tmp_path / 'out', config_path=f'{path}:quick'
  )


def _run(tmp_path, runs, **options):
  trainer = tmp_path / 'trainer.py'
  trainer.write_text(_TRAINER)
  sweep.write_plan(runs, tmp_path / 'out', 'config.py')
  return sweep.run_all(runs, trainer=(sys.executable, str(trainer)), **options)


def _calls(tmp_path):
  path = tmp_path / 'out' / 'calls'
  return path.read_text().split() if path.exists() else []


def test_runs_are_named_and_typed(tmp_path):
  runs = _runs(tmp_path)
  assert runs[0].name == 'base' and runs[0].values == {}
  assert runs[1].values == {'rate': 1.0, 'shape': (3, 4)}
  assert '--config.shape=(3, 4)' in runs[1].arguments
  assert runs[2].config.part.size == 5 and not runs[2].config.on
  assert len({run.name for run in runs}) == 3
  assert all('/' not in run.name and ' ' not in run.name for run in runs)


@pytest.mark.parametrize(
    'row, message',
    [
        ({'nothing': 1}, 'nothing: got 1'),
        ({'part.nothing': 1}, 'part.nothing: got 1'),
        ({'rate': 'fast'}, "rate: got 'fast'"),
    ],
)
def test_what_the_config_cannot_take_is_refused(row, message):
  with pytest.raises(errors.InputError, match='run 0: ' + message):
    sweep.make_runs([row], _config(), 'out', config_path='c.py')


def test_equal_runs_and_absent_sweeps_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match='run 1: got the values of run 0'):
    sweep.make_runs([{}, {}], _config(), 'out', config_path='c.py')
  path = tmp_path / 'config.py'
  with pytest.raises(errors.InputError, match='no such file'):
    sweep.load_sweep(path)
  path.write_text('def get_config(): pass')
  with pytest.raises(errors.InputError, match=r'no function sweep\(add\)'):
    sweep.load_sweep(path)


def test_finished_runs_are_not_repeated(tmp_path):
  runs = _runs(tmp_path)
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'fail').touch()
  failed = _run(tmp_path, runs)
  assert set(failed) == {run.name for run in runs}
  assert failed['base'] == 'status 2: error: no luck'
  (out / 'fail').unlink()
  (out / 'calls').unlink()
  assert _run(tmp_path, runs, parallel=3) == {}
  assert sorted(_calls(tmp_path)) == sorted(run.name for run in runs)
  (out / 'runs' / 'base' / 'eval.json').unlink()
  assert _run(tmp_path, runs) == {}
  assert _calls(tmp_path)[3:] == ['base']
  # The folder of another config is nobody's result.
  other = [runs[0]._replace(config=_runs(tmp_path)[1].config)]
  with pytest.raises(errors.InputError, match='another config'):
    sweep.run_all(other)


def test_table_has_mean_and_spread_over_seeds(tmp_path):
  runs = _runs(tmp_path, seeds=(0, 1, 2))
  assert len(runs) == 9
  assert _run(tmp_path, runs, parallel=4) == {}
  (tmp_path / 'out/runs' / runs[8].name / 'eval.json').unlink()
  table = sweep_table.write_table(tmp_path / 'out')
  assert table['keys'] == ['part.size', 'on', 'name', 'rate', 'shape']
  first, second, third = table['rows']
  # Without the third seed: scores 25.5 and 26.5.
  assert (first['finished'], len(first['runs'])) == (2, 3)
  assert first['mean']['psnr'] == 26.0
  assert first['spread']['psnr'] == pytest.approx(np.std([0, 1], ddof=1))
  scores = 20 + 1 + 3 + np.array([0, 1, 4.0])
  assert second['mean']['psnr'] == pytest.approx(scores.mean())
  assert second['spread']['psnr'] == pytest.approx(scores.std(ddof=1))
  assert (second['min']['psnr'], second['max']['psnr']) == (24.0, 28.0)
  assert third['values'] == {}
  assert 'by_pyramid_level.1.psnr' in first['mean']
  assert not any('by_photo' in name for name in first['mean'])
  text = (tmp_path / 'out' / 'table.txt').read_text()
  assert text.splitlines()[0].split()[:2] == ['part.size', 'on']
  assert '25.67 +- 2.08' in text and '2/3' in text
  table = sweep_table.write_table(tmp_path / 'out', 'seconds')
  means = [row['mean']['seconds'] for row in table['rows']]
  assert means == sorted(means)
  with pytest.raises(errors.InputError, match="--metric: got 'beauty'"):
    sweep_table.write_table(tmp_path / 'out', 'beauty')


def test_scripts_for_clusters(tmp_path):
  runs = _runs(tmp_path)
  script = tmp_path / 'job.sh'
  text = sweep.slurm_script(runs, tmp_path / 'out', 2)
  assert '#SBATCH --array=0-2%2' in text
  # The shell itself says what each task would start.
  script.write_text(text.replace('exec python', 'exec echo'))
  for i, run in enumerate(runs):
    done = subprocess.run(
        ['bash', str(script)],
        env={**os.environ, 'SLURM_ARRAY_TASK_ID': str(i)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = ' '.join(['-m', 'experiments.train', *run.arguments])
    assert done.stdout.strip() == expected


def test_command_prints_without_running(tmp_path):
  done = subprocess.run(
      [
          sys.executable, '-m', 'experiments.sweep',
          '--config=configs/quickstart.py:quicktest', '--config.num_steps=7',
          f'--workdir={tmp_path / "out"}', '--print=commands', '--seeds=0,1',
      ],
      cwd=_ROOT, env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = done.stdout.strip().splitlines()
  assert len(lines) % 2 == 0 and len(lines) >= 4
  assert all('--config.num_steps=7' in line for line in lines)
  assert any(
      '--config.max_depth=0' in line and '--config.seed=0' in line
      for line in lines
  )  # fmt: skip
  plan = json.loads((tmp_path / 'out' / 'sweep.json').read_text())
  assert len(plan['runs']) == len(lines)
  assert not (tmp_path / 'out' / 'runs').exists()


def test_values_survive_the_config(tmp_path):
  del tmp_path
  config = ml_collections.ConfigDict({'a': 1.0, 'seed': 3})
  (run,) = sweep.make_runs([{'a': 2}], config, 'o', config_path='c.py')
  assert run.values == {'a': 2.0} and run.name == 'a=2.0'
  assert config.a == 1.0
