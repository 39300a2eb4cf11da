"""Interleaved measurement of contestants, each in a process of its own.

On a shared machine two runs one after the other compare the neighbours'
load, not the contestants. Here they take turns, A B A B, and what counts is
the CPU time of all threads (a wall time only where threads are the point).
"""

import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import psutil
from absl import logging

_ROOT = pathlib.Path(__file__).parents[3]
_WORKER = 'infnerf_jax.evaluation.bench.worker'
# A turn lasts about this long: timers and switches do not matter then.
_TURN_SECONDS = 0.4
_MAX_ITERATIONS = 8


class Unavailable(Exception):
  """A contestant that cannot run here; the text says why."""


class Timing(NamedTuple):
  """Seconds of single calls, in the order of rounds.

  Attributes:
    cpu: one list a round.
    wall: one list a round.
    values: what the calls returned where it was a number.
  """

  cpu: list[list[float]]
  wall: list[list[float]]
  values: list[float]

  def best(self, clock: str) -> float:
    """Shortest call by `clock`, 'cpu' or 'wall'."""
    return min(min(turn) for turn in getattr(self, clock))

  def median(self, clock: str) -> float:
    """Median call."""
    return statistics.median(sum(getattr(self, clock), []))


def thread_environment(num_threads: int) -> dict[str, str]:
  """Variables that hold every library to a number of threads."""
  number = str(num_threads)
  names = (
      'OMP_NUM_THREADS',
      'MKL_NUM_THREADS',
      'OPENBLAS_NUM_THREADS',
      'INFNERF_NUM_THREADS',
      'NPROC',  # XLA's thread pools
  )
  flags = os.environ.get('XLA_FLAGS', '')
  if num_threads == 1:
    flags += ' --xla_cpu_multi_thread_eigen=false'
  return {**dict.fromkeys(names, number), 'XLA_FLAGS': flags.strip()}


class Worker:
  """A contestant: use as a context manager.

  Args:
    factory: 'module:function', a module of this package or a dotted name;
      makes what is timed.
    threads: of all libraries.
    platform: where the factory, which is told, must run, 'cpu' or 'gpu';
      None: on the CPU.
    **kwargs: of the factory, JSON values.
  """

  def __init__(
      self,
      factory: str,
      *,
      threads: int = 1,
      platform: str | None = None,
      **kwargs,
  ):
    environment = {
        **os.environ,
        **thread_environment(threads),
        # Contestants on a GPU share its memory.
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
        'JAX_PLATFORMS': '' if platform == 'gpu' else 'cpu',
        'PYTHONPATH': os.pathsep.join(
            [str(_ROOT)] + os.environ.get('PYTHONPATH', '').split(os.pathsep)
        ),
    }
    if platform:
      kwargs['platform'] = platform
    self.name = factory
    logging.info('bench: %s, %d threads, %s', factory, threads, kwargs)
    self._process = subprocess.Popen(
        [sys.executable, '-m', _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
      ready = self._ask({'factory': factory, 'kwargs': kwargs})
      if 'unavailable' in ready:
        raise Unavailable(ready['unavailable'])
    except BaseException:
      self.close()
      raise
    self.parts = ready['parts']
    self.setup_s = ready['setup_s']
    self.device = ready['device']
    self.peak_rss = 0

  def _ask(self, request) -> dict[str, Any]:
    try:
      self._process.stdin.write(json.dumps(request) + '\n')
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ''
    if not line:
      raise RuntimeError(
          f'benchmark worker {self.name} ended with status'
          f' {self._process.wait()}; its stderr says why'
      )
    return json.loads(line)

  def run(self, iterations: int, part: str = '') -> dict[str, Any]:
    """Calls the function and returns lists `cpu`, `wall` (s) and `values`."""
    result = self._ask({'part': part, 'iterations': iterations})
    self.peak_rss = max(self.peak_rss, result['rss'])
    return result

  def close(self) -> None:
    """Ends the process."""
    for pipe in (self._process.stdin, self._process.stdout):
      try:
        pipe.close()
      except BrokenPipeError:
        pass
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def interleave(
    contestants: list[tuple[Worker, str]],
    *,
    rounds: int,
    warmup: int = 2,
    turn_seconds: float = _TURN_SECONDS,
) -> list[Timing]:
  """Lets contestants take turns.

  Args:
    contestants: (worker, part).
    rounds: turns of each.
    warmup: calls of each before (compilation, first touch of memory).
    turn_seconds: about how long a turn lasts.

  Returns:
    One Timing each, in order.
  """
  iterations, timings = [], []
  for worker, part in contestants:
    seconds = min(worker.run(warmup, part)['wall'])
    wanted = round(turn_seconds / max(seconds, 1e-6))
    iterations.append(min(max(wanted, 1), _MAX_ITERATIONS))
    timings.append(Timing([], [], []))
  for _ in range(rounds):
    for i, (worker, part) in enumerate(contestants):
      result = worker.run(iterations[i], part)
      timings[i].cpu.append(result['cpu'])
      timings[i].wall.append(result['wall'])
      timings[i].values.extend(result['values'])
  return timings


def paired_ratio(first: Timing, second: Timing, clock: str) -> float:
  """Median over rounds of the second's best call over the first's.

  Args:
    first: contestant.
    second: the same number of rounds.
    clock: 'cpu' or 'wall'.

  Returns:
    Above one where the first is faster.
  """
  turns = zip(getattr(first, clock), getattr(second, clock), strict=True)
  return statistics.median(min(b) / min(a) for a, b in turns)


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a benchmark's result.

  Attributes:
    name: what was measured.
    value: of ours, None where it could not run.
    unit: of value and reference.
    reference: the same of what it is held against.
    ratio: how many times better than the reference (or as `rule` reads it).
    target: that ratio must reach, None: only reported.
    passed: None where there is no target or nothing could be measured.
    rule: '>=' or '<=', how `target` binds the ratio.
    note: what a reader must know; why nothing was measured.
    detail: times behind the figures.
  """

  name: str
  value: float | None
  unit: str
  reference: float | None = None
  ratio: float | None = None
  target: float | None = None
  passed: bool | None = None
  rule: str = '>='
  note: str = ''
  detail: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_row(name, value, unit, *, ratio=None, target=None, rule='>=', **rest):
  """A row whose `passed` follows from ratio, target and rule."""
  passed = None
  if target is not None and ratio is not None:
    passed = bool(ratio >= target if rule == '>=' else ratio <= target)
  return Row(
      name,
      value,
      unit,
      ratio=ratio,
      target=target,
      passed=passed,
      rule=rule,
      **rest,
  )


def missing_row(name, unit, reason, *, target=None, rule='>=') -> Row:
  """A row that says why it could not be measured."""
  return Row(
      name, None, unit, target=target, rule=rule, note=f'not run: {reason}'
  )


def milliseconds(timing: Timing) -> dict[str, float]:
  """Best and median call by both clocks."""
  return {
      f'{clock}_ms_{kind}': round(1e3 * getattr(timing, kind)(clock), 3)
      for clock in ('cpu', 'wall')
      for kind in ('best', 'median')
  }


def machine() -> dict[str, Any]:
  """What a reader needs to judge the figures."""
  name = platform.processor()
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        name = line.split(':', 1)[1].strip()
        break
  except OSError:
    pass
  commit = subprocess.run(
      ['git', 'rev-parse', 'HEAD'],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
  ).stdout.strip()
  return {
      'processor': name,
      'cores': (
          len(psutil.Process().cpu_affinity())
          if hasattr(psutil.Process, 'cpu_affinity')
          else psutil.cpu_count()
      ),
      'memory_gb': round(psutil.virtual_memory().total / 1e9, 1),
      'load_average': [round(x, 2) for x in os.getloadavg()],
      'system': platform.platform(),
      'python': platform.python_version(),
      'date': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
      'commit': commit or None,
  }
