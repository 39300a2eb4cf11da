"""On record: what a finished run was before photos were added to it.

`extensions/0001/` of a workdir holds the run's files as they were and
`extension.json`. It is complete before anything else of the run changes, so
whoever reads a checkpoint finds the tree and the photos that fit its step.
"""

import json
import pathlib
import shutil
from typing import Any, NamedTuple

from infnerf_jax import errors, json_files
from infnerf_jax.scene import joining
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import run_files, settings
from infnerf_jax.training import workdir as workdir_lib

FOLDER = 'extensions'
RECORD = 'extension.json'
_TEMPORARY = '.tmp'
_FIELD = 'config.data.extra_paths'


class Extension(NamedTuple):
  """Where a run stood when photos were added.

  Attributes:
    folder: of the run's files as they were.
    first_step: steps that the run had done.
    paths: of all extra scenes.
    base_paths: of those that the run had before.
    downscale: full-size pixels per training pixel.
  """

  folder: pathlib.Path
  first_step: int
  paths: tuple[str, ...]
  base_paths: tuple[str, ...]
  downscale: float


def extra_paths(config) -> tuple[str, ...]:
  """Paths of the scenes that are joined with `config.data.path`."""
  return joining.split_paths(config.data.get('extra_paths', ''))


def recorded(workdir) -> list[Extension]:
  """A run's extensions, the oldest first."""
  found = []
  for folder in sorted((pathlib.Path(workdir) / FOLDER).glob('[0-9]*')):
    record = json_files.read_json(folder / RECORD)
    try:
      found.append(
          Extension(
              folder,
              int(record['first_step']),
              tuple(record['paths']),
              tuple(record['base_paths']),
              float(record['downscale']),
          )
      )
    except (KeyError, TypeError, ValueError) as error:
      raise errors.InputError(
          f'{folder / RECORD}: got {error}, expected the record of an extension'
      ) from None
  return found


def find(config, workdir) -> Extension | None:
  """The extension that a config asks for; writes nothing.

  Args:
    config: of the run as it is to be.
    workdir: its folder.

  Returns:
    Extension, on record or about to begin; None where the run has had the same
    photos from its start.

  Raises:
    InputError: paths that do not begin with those the run has, or a run that
      cannot be extended.
  """
  paths, known = extra_paths(config), recorded(workdir)
  if known and known[-1].paths == paths:
    return known[-1]
  known = [k for k in known if not _is_void(k, workdir)]
  path = pathlib.Path(workdir) / workdir_lib.CONFIG
  if not path.is_file():
    return None
  before = workdir_lib.load_config(workdir)
  had = known[-1].paths if known else extra_paths(before)
  if paths == had:
    return None
  if paths[: len(had)] != had:
    raise errors.InputError(
        f'{path}: holds a run with other photos; {_FIELD}: found'
        f' {",".join(had) or "nothing"}, got {",".join(paths) or "nothing"}:'
        ' paths may only be added behind those that are there'
    )
  return _begin(before, config, pathlib.Path(workdir), paths, had, known)


def _latest_step(workdir) -> int:
  folder = pathlib.Path(workdir) / 'checkpoints'
  return checkpoint.CheckpointManager(folder).latest_step() or 0


def _is_void(extension: Extension, workdir) -> bool:
  """Whether an extension has no checkpoint: as if it had not been begun."""
  return _latest_step(workdir) <= extension.first_step


def _begin(before, config, workdir, paths, had, known) -> Extension:
  """An extension of the run as it stands."""
  step = _latest_step(workdir)
  if (workdir / 'nodes').is_dir():
    raise errors.InputError(
        f'{workdir}/nodes: found a run that pages its nodes, expected one'
        f' whose nodes are all resident, to add {_FIELD} to it'
    )
  if step < before.num_steps:
    raise errors.InputError(
        f'{workdir}/checkpoints: found step {step} of {before.num_steps},'
        f' expected a finished run: {_FIELD} is added to what is trained'
    )
  if config.num_steps <= step:
    raise errors.InputError(
        f'config.num_steps: got {config.num_steps}, expected more than the'
        f' {step} steps that the run has done, to train {_FIELD}'
    )
  files = run_files.read(workdir)
  downscale = settings.training_downscale(before, files.cameras)
  if known:
    downscale = known[-1].downscale
  return Extension(workdir, step, paths, had, downscale)


def begin(config, workdir) -> None:
  """Puts an extension that a config asks for on record.

  For the one writer of the workdir, while `config.json` is still the one of
  the run as it was.

  Raises:
    InputError: see `find`.
  """
  workdir = pathlib.Path(workdir)
  _forget_void(config, workdir)
  found = find(config, workdir)
  if found is None or found.folder != workdir:
    return
  folders = workdir / FOLDER
  partial = folders / _TEMPORARY
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  _copy_files(workdir, partial)
  record = {
      'first_step': found.first_step,
      'paths': found.paths,
      'base_paths': found.base_paths,
      'downscale': found.downscale,
  }
  json_files.write_text_atomic(partial / RECORD, json.dumps(record, indent=2))
  partial.rename(folders / f'{len(recorded(workdir)) + 1:04d}')


def _copy_files(source, target) -> None:
  for name in (run_files.OCTREE, run_files.CAMERAS, run_files.SPLIT):
    shutil.copyfile(source / name, target / f'{name}.tmp')
    (target / f'{name}.tmp').replace(target / name)


def _forget_void(config, workdir) -> None:
  """Takes back an extension without a step where other photos are wanted."""
  known = recorded(workdir)
  if not known or known[-1].paths == extra_paths(config):
    return
  if _is_void(known[-1], workdir):
    _copy_files(known[-1].folder, workdir)
    shutil.rmtree(known[-1].folder)


class Stage(NamedTuple):
  """What of a run a checkpoint belongs to.

  Attributes:
    files: tree and photos.
    paths: of its extra scenes.
    downscale: full-size pixels per training pixel; None: as the config says.
    extension: that the checkpoint is of; None: of the run before any.
    is_last: whether the run's config speaks of this stage.
  """

  files: run_files.RunFiles
  paths: tuple[str, ...]
  downscale: float | None
  extension: Extension | None
  is_last: bool


def stage_of_step(config, workdir, step: int) -> Stage:
  """Tree and photos of the checkpoint of a step.

  Args:
    config: the run's.
    workdir: its folder.
    step: of the checkpoint.

  Returns:
    Stage.
  """
  known, began = recorded(workdir), None
  for extension in known:
    if step <= extension.first_step:
      files = run_files.read(extension.folder)
      return Stage(
          files, extension.base_paths, extension.downscale, began, False
      )
    began = extension
  paths = known[-1].paths if known else extra_paths(config)
  downscale = known[-1].downscale if known else None
  return Stage(run_files.read(workdir), paths, downscale, began, True)


def describe(extension: Extension) -> dict[str, Any]:
  """For `scene_report.json`."""
  return {
      'first_step': extension.first_step,
      'paths': list(extension.paths[len(extension.base_paths) :]),
  }
