"""The folder of a run: one writer, one config, its origin on record."""

import errno
import json
import os
import pathlib
import socket
from typing import Any, Callable

import ml_collections
from absl import logging

from infnerf_jax import errors, json_files, provenance

try:
  import fcntl
except ImportError:  # Windows: the lock file is written but not enforced.
  fcntl = None

CONFIG = 'config.json'
PROVENANCE = 'provenance.json'
LOCK = '.lock'

# All else changes what a step computes. `x.` stands for everything under x.
MAY_DIFFER = (
    'num_steps',
    # More may be added to a finished run: `training.extension` sees to it.
    'data.extra_paths',
    'checkpoint_every',
    'prune_share',
    'max_memory_gb',
    'devices',
    'devices.',
    'logging.',
)

write_json_atomic = json_files.write_json_atomic


class Workdir:
  """A prepared run folder, locked until it is closed; a context manager."""

  def __init__(self, path: pathlib.Path, lock: int, *, before: str | None):
    """Holds what `prepare_workdir` took.

    Args:
      path: the folder.
      lock: descriptor of the locked file.
      before: config.json as it was, None: there was none.
    """
    self.path = path
    self.is_new = before is None
    self._before = before
    self._lock: int | None = lock

  def __enter__(self):
    return self

  def __exit__(self, error_type, *unused):
    if error_type and issubclass(error_type, errors.InputError):
      # The run never began, or never went on, by this config: a corrected one
      # must find the folder as it was.
      if self._before is None:
        (self.path / CONFIG).unlink(missing_ok=True)
      else:
        json_files.write_text_atomic(self.path / CONFIG, self._before)
    self.close()

  def close(self) -> None:
    """Gives the lock back."""
    if self._lock is not None:
      _give_back(self._lock)
      self._lock = None


def existing(path) -> pathlib.Path:
  """The path or its nearest parent that exists."""
  path = pathlib.Path(path).absolute()
  while not path.exists():
    path = path.parent
  return path


def check_place(workdir) -> None:
  """Refuses a workdir that could not be written; makes nothing.

  Raises:
    InputError: it, or its nearest parent that exists, is no folder to write to.
  """
  place = existing(workdir)
  if not place.is_dir():
    number = errno.ENOTDIR
  elif not os.access(place, os.W_OK | os.X_OK):
    number = errno.EACCES
  else:
    return
  raise _no_place(workdir, os.strerror(number))


def _no_place(workdir, reason) -> errors.InputError:
  return errors.InputError(
      f'--workdir: {workdir}: {reason}, expected a folder to write to'
  )


def prepare_workdir(
    workdir,
    config: ml_collections.ConfigDict,
    *,
    before_config: Callable[[], None] | None = None,
) -> Workdir:
  """Makes or reopens a run folder for the one process that may write to it.

  Args:
    workdir: folder.
    config: the run's config; written to config.json.
    before_config: called where the folder holds a run, before its config.json
      is replaced.

  Returns:
    Workdir; close it, or use it in a `with`.

  Raises:
    InputError: the folder cannot be made, another process writes to it, or it
      holds a run whose config differs in more than MAY_DIFFER.
  """
  path = pathlib.Path(workdir)
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path / LOCK)
  except OSError as e:
    raise _no_place(path, e.strerror) from e
  before = None
  try:
    if (path / CONFIG).exists():
      check_same_config(path, config)
      before = (path / CONFIG).read_text()
      if before_config is not None:
        before_config()
    text = json.dumps(config_to_json(config), indent=2)
    json_files.write_text_atomic(path / CONFIG, text + '\n')
    _add_provenance(path / PROVENANCE)
  except BaseException:
    _give_back(lock)
    raise
  return Workdir(path, lock, before=before)


def _take_lock(path: pathlib.Path) -> int:
  """Locks a file and says in it who holds it.

  The kernel drops the lock with its process, however that ends, so a name left
  in the file of a lock that is free is a crashed run's.
  """
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  holder = os.read(descriptor, 1000).decode(errors='replace').strip()
  try:
    if fcntl is not None:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    raise errors.InputError(
        f'{path}: in use by {holder or "another process"}, expected one writer'
        ' a workdir'
    ) from None
  if holder:
    logging.warning('%s: stale lock of %s taken over', path, holder)
  me = f'process {os.getpid()} on {socket.gethostname()}\n'
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, me.encode(), 0)
  return descriptor


def _give_back(descriptor: int) -> None:
  """Empties and unlocks the file of a lock: its holder ended in order."""
  os.ftruncate(descriptor, 0)
  os.close(descriptor)


def config_to_json(config) -> dict[str, Any]:
  """A config as JSON gives it back: references resolved, tuples as lists."""
  return json.loads(json.dumps(config.to_dict()))


def load_config(workdir) -> ml_collections.ConfigDict:
  """Reads the config of a run.

  Args:
    workdir: folder of the run.

  Returns:
    ConfigDict; sequences are tuples.

  Raises:
    InputError: there is none, or it is not one.
  """
  path = pathlib.Path(workdir) / CONFIG
  values = json_files.read_json(path)
  if not isinstance(values, dict):
    raise errors.InputError(
        f'{path}: got a {type(values).__name__}, expected an object'
    )
  return config_from_json(values)


def config_from_json(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """Inverse of `config_to_json`; sequences become tuples."""
  return ml_collections.ConfigDict(_with_tuples(values))


def _with_tuples(value):
  if isinstance(value, dict):
    return {k: _with_tuples(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_with_tuples(v) for v in value)
  return value


def check_same_config(workdir, config) -> None:
  """Refuses to go on with a run under another config.

  Args:
    workdir: folder of the run.
    config: what is to be run.

  Raises:
    InputError: fields outside of MAY_DIFFER differ; each is named with both
      values.
  """
  path = pathlib.Path(workdir) / CONFIG
  there = _flat(json_files.read_json(path))
  here = _flat(config_to_json(config))
  differences = [
      f'{name}: found {_show(there, name)}, got {_show(here, name)}'
      for name in sorted(set(there) | set(here))
      if _show(there, name) != _show(here, name) and not _may_differ(name)
  ]
  if differences:
    raise errors.InputError(
        f'{path}: holds a run with another config; {"; ".join(differences)}'
    )


def _flat(value, prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} as {'a.b': 1}; an empty object stays one."""
  if not isinstance(value, dict) or not value:
    return {prefix.removesuffix('.'): value}
  flat = {}
  for key, item in value.items():
    flat.update(_flat(item, f'{prefix}{key}.'))
  return flat


def _show(fields, name) -> str:
  return json.dumps(fields[name]) if name in fields else 'nothing'


def _may_differ(name: str) -> bool:
  return name in MAY_DIFFER or name.startswith(
      tuple(n for n in MAY_DIFFER if n.endswith('.'))
  )


def _add_provenance(path: pathlib.Path) -> None:
  """Appends this start of the run to the record of its starts."""
  try:
    starts = json.loads(path.read_text())['starts']
  except (OSError, ValueError, KeyError, TypeError):
    starts = []
  json_files.write_json_atomic(
      path, {'starts': starts + [provenance.describe()]}
  )
