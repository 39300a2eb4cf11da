"""A run of its own process, watched: memory, time, scores as one JSON line.

Standard input holds {'config', 'workdir', 'limit_bytes', 'score'}.
"""

import json
import pathlib
import sys
import threading
import time
from typing import Any

import jax

from infnerf_jax.evaluation import train_and_evaluate
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import loop, metrics_log, out_of_core
from infnerf_jax.training import workdir as workdir_lib

try:
  import resource
except ImportError:  # Windows: no limit can be set there.
  resource = None

_PERIOD = 0.05


def memory(name: str) -> int:
  """Bytes of an entry of /proc/self/status, such as VmHWM."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(name + ':'):
      return 1024 * int(line.split()[1])
  raise KeyError(name)


class Watch:
  """Notes time at every line of metrics, and the largest data segment."""

  def __init__(self, workdir):
    """Begins."""
    self._path = pathlib.Path(workdir) / metrics_log.METRICS
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self.times: list[tuple[int, float, float]] = []
    self.data = 0
    self._thread.start()

  def _watch(self):
    size = self._path.stat().st_size if self._path.exists() else 0
    while not self._done.wait(_PERIOD):
      self.data = max(self.data, memory('VmData'))
      now = self._path.stat().st_size if self._path.exists() else 0
      if now != size:
        size = now
        rows = metrics_log.read_metrics(self._path.parent)
        step = rows[-1]['step'] if rows else 0
        self.times.append((step, time.process_time(), time.monotonic()))

  def close(self) -> dict[str, float]:
    """Ends; seconds of a step by both clocks, from the first line on."""
    self._done.set()
    self._thread.join()
    if len(self.times) < 2:
      return {}
    first, last = self.times[0], self.times[-1]
    steps = max(last[0] - first[0], 1)
    return {
        'steps': steps,
        'cpu_seconds': last[1] - first[1],
        'wall_seconds': last[2] - first[2],
    }


def run(task: dict[str, Any]) -> dict[str, Any]:
  """Trains and, where asked for, scores the test photos."""
  config = workdir_lib.config_from_json(task['config'])
  workdir = pathlib.Path(task['workdir'])
  jax.devices()
  before = memory('VmRSS')
  if task.get('limit_bytes'):
    limit = int(task['limit_bytes'])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  watch = Watch(workdir)
  try:
    trained = loop.train(config, workdir)
  finally:
    times = watch.close()
  result = {
      'before': before, 'peak': memory('VmHWM'), 'data': watch.data, **times,
      'num_nodes': trained.run.plan.built.octree.num_nodes,
  }  # fmt: skip
  if trained.store is not None:
    report = json.loads((workdir / out_of_core.REPORT).read_text())
    result['report'] = report
  else:
    folder = workdir / 'checkpoints'
    steps = checkpoint.CheckpointManager(folder).steps()
    result['checkpoints'] = steps
  if task.get('score'):
    scores = train_and_evaluate.score(
        config, trained.run, trained.state, trained.run.split.test, fit=False,
        store=trained.store,
    )  # fmt: skip
    result['psnr'] = scores['psnr']
    result['by_pyramid_level'] = [
        row['psnr'] for row in scores['by_pyramid_level']
    ]
  rows = metrics_log.read_metrics(workdir)
  for name in ('bytes_read_per_step', 'bytes_written_per_step'):
    values = [row[name] for row in rows if name in row]
    # Behind the first fill of the slots.
    result[name] = sum(values[1:]) / max(len(values) - 1, 1)
  return result


def main():
  """Runs the task on standard input."""
  result = run(json.load(sys.stdin))
  print(json.dumps(result), flush=True)


if __name__ == '__main__':
  main()
