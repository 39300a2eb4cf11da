"""A run of its own process, watched: memory, time, scores as one JSON line.

Standard input holds {'config', 'workdir', 'group', 'limit_bytes', 'score'}:
the folder of the control group that bounds it, or else a limit of its data.
"""

import json
import pathlib
import sys
import threading
import time
from typing import Any

import jax

from infnerf_jax.evaluation import train_and_evaluate
from infnerf_jax.evaluation.bench import memory_group
from infnerf_jax.storage import checkpoint, row_store
from infnerf_jax.training import loop, metrics_log, out_of_core
from infnerf_jax.training import workdir as workdir_lib

try:
  import resource
except ImportError:  # Windows: no limit can be set there.
  resource = None

_PERIOD = 0.05


def memory(name: str) -> int:
  """Bytes of an entry of /proc/self/status, such as RssAnon."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(name + ':'):
      return 1024 * int(line.split()[1])
  raise KeyError(name)


class Watch:
  """Notes time at every line of metrics, and the largest memory."""

  def __init__(self, workdir):
    """Begins."""
    self._path = pathlib.Path(workdir) / metrics_log.METRICS
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self.times: list[tuple[int, float, float]] = []
    self.data = self.anonymous = 0
    self._thread.start()

  def _watch(self):
    size = self._path.stat().st_size if self._path.exists() else 0
    while not self._done.wait(_PERIOD):
      self.data = max(self.data, memory('VmData'))
      self.anonymous = max(self.anonymous, memory('RssAnon'))
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
    found = {'data': self.data, 'anonymous': self.anonymous}
    if len(self.times) < 2:
      return found
    first, last = self.times[0], self.times[-1]
    return {
        **found,
        'steps': max(last[0] - first[0], 1),
        'cpu_seconds': last[1] - first[1],
        'wall_seconds': last[2] - first[2],
    }


def _bound(task) -> memory_group.MemoryGroup | None:
  """Puts this process under its limit."""
  if task.get('group'):
    group = memory_group.MemoryGroup(task['group'])
    group.enter()
    return group
  if task.get('limit_bytes'):
    limit = int(task['limit_bytes'])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  return None


def _stored(trained, workdir) -> dict[str, Any]:
  """What a run left, and the samples of each node since its beginning."""
  if trained.store is None:
    folder = workdir / 'checkpoints'
    steps = checkpoint.CheckpointManager(folder).steps()
    return {'checkpoints': steps}
  state = row_store.RowStore(trained.store).read_state()
  return {
      'report': json.loads((workdir / out_of_core.REPORT).read_text()),
      'samples_by_node': state['samples_of_node'][1].tolist(),
  }


def run(task: dict[str, Any]) -> dict[str, Any]:
  """Trains and, where asked for, scores the test photos."""
  config = workdir_lib.config_from_json(task['config'])
  workdir = pathlib.Path(task['workdir'])
  group = _bound(task)
  jax.devices()
  watch = Watch(workdir)
  try:
    trained = loop.train(config, workdir)
  finally:
    found = watch.close()
  result = {
      **found,
      'peak': memory('VmHWM'),
      'num_nodes': trained.run.plan.built.octree.num_nodes,
      **_stored(trained, workdir),
  }
  if group is not None:
    result['group_peak'] = group.peak()
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
  if 'samples_by_node' in rows[-1]:
    result['samples_by_node'] = rows[-1]['samples_by_node']
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
