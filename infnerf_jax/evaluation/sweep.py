"""A config's sweep: runs that differ in a few fields, n at a time.

Every run is `python -m experiments.train` in a folder of its own, so that one
that fails takes nothing with it and the same command goes on where the last
one stopped.
"""

import hashlib
import importlib.util
import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time
from typing import Any, Callable, NamedTuple, Sequence

import ml_collections

from infnerf_jax import errors, json_files, progress
from infnerf_jax.training import workdir as workdir_lib

PLAN = 'sweep.json'
RUNS = 'runs'
LOG = 'train.log'
_RUN_RECORD = 'sweep_run.json'
_MAX_NAME = 80
_POLL_SECONDS = 0.2


class Run(NamedTuple):
  """One training of a sweep.

  Attributes:
    name: its folder's name.
    values: what it changes, by config key (`optimizer.lr_initial`).
    workdir: its folder.
    arguments: of `python -m experiments.train`.
    config: its whole config.
  """

  name: str
  values: dict[str, Any]
  workdir: pathlib.Path
  arguments: tuple[str, ...]
  config: ml_collections.ConfigDict


def load_sweep(path) -> list[dict[str, Any]]:
  """What a config file's `sweep(add)` asks for.

  Args:
    path: config file; what stands behind a colon is left out.

  Returns:
    Values by config key, one dictionary a run.

  Raises:
    InputError: no such file, or no sweep in it.
  """
  path = pathlib.Path(str(path).partition(':')[0])
  if not path.is_file():
    raise errors.InputError(
        f'--config: {path}: found no such file, expected a config file'
    )
  spec = importlib.util.spec_from_file_location('swept_config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:  # A config file may raise anything.
    raise errors.InputError(
        f'--config: {path}: {" ".join(str(error).split())}, expected a config'
        ' file'
    ) from None
  if not callable(getattr(module, 'sweep', None)):
    raise errors.InputError(
        f'--config: {path}: got no function sweep(add), expected one'
    )
  rows = []
  module.sweep(lambda **values: rows.append(values))
  if not rows:
    raise errors.InputError(
        f'--config: {path}: sweep(add): added nothing, expected runs'
    )
  return rows


def with_seeds(rows, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Every row with every seed; the rows themselves without seeds."""
  if not seeds:
    return list(rows)
  return [{**row, 'seed': s} for row, s in itertools.product(rows, seeds)]


def make_runs(
    rows,
    config: ml_collections.ConfigDict,
    workdir,
    *,
    config_path: str,
    overrides: dict[str, Any] | None = None,
) -> list[Run]:
  """Checks a sweep's values against the config and lays out its runs.

  Args:
    rows: see `load_sweep`.
    config: with the overrides applied.
    workdir: of the sweep.
    config_path: as `--config` takes it, arguments behind a colon included.
    overrides: values from the command line that all runs share, by key.

  Returns:
    Runs in the order of the rows.

  Raises:
    InputError: an unknown key, a value of another type, two equal runs.
  """
  runs, seen = [], {}
  for i, row in enumerate(rows):
    where = f'{config_path}: sweep(add): run {i}'
    changed, values = _changed(config, row, where)
    name = run_name(values)
    if name in seen:
      raise errors.InputError(
          f'{where}: got the values of run {seen[name]} again, expected others'
      )
    seen[name] = i
    folder = pathlib.Path(workdir) / RUNS / name
    flags = {**(overrides or {}), **values}
    arguments = (
        f'--config={config_path}',
        f'--workdir={folder}',
        *(f'--config.{k}={_as_flag(v)}' for k, v in flags.items()),
    )
    runs.append(Run(name, values, folder, arguments, changed))
  return runs


def _changed(config, row, where):
  """(config with a row's values, the values as the config has them)."""
  changed = config.copy_and_resolve_references()
  changed.lock()
  values = {}
  for key, value in row.items():
    try:
      changed.update_from_flattened_dict({key: value})
      found = changed
      for part in key.split('.'):
        found = found[part]
      values[key] = found
    except (KeyError, AttributeError, TypeError, ValueError) as error:
      text = ' '.join(str(error.args[0] if error.args else error).split())
      raise errors.InputError(
          f'{where}: {key}: got {value!r} ({text}), expected a value that'
          ' this key of the config can take'
      ) from None
  return changed, values


def run_name(values: dict[str, Any]) -> str:
  """A folder's name that tells what a run changes."""
  text = ','.join(f'{k}={_as_flag(v)}' for k, v in values.items()) or 'base'
  name = re.sub(r'[^\w.,=+-]', '_', text)
  if name == text and len(name) <= _MAX_NAME:
    return name
  return f'{name[:_MAX_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'


def _as_flag(value) -> str:
  """A value as `--config.key=` takes it."""
  return value if isinstance(value, str) else repr(value)


def shell_command(run: Run, python: str = 'python') -> str:
  """A run's command as one types it."""
  return shlex.join([python, '-m', 'experiments.train', *run.arguments])


def slurm_script(runs: Sequence[Run], workdir, parallel: int = 0) -> str:
  """A SLURM array script, one task a run.

  Args:
    runs: of a sweep.
    workdir: of the sweep; logs go there.
    parallel: most tasks at a time; 0 is no limit.

  Returns:
    Text for `sbatch`; tasks that were killed go on when it is sent again.
  """
  limit = f'%{parallel}' if parallel else ''
  log = shlex.quote(f'{workdir}/slurm-%A_%a.log')
  cases = [f'  {i}) exec {shell_command(run)} ;;' for i, run in enumerate(runs)]
  return '\n'.join(
      [
          '#!/bin/bash',
          '#SBATCH --job-name=infnerf_sweep',
          f'#SBATCH --array=0-{len(runs) - 1}{limit}',
          f'#SBATCH --output={log}',
          '#SBATCH --requeue',
          '# Send it from the checkout, with the Python environment active;',
          f'# before: mkdir -p {shlex.quote(str(workdir))}',
          'set -eu',
          'case "$SLURM_ARRAY_TASK_ID" in',
          *cases,
          'esac',
      ]
  )


def is_finished(run: Run) -> bool:
  """Whether a run has its scores.

  Raises:
    InputError: its folder holds a run with another config.
  """
  if not (run.workdir / workdir_lib.CONFIG).is_file():
    return False
  workdir_lib.check_same_config(run.workdir, run.config)
  path = run.workdir / 'eval.json'
  if not path.is_file():
    return False
  scores = json_files.read_json(path)
  done = scores.get('num_steps') if isinstance(scores, dict) else None
  return done == run.config.num_steps


def write_plan(runs: Sequence[Run], workdir, config_path: str) -> None:
  """Writes `sweep.json`: what the table is made of later.

  Raises:
    InputError: the folder cannot be made.
  """
  workdir = pathlib.Path(workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    json_files.write_json_atomic(
        workdir / PLAN,
        {
            'config': config_path,
            'runs': [
                {
                    'name': run.name,
                    'values': run.values,
                    'num_steps': run.config.num_steps,
                    'command': shell_command(run),
                }
                for run in runs
            ],
        },
    )
  except OSError as error:
    raise errors.InputError(
        f'--workdir: {workdir}: {error.strerror}, expected a folder to write to'
    ) from None


def run_all(
    runs: Sequence[Run],
    *,
    parallel: int = 1,
    trainer: Sequence[str] = (sys.executable, '-m', 'experiments.train'),
    on_end: Callable[[Run, str | None], None] | None = None,
) -> dict[str, str]:
  """Runs what is not finished.

  Args:
    runs: of a sweep.
    parallel: trainings at a time.
    trainer: program that takes a run's arguments.
    on_end: called with a run and None, or why it failed, as it ends.

  Returns:
    Why runs failed, by name; the others are finished.

  Raises:
    InputError: a folder holds a run with another config (before any starts).
  """
  waiting = [run for run in runs if not is_finished(run)]
  failed, active = {}, {}
  first = len(runs) - len(waiting)
  with progress.Progress(
      len(runs), first=first, description='sweep (runs)'
  ) as bar:
    try:
      while waiting or active:
        while waiting and len(active) < parallel:
          run = waiting.pop(0)
          active[run.name] = (run, _start(run, trainer), time.monotonic())
        for name, (run, process, start) in list(active.items()):
          if process.poll() is None:
            continue
          del active[name]
          why = _outcome(run, process.returncode, time.monotonic() - start)
          if why:
            failed[name] = why
          bar.update(len(runs) - len(waiting) - len(active))
          if on_end is not None:
            on_end(run, why)
        time.sleep(_POLL_SECONDS)
    finally:
      for _, process, _ in active.values():
        process.terminate()
      for _, process, _ in active.values():
        process.wait()
  return failed


def _start(run: Run, trainer) -> subprocess.Popen:
  run.workdir.mkdir(parents=True, exist_ok=True)
  # The record of an earlier part of this run would count as all its time.
  record = run.workdir / _RUN_RECORD
  resumes = (run.workdir / workdir_lib.CONFIG).exists()
  json_files.write_json_atomic(record, {'resumed': resumes, 'seconds': None})
  with open(run.workdir / LOG, 'ab') as log:
    return subprocess.Popen(
        [*trainer, *run.arguments], stdout=log, stderr=subprocess.STDOUT
    )


def _outcome(run: Run, status: int, seconds: float) -> str | None:
  """None where a run ended well, else why not."""
  record = run.workdir / _RUN_RECORD
  if status == 0 and is_finished(run):
    # Of a run that was resumed only the last part is known.
    if not json.loads(record.read_text())['resumed']:
      json_files.write_json_atomic(
          record, {'resumed': False, 'seconds': seconds}
      )
    return None
  lines = (run.workdir / LOG).read_text(errors='replace').splitlines()
  last = next((line for line in reversed(lines) if line.strip()), '')
  if status == 0:
    return f'no scores in {run.workdir}/eval.json'
  return f'status {status}: {last.strip()[:200]}'


def seconds_of(folder: pathlib.Path) -> float | None:
  """Wall time of a run that went through in one piece; None otherwise."""
  try:
    return json.loads((folder / _RUN_RECORD).read_text())['seconds']
  except (OSError, ValueError, KeyError, TypeError):
    return None
