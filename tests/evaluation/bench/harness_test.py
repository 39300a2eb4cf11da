"""Tests of the interleaved measurement, with contestants of known cost."""

import json
import time

import pytest

from infnerf_jax import errors
from infnerf_jax.evaluation.bench import harness, input_steps, suites

FACTORY = 'tests.evaluation.bench.contestants'


class ScriptedWorker:
  """Stands for a worker whose calls take a stated time, and keeps a log."""

  def __init__(self, name, seconds, log):
    self._name, self._seconds, self._log = name, list(seconds), log

  def run(self, iterations, part=''):
    self._log.append((self._name, part, iterations))
    times = [self._seconds.pop(0) for _ in range(iterations)]
    return {'cpu': times, 'wall': [2 * t for t in times], 'values': times}


def test_contestants_take_turns():
  log = []
  a = ScriptedWorker('a', [9, 1, 1, 2, 4], log)
  b = ScriptedWorker('b', [9, 3, 2, 4, 12], log)
  timings = harness.interleave([(a, ''), (b, 'x')], rounds=3, warmup=2)
  warm = [('a', '', 2), ('b', 'x', 2)]
  assert log == warm + [('a', '', 1), ('b', 'x', 1)] * 3
  # The neighbours' load doubled both in the last round: the pairs say 2, 2, 3.
  assert timings[0].cpu == [[1], [2], [4]]
  assert harness.paired_ratio(*timings, 'cpu') == 2
  assert timings[1].best('cpu') == 2
  assert timings[1].median('wall') == 8
  assert timings[0].values == [1, 2, 4]


@pytest.mark.parametrize(
    'seconds, iterations', [(0.1, 4), (0.0001, 8), (10.0, 1)]
)
def test_turns_have_a_useful_length(seconds, iterations):
  log = []
  worker = ScriptedWorker('a', [seconds] * 50, log)
  # Walls are twice the stated seconds.
  harness.interleave([(worker, '')], rounds=1, warmup=1, turn_seconds=0.8)
  assert log[-1] == ('a', '', iterations)


@pytest.mark.parametrize(
    'ratio, rule, passed',
    [
        (5.0, '>=', True),
        (4.9, '>=', False),
        (4.9, '<=', True),
        (5.1, '<=', False),
        (None, '>=', None),
    ],
)
def test_row_passes_by_its_rule(ratio, rule, passed):
  row = harness.make_row('x', 1.0, 'ms', ratio=ratio, target=5.0, rule=rule)
  assert row.passed is passed


def test_worker_separates_cpu_time_from_waiting():
  with harness.Worker(f'{FACTORY}:burn_and_sleep', seconds=0.05) as worker:
    assert worker.parts == ['burn', 'sleep']
    burn = worker.run(2, 'burn')
    sleep = worker.run(2, 'sleep')
  assert len(burn['cpu']) == 2
  assert min(burn['cpu']) >= 0.05
  # Prints of a library must not reach the protocol; values must.
  assert burn['values'] == [7.0, 7.0]
  assert max(sleep['cpu']) < 0.04 <= min(sleep['wall'])


def test_workers_hold_libraries_to_their_threads():
  with harness.Worker(f'{FACTORY}:environment', threads=3) as worker:
    assert worker.run(1, 'OMP_NUM_THREADS')['values'] == [3.0]
    assert worker.run(1, 'INFNERF_NUM_THREADS')['values'] == [3.0]


def test_missing_contestant_is_a_reason_not_a_crash():
  with pytest.raises(harness.Unavailable, match='no such thing'):
    harness.Worker(f'{FACTORY}:unavailable')


def test_dead_worker_raises():
  with harness.Worker(f'{FACTORY}:dies') as worker:
    with pytest.raises(RuntimeError, match='ended with status 3'):
      worker.run(1)


def test_unknown_suite_is_bad_input():
  with pytest.raises(errors.InputError, match='nonsense'):
    suites.run('nonsense')


def test_machine_is_json_and_dated():
  machine = json.loads(json.dumps(harness.machine()))
  assert machine['cores'] >= 1
  assert machine['date'].startswith(time.strftime('%Y-'))


def test_input_wait_share_is_the_median(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  shares = [0.5, 0.01, 0.02]
  rows = [{'step': i, 'input_wait_share': s} for i, s in enumerate(shares)]
  path.write_text('\n'.join(json.dumps(r) for r in [{'step': 9}] + rows))
  assert input_steps.input_wait_share(tmp_path) == 0.02
  path.write_text('{"step": 1}\n')
  with pytest.raises(ValueError, match='input_wait_share'):
    input_steps.input_wait_share(tmp_path)
