"""Metrics of a run: JSON lines always, TensorBoard and W&B where asked for."""

import json
import pathlib
from typing import Any, Mapping

from absl import logging

from infnerf_jax import errors, json_files, progress

METRICS = 'metrics.jsonl'
Progress = progress.Progress


class MetricsLog:
  """Appends metrics to `metrics.jsonl` and its companions."""

  def __init__(
      self,
      workdir,
      options=None,
      *,
      first_step: int = 0,
      config=None,
  ):
    """Opens the log of a run.

    Args:
      workdir: folder of the run.
      options: config.logging or anything with `tensorboard` (bool) and
        `wandb_project` (text, '' is off); None is neither.
      first_step: the step that the run goes on from; lines of later steps are
        dropped, since they will be written again.
      config: the run's config, for Weights & Biases.

    Raises:
      InputError: Weights & Biases is asked for and not installed.
    """
    workdir = pathlib.Path(workdir)
    self._writers = []
    if getattr(options, 'wandb_project', ''):
      self._writers.append(
          _Wandb(workdir, options.wandb_project, first_step, config)
      )
    if getattr(options, 'tensorboard', False):
      self._writers.append(_TensorBoard(workdir, first_step))
    rewind(workdir / METRICS, first_step)
    self._file = open(workdir / METRICS, 'a', encoding='utf-8')

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def write(self, row: Mapping[str, Any]) -> None:
    """Adds one line and flushes it.

    Args:
      row: `step` and metrics: numbers, text, sequences or arrays of them. What
        is not finite is written as null.
    """
    row = json_files.plain(dict(row))
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    scalars = {
        name: value
        for name, value in row.items()
        if name != 'step' and isinstance(value, int | float)
    }
    for writer in self._writers:
      writer.write(row['step'], scalars)

  def image(self, step: int, name: str, rgb) -> None:
    """Shows a picture where the companions can; JSON lines have none.

    Args:
      step: finished steps.
      name: title.
      rgb: [height, width, 3] uint8.
    """
    for writer in self._writers:
      writer.image(step, name, rgb)

  def close(self) -> None:
    """Closes all files."""
    self._file.close()
    for writer in self._writers:
      writer.close()
    self._writers = []


class NoLog:
  """In place of a MetricsLog where another process writes."""

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    pass

  def write(self, row: Mapping[str, Any]) -> None:
    """Does nothing."""

  def image(self, step: int, name: str, rgb) -> None:
    """Does nothing."""


def rewind(path, step: int) -> None:
  """Drops the lines of a log behind a step, and what a crash tore.

  Args:
    path: JSON lines; may be absent.
    step: the last step to keep.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  text = path.read_text(encoding='utf-8', errors='replace')
  lines = text.splitlines(keepends=True)
  kept = [line for line in lines if _is_kept(line, step)]
  if kept != lines:
    dropped = len(lines) - len(kept)
    logging.info('%s: %d lines behind step %d dropped', path, dropped, step)
    json_files.write_text_atomic(path, ''.join(kept))


def _is_kept(line: str, step: int) -> bool:
  # A torn line can be JSON by chance; only its end shows that it is whole.
  if not line.endswith('\n'):
    return False
  try:
    row = json.loads(line)
    return isinstance(row, dict) and row.get('step', 0) <= step
  except (ValueError, TypeError):
    return False


def read_metrics(workdir) -> list[dict[str, Any]]:
  """Reads the whole lines of a run's metrics.

  Args:
    workdir: folder of the run, which may be training.

  Returns:
    One dictionary a line; [] where there is no log.
  """
  path = pathlib.Path(workdir) / METRICS
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      continue  # Torn by a crash, or being written.
  return rows


class _TensorBoard:
  """Event files under `tensorboard/`."""

  def __init__(self, workdir: pathlib.Path, first_step: int):
    import tensorboardX  # Slow to import, and rarely asked for.

    # Hides events of steps that will be written again.
    purge = first_step + 1 if first_step else None
    # Files are named by the second: a run resumed within it must not replace
    # the one before.
    self._writer = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'),
        purge_step=purge,
        filename_suffix=f'.{first_step}',
    )

  def write(self, step, scalars):
    for name, value in scalars.items():
      self._writer.add_scalar(name, value, step)
    self._writer.flush()

  def image(self, step, name, rgb):
    self._writer.add_image(name, rgb, step, dataformats='HWC')

  def close(self):
    self._writer.close()


class _Wandb:
  """A Weights & Biases run, continued by the id kept in the workdir."""

  def __init__(self, workdir: pathlib.Path, project: str, first_step, config):
    try:
      import wandb
    except ImportError as e:
      raise errors.InputError(
          f'config.logging.wandb_project: got {project!r}, but the package'
          " wandb is not installed, expected '' or `pip install wandb`"
      ) from e
    self._wandb = wandb
    id_file = workdir / 'wandb_id.txt'
    run_id = id_file.read_text().strip() if id_file.exists() else None
    self._run = wandb.init(
        project=project,
        dir=str(workdir),
        id=run_id,
        resume='allow',
        config=config.to_dict() if hasattr(config, 'to_dict') else config,
    )
    if run_id is None:
      json_files.write_text_atomic(id_file, f'{self._run.id}\n')
    del first_step  # W&B itself leaves out steps that it has seen.

  def write(self, step, scalars):
    self._run.log(scalars, step=step)

  def image(self, step, name, rgb):
    self._run.log({name: self._wandb.Image(rgb)}, step=step)

  def close(self):
    self._run.finish()
