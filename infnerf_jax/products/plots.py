"""Pictures of a run: training curves, scores by pyramid level, its octree.

`write_plots` is what `experiments.train` calls at its end and what notebooks
show; it needs nothing but the run's folder.
"""

import pathlib
from typing import Any

import numpy as np
from matplotlib.backends import backend_agg
from matplotlib.figure import Figure

from infnerf_jax import errors, json_files
from infnerf_jax.octree import io as octree_io
from infnerf_jax.products import octree_report
from infnerf_jax.training import metrics_log, setup
from infnerf_jax.training import workdir as workdir_lib

FOLDER = 'plots'
_SMOOTH = 15


def _figure(num: int, width: float = 5.0) -> tuple[Figure, Any]:
  """A figure with axes [num] side by side, without a window."""
  figure = Figure(figsize=(width * num, 3.8), layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  return figure, figure.subplots(1, num, squeeze=False)[0]


def _series(rows, name: str):
  """(steps, values) of the lines that have a number under a name."""
  pairs = [
      (row['step'], row[name])
      for row in rows
      if isinstance(row.get(name), int | float)
  ]
  steps, values = zip(*pairs) if pairs else ((), ())
  return np.array(steps, float), np.array(values, float)


def smoothed(values, width: int = _SMOOTH) -> np.ndarray:
  """[N] running means of [N] values, over fewer of them at the ends."""
  values = np.asarray(values, np.float64)
  width = max(1, min(width, len(values)))
  kernel = np.ones(width)
  total = np.convolve(values, kernel, 'same')
  return total / np.convolve(np.ones_like(values), kernel, 'same')


def _draw_curve(axes, rows, name: str, label: str, log: bool = False) -> None:
  steps, values = _series(rows, name)
  if len(steps):
    axes.plot(steps, values, color='0.75', linewidth=0.8)
    axes.plot(steps, smoothed(values), color='tab:blue')
    if log and (values > 0).all():
      axes.set_yscale('log')
  axes.set_xlabel('step')
  axes.set_ylabel(label)


def training_curves(rows) -> Figure:
  """PSNR, loss, samples by octree level and speed over the steps.

  Args:
    rows: see `metrics_log.read_metrics`.

  Returns:
    Figure.
  """
  figure, axes = _figure(4)
  _draw_curve(axes[0], rows, 'psnr', 'PSNR of the batches (dB)')
  steps, values = _series(rows, 'validation_psnr')
  if len(steps):
    axes[0].plot(steps, values, 'o-', color='tab:red', label='validation')
    axes[0].legend()
  _draw_curve(axes[1], rows, 'loss', 'loss', log=True)
  _draw_levels(axes[2], rows)
  _draw_curve(axes[3], rows, 'rays_per_second', 'rays a second')
  return figure


def _draw_levels(axes, rows) -> None:
  """Shares of the samples by octree level."""
  rows = [row for row in rows if row.get('samples_by_level')]
  axes.set_xlabel('step')
  axes.set_ylabel('share of samples by octree level')
  axes.set_ylim(0, 1)
  if not rows:
    return
  num = max(len(row['samples_by_level']) for row in rows)
  counts = np.zeros((len(rows), num))
  for i, row in enumerate(rows):
    counts[i, : len(row['samples_by_level'])] = row['samples_by_level']
  share = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
  axes.stackplot(
      [row['step'] for row in rows],
      share.T,
      labels=[str(level) for level in range(num)],
      colors=octree_report.level_colors(num),
  )
  axes.legend(loc='upper left', fontsize='small')


def scores_by_level(scores) -> Figure:
  """PSNR and SSIM by pyramid level, and the spread over photos.

  Args:
    scores: what `eval.json` says.

  Returns:
    Figure.
  """
  figure, axes = _figure(3)
  levels = scores.get('by_pyramid_level') or []
  for name, label in (('', 'mean appearance'), ('_fitted', 'fitted')):
    for i, metric in enumerate(('psnr', 'ssim')):
      pairs = [
          (row['level'], row[f'{metric}{name}'])
          for row in levels
          if row.get(f'{metric}{name}') is not None
      ]
      if pairs:
        axes[i].plot(*zip(*pairs), 'o-', label=label)
  for i, label in enumerate(('PSNR (dB)', 'SSIM')):
    axes[i].set_ylabel(label)
    axes[i].set_xlabel('pyramid level (0: full size)')
    axes[i].set_xticks([row['level'] for row in levels])
    if axes[i].lines:
      axes[i].legend()
  photos = [
      row['psnr']
      for row in scores.get('by_photo') or []
      if isinstance(row.get('psnr'), int | float)
  ]
  axes[2].bar(np.arange(len(photos)), np.sort(photos), color='tab:blue')
  axes[2].set_xlabel('photos, in order of score')
  axes[2].set_ylabel('PSNR (dB)')
  if photos:
    axes[2].set_ylim(bottom=min(photos) - 2)
  return figure


def sweep_scores(table) -> Figure:
  """Scores of a sweep's groups, the best first, with their spread.

  Args:
    table: see `evaluation.sweep_table.make_table`.

  Returns:
    Figure: the metric that sorts the table, and PSNR by pyramid level.
  """
  rows = [row for row in table['rows'] if row['finished']]
  labels = [
      '\n'.join(f'{k}={v}' for k, v in row['values'].items()) or 'base'
      for row in rows
  ]
  figure, axes = _figure(2, 6.0)
  metric = table['metric']
  axes[0].bar(
      labels,
      [row['mean'][metric] for row in rows],
      yerr=[row['spread'][metric] or 0.0 for row in rows],
      color='tab:blue',
      capsize=4,
  )
  axes[0].set_ylabel(metric)
  values = [row['mean'][metric] for row in rows]
  if values:
    margin = 0.2 * (max(values) - min(values)) or 1.0
    axes[0].set_ylim(min(values) - margin, max(values) + margin)
  for label, row in zip(labels, rows, strict=True):
    found = [
        (int(name.split('.')[1]), value)
        for name, value in row['mean'].items()
        if name.startswith('by_pyramid_level.') and name.endswith('.psnr')
    ]
    if found:
      axes[1].plot(*zip(*sorted(found)), 'o-', label=label.replace('\n', ', '))
  axes[1].set_xlabel('pyramid level (0: full size)')
  axes[1].set_ylabel('PSNR (dB)')
  if axes[1].lines:
    axes[1].legend(fontsize='small')
  return figure


def _scene_points(workdir: pathlib.Path):
  """Sparse points of a run's scene, None where the scene is gone."""
  try:
    config = workdir_lib.load_config(workdir)
    scene = setup.load_scenes(config, workdir).scene
  except errors.InputError:
    return None
  return None if scene.points is None else scene.points.positions


def write_plots(workdir) -> list[pathlib.Path]:
  """Draws what a run's folder holds into its `plots/`.

  Args:
    workdir: folder of a run, which may still be training.

  Returns:
    Files: `training.png`, `scores.png` where it was scored, `octree.png`.

  Raises:
    InputError: no run's folder, or one that cannot be written.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / workdir_lib.CONFIG).is_file():
    raise errors.InputError(
        f'{workdir}: got no {workdir_lib.CONFIG}, expected the folder of a run'
    )
  folder = workdir / FOLDER
  written = []

  def save(name, figure):
    figure.savefig(folder / name, dpi=110)
    written.append(folder / name)

  try:
    folder.mkdir(exist_ok=True)
    if rows := metrics_log.read_metrics(workdir):
      save('training.png', training_curves(rows))
    if (workdir / 'eval.json').is_file():
      scores = json_files.read_json(workdir / 'eval.json')
      save('scores.png', scores_by_level(scores))
    if (workdir / 'octree.npz').is_file():
      octree, _ = octree_io.load_octree(workdir / 'octree.npz')
      written.append(
          octree_report.visualize_octree(
              octree, None, folder / 'octree.png', _scene_points(workdir)
          )
      )
  except OSError as error:
    raise errors.InputError(
        f'{folder}: {error.strerror}, expected a folder that can be written'
    ) from None
  return written
