"""Processes of one run: order, agreement, and what ends when one of them dies.

On JAX's own coordination service (`jax.distributed`), which has a key-value
store and barriers. Every process tells there once in a while that it lives, and
a thread of each watches: the first process looks at all, the others at the
first and at its verdict. In a program of one process nothing here does
anything.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from typing import Callable

import jax
from absl import logging
from jax._src import distributed

from infnerf_jax import errors

_PREFIX = 'infnerf_jax/'
_DAY_MS = 24 * 3600 * 1000
# A process that waits for all others to appear gives up after this.
_CONNECT_SECONDS = 300
# Once a collective has failed, silence for this long is death.
_SUSPECT_SECONDS = 5.0
_BEATS_PER_TIMEOUT = 20
_FAILED = 1


class _Job:
  """The processes of this run, as this one sees them."""

  def __init__(
      self, index: int, count: int, timeout: float, parent: int | None
  ):
    self.index = index
    self.count = count
    self.client = distributed.global_state.client
    self.watch = _Watch(self, timeout, parent)
    self.on_abort = _abort_handler(self)

  def get(self, key: str) -> str | None:
    """Value of a key, None where nobody has set it."""
    try:
      return self.client.key_value_try_get(_PREFIX + key)
    except Exception as error:
      if 'NOT_FOUND' in str(error):
        return None
      raise

  def set(self, key: str, value: str) -> None:
    self.client.key_value_set(_PREFIX + key, value, allow_overwrite=True)

  def name(self, index: int, beat: str | None = None) -> str:
    """A process in words: its number, host and pid where they are known."""
    where = f' ({beat.partition(" ")[2]})' if beat else ''
    return f'process {index} of {self.count}{where}'


_job: _Job | None = None


def _abort_handler(job: _Job) -> Callable[[], None]:
  """What adds a line where JAX aborts a process that lost the first one.

  Its coordination service lives there; without it JAX's own thread ends the
  process at once, before the watch can. Python's handlers of signals would not
  run: the handler is libc's. The result installs it; libraries that are
  imported later take its place.
  """

  def handler(number):
    del number
    beat = job.watch.last_beat(0)
    what = f'{job.name(0, beat)} died: its coordination service is gone'
    if not job.index:
      what = 'the coordination service of JAX failed'
    print(_message(what), file=sys.stderr, flush=True)
    os._exit(_FAILED)

  kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
  handler = kind(handler)
  set_handler = ctypes.CDLL(None).signal
  set_handler.argtypes, set_handler.restype = [ctypes.c_int, kind], None
  return lambda: set_handler(signal.SIGABRT, handler)


def _message(what: str) -> str:
  return (
      f'error: {what}; this run ends, the same command goes on from the last'
      ' checkpoint'
  )


class _Watch:
  """The thread that tells the others and watches them."""

  def __init__(self, job: _Job, timeout: float, parent: int | None):
    self._job = job
    self._timeout = timeout
    self._parent = parent
    self._interval = min(1.0, timeout / _BEATS_PER_TIMEOUT)
    self._beats = {}  # process: (value, when it was first seen)
    self._stop = threading.Event()
    self._suspecting = False
    self._thread = threading.Thread(target=self._run, name='watch', daemon=True)

  def start(self) -> None:
    now = time.monotonic()
    self._beats = {i: (None, now) for i in range(self._job.count)}
    self._thread.start()

  def stop(self) -> None:
    self._stop.set()
    self._thread.join()

  def last_beat(self, index: int) -> str | None:
    """What a process last said of itself."""
    return self._beats[index][0]

  def suspect(self) -> None:
    """A collective failed: wait for whoever is dead to be named."""
    self._suspecting = True
    try:
      self._job.set('suspect', 'yes')
    except Exception:
      pass  # the first process itself is gone, and its silence tells
    time.sleep(self._timeout + 2 * _SUSPECT_SECONDS)

  def _run(self) -> None:
    number = 0
    me = f'{socket.gethostname()}, pid {os.getpid()}'
    while not self._stop.wait(self._interval):
      number += 1
      self._job.on_abort()
      try:
        self._job.set(f'beat/{self._job.index}', f'{number} {me}')
        self._look()
      except Exception:
        # The store lives in the first process: what it does not answer to is
        # told apart from a moment's trouble by time.
        if not self._stop.is_set():
          self._check_silence({})
      if self._parent and os.getppid() != self._parent:
        self._end('the launcher is gone', tell=False)

  def _look(self) -> None:
    verdict = self._job.get('end')
    if verdict:
      self._leave(verdict)
    if self._job.index:
      found = {0: self._job.get('beat/0')}
    else:
      self._suspecting = self._suspecting or bool(self._job.get('suspect'))
      at = f'{_PREFIX}beat/'
      found = {
          int(key.rpartition('/')[2]): value
          for key, value in self._job.client.key_value_dir_get(at)
      }
    self._check_silence(found)

  def _check_silence(self, found) -> None:
    now = time.monotonic()
    limit = self._timeout
    if self._suspecting:
      limit = min(limit, _SUSPECT_SECONDS)
    watched = range(self._job.count) if not self._job.index else (0,)
    for index in watched:
      value, since = self._beats[index]
      if found.get(index) not in (None, value):
        self._beats[index] = (found[index], now)
      elif index != self._job.index and now - since > limit:
        name = self._job.name(index, value)
        self._end(f'{name} died: no sign of life for {now - since:.0f} s')

  def _end(self, what: str, *, tell: bool = True) -> None:
    verdict = f'{_FAILED} {_message(what)}'
    if tell:
      with contextlib.suppress(Exception):
        self._job.set('end', verdict)
    self._leave(verdict)

  def _leave(self, verdict: str) -> None:
    status, _, message = verdict.partition(' ')
    print(message, file=sys.stderr, flush=True)
    if not self._job.index:
      self.let_others_read()
    os._exit(int(status))  # the main thread may wait for the dead

  def let_others_read(self) -> None:
    """The store goes with the first process; what it says must be read."""
    time.sleep(4 * self._interval)


def start(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    timeout: float,
    local_device_ids=None,
    parent: int | None = None,
) -> None:
  """Joins the processes of a run; before any other use of JAX.

  Args:
    coordinator_address: host:port of the first process; None: SLURM's.
    num_processes: of the run; None: SLURM's.
    process_id: of this one, from 0; None: SLURM's.
    timeout: seconds without a sign of life after which a process is dead.
    local_device_ids: GPUs of this process; None: what JAX chooses, (): all.
    parent: pid of a launcher without which this process shall end.

  Raises:
    InputError: the processes do not find each other.
  """
  global _job
  # Not available for two processes on a CPU otherwise.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        local_device_ids,
        initialization_timeout=_CONNECT_SECONDS,
        # Ours answers first, and says more.
        heartbeat_timeout_seconds=int(2 * timeout) + 60,
        shutdown_timeout_seconds=int(timeout) + 1,
    )
  except (RuntimeError, ValueError, TypeError) as error:
    line = str(error).strip().splitlines()[0]
    raise errors.InputError(
        f'--coordinator_address: {coordinator_address}: {line}; expected'
        f' {num_processes} processes to connect within {_CONNECT_SECONDS} s'
    ) from error
  state = distributed.global_state
  _job = _Job(state.process_id, state.num_processes, timeout, parent)
  _job.watch.start()
  logging.info('this is %s', _job.name(_job.index))


@contextlib.contextmanager
def joined():
  """Leaves the run in order, or tells the others why not."""
  try:
    yield
  except BaseException as error:
    _tell(error)
    raise
  finish()


def _tell(error: BaseException) -> None:
  """Others learn of the failure of this process, this one of theirs."""
  if _job is None:
    return
  if type(error).__name__ in ('XlaRuntimeError', 'JaxRuntimeError'):
    # A collective with a dead member fails everywhere: who is it? Where
    # nobody is, the error is our own.
    _job.watch.suspect()
  status = 2 if isinstance(error, errors.InputError) else _FAILED
  text = ' '.join(str(error).split()) or type(error).__name__
  if isinstance(error, SystemExit):
    status = error.code if isinstance(error.code, int) else _FAILED
    text = f'ended with status {status}'
  _job.watch.stop()  # it would take this process's verdict for another's
  with contextlib.suppress(Exception):
    _job.set(
        'end', f'{status or _FAILED} error: {_job.name(_job.index)}: {text}'
    )
  if not _job.index:
    _job.watch.let_others_read()
  # Not by way of JAX's end, which waits for the others to come to theirs.
  atexit.register(_exit_at_once, status)


def _exit_at_once(status: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def finish() -> None:
  """Waits for all and leaves; the last thing that a process does."""
  global _job
  if _job is None:
    return
  barrier('finish')
  _job.watch.stop()
  signal.signal(signal.SIGABRT, signal.SIG_DFL)
  _job = None
  jax.distributed.shutdown()


def count() -> int:
  """Processes of this run."""
  return _job.count if _job else 1


def index() -> int:
  """Which of them this one is."""
  return _job.index if _job else 0


def is_first() -> bool:
  """Whether this process writes logs and checkpoints."""
  return index() == 0


def barrier(name: str) -> None:
  """Waits, as long as it takes, until all processes are here.

  Args:
    name: not used before in this run.
  """
  if _job:
    _job.client.wait_at_barrier(_PREFIX + name, _DAY_MS)


@contextlib.contextmanager
def first_before_others(name: str):
  """The first process runs the block, then all others do, at once.

  Args:
    name: not used before in this run.
  """
  if _job and _job.index:
    _job.client.blocking_key_value_get(f'{_PREFIX}turn/{name}', _DAY_MS)
  yield
  if _job and not _job.index:
    _job.set(f'turn/{name}', 'done')


def agree(name: str, value) -> None:
  """Refuses to go on where processes differ.

  Args:
    name: what of, not used before in this run; for the message.
    value: text or number, which must be the first process's.

  Raises:
    InputError: it is another.
  """
  if _job is None:
    return
  key, mine = f'agree/{name}', str(value)
  if not _job.index:
    _job.set(key, mine)
    return
  first = _job.client.blocking_key_value_get(_PREFIX + key, _DAY_MS)
  if first != mine:
    raise errors.InputError(
        f'{name}: process {_job.index} found {mine}, process 0 {first},'
        ' expected the same (do all hosts see the same workdir, scene and'
        ' config?)'
    )
