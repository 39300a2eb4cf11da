"""A benchmark's contestant in a process of its own, timed by itself.

`python -m infnerf_jax.evaluation.bench.worker` reads one JSON object a line
from stdin and answers one a line on what was its stdout (libraries that print
are sent to stderr). The first names a factory; what follows asks for runs.
A process each, because the thread counts of XLA, torch and the native kernels
are fixed once they have started.
"""

import importlib
import json
import os
import sys
import time

import psutil

from infnerf_jax import heap

_PACKAGE = 'infnerf_jax.evaluation.bench'


def _protocol_stream():
  """The pipe to the parent; fd 1 then leads to stderr."""
  stream = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)
  return stream


def _make(request) -> dict:
  """Builds the functions to time: by name, '' for the only one."""
  module, name = request['factory'].split(':')
  if '.' not in module:
    module = f'{_PACKAGE}.{module}'
  factory = getattr(importlib.import_module(module), name)
  made = factory(**request['kwargs'])
  return made if isinstance(made, dict) else {'': made}


def _run(function, iterations: int) -> dict:
  """Times calls one by one, by the CPU time of all threads and by the clock."""
  cpu, wall, values = [], [], []
  for _ in range(iterations):
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    value = function()
    cpu.append(time.process_time() - cpu_start)
    wall.append(time.perf_counter() - wall_start)
    if isinstance(value, (int, float)):
      values.append(float(value))
  return {'cpu': cpu, 'wall': wall, 'values': values}


def _device() -> str:
  """Name of the device that what was made runs on."""
  if 'jax' in sys.modules:
    return sys.modules['jax'].devices()[0].device_kind
  torch = sys.modules.get('torch')
  if torch is not None and torch.cuda.is_available():
    return torch.cuda.get_device_name()
  return 'cpu'


def main() -> None:
  """Serves the parent until stdin ends."""
  heap.use_one_arena()  # as commands do
  stream = _protocol_stream()
  answer = lambda message: print(json.dumps(message), file=stream, flush=True)
  start = time.perf_counter()
  try:
    functions = _make(json.loads(sys.stdin.readline()))
  except (ImportError, NotImplementedError, RuntimeError) as error:
    # An absent library or backend is a fact to report, not a defect.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    answer({'unavailable': lines[0]})
    return
  answer(
      {
          'parts': sorted(functions),
          'setup_s': time.perf_counter() - start,
          'device': _device(),
      }
  )
  for line in sys.stdin:
    request = json.loads(line)
    result = _run(functions[request['part']], request['iterations'])
    result['rss'] = psutil.Process().memory_info().rss
    answer(result)


if __name__ == '__main__':
  main()
