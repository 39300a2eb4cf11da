"""Checkpoints of a training state: asynchronous, atomic, checksummed.

One folder a step, `<directory>/<step>/`, holding `arrays/` (orbax) and
`manifest.json` (shape, type and CRC-32 of each array: orbax itself restores
flipped bits without a word). A step is written under a temporary name and
renamed when it is complete, so whatever carries a number was complete once.
"""

import errno
import json
import math
import os
import pathlib
import shutil
import threading
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from infnerf_jax import errors
from infnerf_jax.storage import leaves as leaves_lib

MANIFEST = 'manifest.json'
ARRAYS = 'arrays'
FORMAT = 1
_TEMPORARY = '.tmp-'


class DamagedError(ValueError):
  """A checkpoint that cannot be trusted; one line that says why."""


class CheckpointManager:
  """Writes and reads the checkpoints of one directory.

  Nothing on disk changes before the first `save`, so readers may look on while
  a run trains. One writer at a time (see `training.workdir`).
  """

  def __init__(self, directory, *, keep: int = 3):
    """Looks at a directory.

    Args:
      directory: folder of the steps; made by the first `save`.
      keep: how many of the newest steps stay, at least 1.
    """
    if keep < 1:
      raise ValueError(f'keep: got {keep}, expected at least 1')
    self.directory = pathlib.Path(directory)
    self._keep = keep
    self._thread: threading.Thread | None = None
    self._failure: Exception | None = None
    self._damaged: set[int] = set()
    self._swept = False

  def __enter__(self):
    return self

  def __exit__(self, error_type, *unused):
    if error_type is None:
      self.wait()
    elif self._thread is not None:
      self._thread.join()

  def steps(self) -> list[int]:
    """Committed steps in rising order; their arrays are not looked at."""
    if not self.directory.is_dir():
      return []
    return sorted(
        int(entry.name)
        for entry in self.directory.iterdir()
        if entry.name.isdecimal() and (entry / MANIFEST).is_file()
    )

  def latest_step(self) -> int | None:
    """The newest committed step, None without one."""
    return max(self.steps(), default=None)

  def stored_bytes(self, *, prefix: str = '') -> int:
    """Bytes of the newest step's arrays, as its manifest has them.

    Args:
      prefix: count arrays of this part of the tree only, such as `params`.

    Returns:
      bytes; 0 without a step, or where its manifest cannot be read.
    """
    step = self.latest_step()
    if step is None:
      return 0
    try:
      records = _read_manifest(self.directory / str(step))
    except DamagedError:
      return 0
    return sum(
        math.prod(r.shape) * np.dtype(r.dtype).itemsize
        for name, r in records.items()
        if name.startswith(prefix)
    )

  def save(self, step: int, tree) -> None:
    """Copies the state to the host, then writes it behind the caller's back.

    Waits for the previous write first.

    Args:
      step: number of finished steps.
      tree: pytree of arrays; its buffers may be donated or overwritten as soon
        as this returns.

    Raises:
      OSError: the previous write ran out of disk.
      RuntimeError: the previous write failed in another way.
    """
    self.wait()
    if not self._swept:
      sweep(self.directory)
      self._swept = True
    arrays = leaves_lib.host_copies(tree)
    # Not a daemon: the interpreter waits for a write that is under way.
    self._thread = threading.Thread(
        target=self._write, args=(int(step), arrays), name='checkpoint'
    )
    self._thread.start()

  def wait(self) -> None:
    """Returns when the last write is on disk; raises what went wrong there."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._failure is not None:
      failure, self._failure = self._failure, None
      raise failure

  def restore(self, template=None, step: int | None = None) -> tuple[int, Any]:
    """Reads the newest step whose checksums hold.

    A damaged step is named in one log line, and the next older one is taken.

    Args:
      template: pytree whose containers the result gets and whose names, shapes
        and types it must have; None returns nested dictionaries by name, with
        whatever shapes are stored.
      step: this step and no other.

    Returns:
      (step, tree of NumPy arrays).

    Raises:
      InputError: there is no checkpoint, none is whole, or it does not fit the
        template.
    """
    candidates = self.steps() if step is None else [step]
    if not candidates:
      raise errors.InputError(
          f'{self.directory}: found no checkpoint, expected a numbered folder'
      )
    for candidate in reversed(candidates):
      try:
        arrays = read_step(self.directory / str(candidate))
      except DamagedError as e:
        self._damaged.add(candidate)
        logging.warning('checkpoint left out: %s', e)
        continue
      return candidate, self._rebuild(candidate, arrays, template)
    raise errors.InputError(
        f'{self.directory}: found no whole checkpoint among'
        f' {", ".join(map(str, candidates))}; the log says what is damaged'
    )

  def _rebuild(self, step, arrays, template):
    if template is None:
      return leaves_lib.nested(arrays)
    try:
      return leaves_lib.into_template(arrays, template)
    except ValueError as e:
      raise errors.InputError(f'{self.directory / str(step)}: {e}') from e

  def _write(self, step: int, arrays: dict[str, np.ndarray]) -> None:
    try:
      self._commit(step, arrays)
      self._prune(step)
    except Exception as e:  # Raised where the caller can see it.
      self._failure = _explain(e, self.directory, step, arrays)

  def _commit(self, step: int, arrays: dict[str, np.ndarray]) -> None:
    records = {name: leaves_lib.record(a) for name, a in arrays.items()}
    target = self.directory / str(step)
    if step not in self._damaged and _same_records(target, records):
      return
    temporary = self.directory / f'{_TEMPORARY}{step}-{os.getpid()}'
    self.directory.mkdir(parents=True, exist_ok=True)
    try:
      write_step(temporary, step, arrays, records)
      if target.exists():
        # A rename does not replace a folder that holds something.
        retired = self.directory / f'{_TEMPORARY}{step}-replaced'
        shutil.rmtree(retired, ignore_errors=True)
        target.rename(retired)
        temporary.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
      else:
        temporary.rename(target)
      _sync(self.directory)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
    self._damaged.discard(step)

  def _prune(self, written: int) -> None:
    """Drops the damaged, then the oldest, never what was just written."""
    good = [s for s in self.steps() if s not in self._damaged]
    for step in set(good[: -self._keep]) | self._damaged:
      if step != written:
        shutil.rmtree(self.directory / str(step), ignore_errors=True)
    self._damaged.clear()


def sweep(directory: pathlib.Path) -> None:
  """Removes what a killed writer left behind under temporary names."""
  for leftover in directory.glob(f'{_TEMPORARY}*'):
    shutil.rmtree(leftover, ignore_errors=True)


def write_step(
    folder: pathlib.Path,
    step: int,
    arrays: dict[str, np.ndarray],
    records: dict[str, leaves_lib.LeafRecord],
) -> None:
  """Writes one step into a new folder, down to the disk.

  Args:
    folder: must not exist.
    step: goes into the manifest.
    arrays: {name: array}.
    records: what the manifest says of each.
  """
  folder.mkdir()
  stored = {name: a for name, a in arrays.items() if a.size}  # orbax: size > 0
  if stored:
    _save_arrays(folder / ARRAYS, leaves_lib.nested(stored))
  manifest = {
      'format': FORMAT,
      'step': step,
      'leaves': {name: r._asdict() for name, r in records.items()},
  }
  (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
  for path, _, names in os.walk(folder, topdown=False):
    for name in names:
      _sync(pathlib.Path(path, name))
    _sync(pathlib.Path(path))


def read_step(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads one step and checks every array against the manifest.

  Args:
    folder: a committed step.

  Returns:
    {name: array}.

  Raises:
    DamagedError: something is missing, cannot be read or is not what was
      written.
  """
  records = _read_manifest(folder)
  stored = {n: r for n, r in records.items() if 0 not in r.shape}
  try:
    arrays = _load_arrays(folder / ARRAYS, list(stored))
  except MemoryError:
    raise
  except Exception as e:  # Orbax and tensorstore raise many types.
    raise DamagedError(f'{folder}: cannot be read: {_first_line(e)}') from e
  for name, expected in records.items():
    if name not in stored:
      arrays[name] = np.zeros(expected.shape, expected.dtype)
    elif (found := leaves_lib.record(arrays[name])) != expected:
      raise DamagedError(
          f'{folder}: {name}: found {tuple(found)}, expected {tuple(expected)}'
          ' (shape, type, crc32)'
      )
  return arrays


def _read_manifest(folder) -> dict[str, leaves_lib.LeafRecord]:
  """Records of a step's manifest; DamagedError when it is not one."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest['format'] != FORMAT:
      raise ValueError(f'found format {manifest["format"]}, expected {FORMAT}')
    if manifest['step'] != int(folder.name):
      raise ValueError(f'found step {manifest["step"]}')
    return {
        name: leaves_lib.LeafRecord(tuple(r['shape']), r['dtype'], r['crc32'])
        for name, r in manifest['leaves'].items()
    }
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
    raise DamagedError(f'{folder / MANIFEST}: {_first_line(e)}') from e


def _same_records(folder, records) -> bool:
  """True when the folder holds these very values already."""
  try:
    return _read_manifest(folder) == records
  except DamagedError:
    return False


def _checkpointer() -> ocp.Checkpointer:
  """Orbax for this process alone: others neither write nor wait."""
  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
      primary_host=me,
      active_processes={me},
      barrier_sync_key_prefix=f'process_{me}',
  )
  if jax.process_count() == 1:
    alone = ocp.options.MultiprocessingOptions()
  return ocp.Checkpointer(
      ocp.PyTreeCheckpointHandler(
          use_zarr3=True, multiprocessing_options=alone
      ),
      multiprocessing_options=alone,
  )


def _save_arrays(path: pathlib.Path, tree) -> None:
  with _checkpointer() as checkpointer:
    checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))


def _load_arrays(path: pathlib.Path, names: list[str]) -> dict[str, Any]:
  """Reads named arrays as NumPy's.

  One after the other: where orbax reads several at once and one is damaged, the
  reads still under way end after its event loop and spill their complaints.
  """
  arrays = {}
  with _checkpointer() as checkpointer:
    for name in names:
      as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
      tree = checkpointer.restore(
          path.absolute(),
          args=ocp.args.PyTreeRestore(
              item=leaves_lib.nested({name: 0}),
              restore_args=leaves_lib.nested({name: as_numpy}),
              partial_restore=True,
          ),
      )
      arrays.update(leaves_lib.named_leaves(tree))
      if not isinstance(arrays[name], np.ndarray):
        raise ValueError(f'{name} is missing')
  return arrays


def _explain(error, directory, step, arrays) -> Exception:
  """The failure of a background write as one line."""
  if not _is_disk_full(error):
    failure = RuntimeError(
        f'{directory}: the checkpoint of step {step} was not written:'
        f' {_first_line(error)}'
    )
  else:
    needed = sum(a.nbytes for a in arrays.values())
    free = shutil.disk_usage(directory).free
    failure = OSError(
        errno.ENOSPC,
        f'disk full: the checkpoint of step {step} needs up to {needed} bytes,'
        f' {free} are free; older checkpoints are intact',
        str(directory),
    )
  failure.__cause__ = error
  return failure


def _is_disk_full(error: Exception) -> bool:
  if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
    return True
  text = str(error)
  return 'RESOURCE_EXHAUSTED' in text or 'No space left' in text


def _first_line(error: Exception) -> str:
  text = str(error).strip()
  return text.splitlines()[0][:300] if text else type(error).__name__


def _sync(path: pathlib.Path) -> None:
  """Flushes a file or folder to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
