"""The command, end to end on tiny shapes."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from infnerf_jax.evaluation.bench import (
    contests,
    frame_rows,
    shapes,
    suites,
)

_ROOT = pathlib.Path(__file__).parents[2]
_FIELDS = {'name', 'value', 'unit', 'reference', 'ratio', 'target', 'passed'}


def _run(*arguments):
  return subprocess.run(
      [sys.executable, '-m', 'experiments.bench', *arguments],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )


def test_suite_writes_rows_and_machine(tmp_path):
  out = tmp_path / 'sub' / 'bench.json'
  done = _run('--suite=kernels', '--tiny', f'--out={out}')
  assert done.returncode == 0, done.stderr
  result = json.loads(out.read_text())
  assert result['suite'] == 'kernels'
  assert result['machine']['cores'] >= 1
  assert result['rows'] and all(_FIELDS <= set(r) for r in result['rows'])
  for row in result['rows']:
    assert (row['value'] or 0) > 0 or row['note'].startswith('not run')
    assert row['name'] in done.stdout


@pytest.mark.slow
def test_every_kernel_is_measured_on_a_cpu(tmp_path):
  """What a GPU's rows are made of runs from end to end, at a tiny size."""
  out = tmp_path / 'bench.json'
  done = _run('--suite=kernels', '--tiny', '--cpu_frame=8', f'--out={out}')
  assert done.returncode == 0, done.stderr
  rows = {r['name']: r for r in json.loads(out.read_text())['rows']}
  rows = {n: r for n, r in rows.items() if n.startswith('kernels/cpu 8/')}
  ops = {*frame_rows.TARGETS, *frame_rows.BATCH_OPS}
  assert len(rows) == 2 * len(ops) + 3
  for op in ops:
    row = rows[f'kernels/cpu 8/{op}/ours vs xla']
    assert row['value'] > 0 and row['reference'] > 0 and row['ratio'] > 0
    assert row['detail']['bytes_per_second'] > 0
  rates = [r for n, r in rows.items() if n.endswith('a ray/ours')]
  for row in (*rates, rows['kernels/cpu 8/frame/time']):
    assert row['value'] > 0
  assert len(rates) == 2
  for row in rows.values():
    if 'torch' in row['name'] and row['value'] is None:
      assert 'torch' in row['note']
    assert row['target'] is None


@pytest.mark.parametrize(
    'arguments, found',
    [
        (['--suite=nonsense', '--out=x.json'], 'nonsense'),
        (['--suite=kernels', '--cpu_frame=-1', '--out=x.json'], '--cpu_frame'),
        ([], '--out'),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, found):
  done = _run(*arguments)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert found in line


def test_help_exits_0():
  done = _run('--help')
  assert done.returncode == 0
  assert '--suite' in done.stdout


def test_contest_rows_hold_what_was_timed():
  peer = contests.Peer(
      'torch',
      'torch_peer:inference_step',
      {'formulation': 'hand_written'},
      target=1e9,
  )
  ours = contests.Peer(
      'xla', 'jax_steps:inference_step', {'implementation': 'xla'}
  )
  effort = contests.Effort(rounds=2, warmup=1, turn_seconds=0.0)
  shape = shapes.SHAPES['tiny']
  rows = contests.against_peers('tiny', shape, ours, [peer], effort)
  if rows[0].note.startswith('not run'):
    pytest.importorskip('torch')
  cpu, wall = rows
  assert cpu.passed is False and wall.passed is None
  for row in rows:
    assert row.value > 0 and row.reference > 0
    # Medians and paired bests of two rounds of one call agree roughly.
    assert row.ratio == pytest.approx(row.value / row.reference, rel=5)
  assert cpu.detail['ours']['cpu_ms_best'] > 0


def test_contestants_that_cannot_run_give_rows_that_say_so():
  absent = contests.Peer(
      'absent', 'tests.evaluation.bench.contestants:cannot', {}, target=2.0
  )
  ours = contests.Peer(
      'env', 'tests.evaluation.bench.contestants:environment', {}
  )
  effort = contests.Effort(rounds=1)
  shape = shapes.SHAPES['tiny']
  for pair in ((ours, absent), (absent, ours)):
    (row,) = contests.against_peers('tiny', shape, pair[0], [pair[1]], effort)
    assert row.value is None and row.passed is None
    assert 'not run' in row.note and 'no such thing' in row.note
  result = {'rows': [dataclasses.asdict(row)]}
  assert 'no such thing' in suites.table(result)
