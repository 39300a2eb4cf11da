"""From flags, environment and SLURM to the processes of a run.

Imports no jax: the launcher of several processes on one machine only starts and
watches them.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Mapping, NamedTuple, Sequence

from infnerf_jax import errors

# Between SIGTERM and SIGKILL.
_GRACE_SECONDS = 5.0
_LAUNCHER = 'INFNERF_LAUNCHER_PID'


class Job(NamedTuple):
  """Which process of how many this is.

  Attributes:
    num_processes: of the run.
    process_id: of this one; None: it is the launcher of all.
    coordinator_address: host:port, None: JAX asks SLURM.
    local_device_ids: GPUs of this process, None: JAX asks SLURM, (): all.
  """

  num_processes: int
  process_id: int | None
  coordinator_address: str | None
  local_device_ids: tuple[int, ...] | None = ()


def find_job(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Job | None:
  """The job that flags, JAX_… variables or SLURM describe, in that order.

  Args:
    coordinator_address: flag, None: not given.
    num_processes: likewise.
    process_id: likewise.
    environment: variables.

  Returns:
    Job; None: a single process.

  Raises:
    InputError: flags or variables that do not fit together.
  """
  address = coordinator_address or environment.get('JAX_COORDINATOR_ADDRESS')
  count = _number('num_processes', num_processes, environment)
  index = _number('process_id', process_id, environment)
  if count is None and index is None and not address:
    return _slurm_job(environment)
  if count is None or count < 1:
    raise errors.InputError(
        f'--num_processes: got {count}, expected the number of processes, >= 1'
    )
  if index is None:
    if address:
      raise errors.InputError(
          f'--process_id: got nothing with --coordinator_address={address},'
          f' expected 0 to {count - 1}'
      )
    return Job(count, None, None) if count > 1 else None
  if not 0 <= index < count:
    raise errors.InputError(
        f'--process_id: got {index}, expected 0 to {count - 1}'
    )
  if count == 1:
    return None
  if not address or not address.rpartition(':')[2].isdecimal():
    raise errors.InputError(
        f'--coordinator_address: got {address!r}, expected HOST:PORT of'
        ' process 0'
    )
  return Job(count, index, address)


def _number(name, given, environment) -> int | None:
  if given is not None:
    return given
  variable = f'JAX_{name.upper()}'
  text = environment.get(variable)
  if text is None:
    return None
  try:
    return int(text)
  except ValueError:
    raise errors.InputError(
        f'{variable}: got {text!r}, expected a number'
    ) from None


def _slurm_job(environment) -> Job | None:
  """The job of an `srun` of several tasks, None elsewhere."""
  # Set in the tasks of a step only, not in the batch script around it.
  tasks = environment.get('SLURM_STEP_NUM_TASKS', '')
  needed = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_LOCALID')
  if not tasks.isdecimal() or int(tasks) < 2:
    return None
  if not environment.get('SLURM_PROCID', '').isdecimal() or any(
      name not in environment for name in needed
  ):
    return None
  nodes = int(environment.get('SLURM_STEP_NUM_NODES', '1'))
  gpus = environment.get('CUDA_VISIBLE_DEVICES', '')
  # Tasks that all see the same GPUs take one each; else each has its own.
  shared = int(tasks) > nodes and gpus.count(',') + 1 == int(tasks) // nodes
  return Job(
      int(tasks),
      int(environment['SLURM_PROCID']),
      None,
      None if shared else (),
  )


@contextlib.contextmanager
def joined(job: Job | None, *, timeout: float, cpu_devices: int = 0):
  """Makes this process one of the job's for the length of a block.

  Args:
    job: None: there is no other.
    timeout: seconds without a sign of life after which a process is dead.
    cpu_devices: so many virtual CPU devices, and no GPU; 0: whatever is here.
  """
  if timeout <= 0:
    raise errors.InputError(
        f'--worker_timeout: got {timeout:g}, expected seconds above 0'
    )
  if cpu_devices < 0:
    raise errors.InputError(f'--cpu_devices: got {cpu_devices}, expected >= 0')
  if job is None and not cpu_devices:
    yield
    return
  import jax

  from infnerf_jax.sharding import processes

  if cpu_devices:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', cpu_devices)
  if job is not None:
    launcher = os.environ.get(_LAUNCHER)
    processes.start(
        job.coordinator_address,
        job.num_processes,
        job.process_id,
        timeout=timeout,
        local_device_ids=job.local_device_ids,
        parent=int(launcher) if launcher else None,
    )
  with processes.joined():
    yield


def run_local(num_processes: int, arguments: Sequence[str]) -> int:
  """Starts this program several times on this machine and waits for all.

  The first one has the terminal. When one ends badly, the others are killed:
  a run loses nothing but the steps since its last checkpoint.

  Args:
    num_processes: 2 or more.
    arguments: flags of the program.

  Returns:
    Exit status: 0, or that of the process that failed.
  """
  address = f'127.0.0.1:{_free_port()}'
  environment = {
      **os.environ,
      _LAUNCHER: str(os.getpid()),
      # Nobody outside this machine shall connect.
      'JAX_COORDINATOR_BIND_ADDRESS': address,
  }
  spec = sys.modules['__main__'].__spec__
  program = ['-m', spec.name] if spec else [sys.argv[0]]
  with contextlib.ExitStack() as stack:
    workers = []
    stack.callback(_stop, workers)
    for index in range(num_processes):
      log = stack.enter_context(tempfile.TemporaryFile('w+'))
      command = [
          sys.executable, *program, *arguments,
          f'--coordinator_address={address}',
          f'--num_processes={num_processes}', f'--process_id={index}',
      ]  # fmt: skip
      output = {} if index == 0 else {'stdout': log, 'stderr': log}
      process = subprocess.Popen(command, env=environment, **output)
      workers.append((process, log))
    return _wait(workers)


def _free_port() -> int:
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def _wait(workers) -> int:
  """Until all are done, or the first fails."""
  while True:
    states = [process.poll() for process, _ in workers]
    if all(state == 0 for state in states):
      return 0
    if any(states):
      break
    time.sleep(0.05)
  # A killed one drags others down: it is the one to name.
  index = min(
      (i for i, state in enumerate(states) if state),
      key=lambda i: (states[i] > 0, i),
  )
  process, log = workers[index]
  _stop(workers, grace=0.0)
  if index:
    log.seek(0)
    sys.stderr.write(log.read())
  if process.returncode != 2:  # of bad input the line above says all
    how = f'ended with status {process.returncode}'
    if process.returncode < 0:
      how = f'was killed by signal {-process.returncode}'
    print(
        f'error: process {index} of {len(workers)} (pid {process.pid}) {how};'
        ' the others were stopped, the same command goes on from the last'
        ' checkpoint',
        file=sys.stderr,
        flush=True,
    )
  return process.returncode if process.returncode > 0 else 1


def _stop(workers, grace: float = _GRACE_SECONDS) -> None:
  """Ends whoever still runs, by SIGKILL after seconds of grace."""
  for process, _ in workers:
    if process.poll() is None and grace:
      process.terminate()
  deadline = time.monotonic() + grace
  for process, _ in workers:
    try:
      process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
