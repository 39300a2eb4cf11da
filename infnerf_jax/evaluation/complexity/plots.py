"""The complexity suite's figures."""

import pathlib
from typing import Any

import matplotlib.figure

from infnerf_jax.evaluation.complexity import captures

# Views near the ground, in sides of the root.
NEAR_SHARE = 0.05


def near_share(result, policy: str, kind: str = 'touched_share') -> float:
  """Largest share that a view near the ground touches of a capture's tree."""
  return max(
      view[kind][policy]
      for view, share in zip(result['views'], captures.SHARES, strict=True)
      if share <= NEAR_SHARE
  )


def plot(series: dict[str, Any], path) -> None:
  """Draws a measurement.

  Args:
    series: of `measure`.
    path: PNG file.
  """
  figure = matplotlib.figure.Figure(figsize=(18, 9), layout='constrained')
  axes = figure.subplots(2, 3)
  _plot_city(axes[0, 0], series['city'])
  _plot_frames(axes[1, 0], series['city'])
  _plot_counts(axes[0, 1], series['node_counts'])
  _plot_cost(axes[1, 1], series['node_counts'])
  _plot_captures(axes[0, 2], series['captures'])
  _plot_depths(axes[1, 2], series['captures'])
  figure.savefig(pathlib.Path(path), dpi=70)


def _plot_city(axis, results):
  n = [r['num_nodes'] for r in results]
  for i, name in enumerate(results[0]['views']):
    values = [r['views'][name] for r in results]
    line = dict(color=f'C{i}', marker='.')
    axis.plot(n, [v['nodes'] for v in values], label=name, **line)
    axis.plot(n, [v['flat_cells'] for v in values], ls=':', **line)
  axis.set(
      xscale='log', yscale='log', xlabel='nodes of the tree',
      ylabel='nodes of a view',
      title='The city at 1x to 16x (dotted: flat partition)',
  )  # fmt: skip
  axis.legend(fontsize=8)


def _plot_frames(axis, results):
  n = [r['num_nodes'] for r in results]
  for i, name in enumerate(results[0]['views']):
    values = [r['views'][name].get('frame_cpu_s') for r in results]
    if None not in values:
      axis.plot(n, values, color=f'C{i}', marker='.', label=name)
  axis.set(
      xscale='log', xlabel='nodes of the tree', ylabel='CPU seconds',
      title='A frame of 320 x 240 rays', ylim=(0, None),
  )  # fmt: skip
  if axis.lines:
    axis.legend(fontsize=8)


def _plot_counts(axis, results):
  for result in results:
    heights = [float(name.split()[0]) for name in result['views']]
    nodes = [v['nodes'] for v in result['views'].values()]
    axis.plot(heights, nodes, marker='.', label=f'{result["num_nodes"]:,}')
  axis.set(
      xscale='log', xlabel='distance, m', ylabel='nodes of a view',
      title='Trees of 21 levels over 4,200 km (the three coincide)',
  )  # fmt: skip
  axis.legend(title='nodes', fontsize=8)


def _plot_cost(axis, results):
  n = [r['num_nodes'] for r in results]
  slowest = lambda r: max(v['selection_ms'] for v in r['views'].values())
  axis.plot(n, [r['opening_ms'] for r in results], marker='.', label='open, ms')
  axis.plot(n, list(map(slowest, results)), marker='.', label='select, ms')
  pages = [r['tree_bytes'] / 1e6 for r in results]
  axis.plot(n, pages, marker='.', label='tree pages held, MB')
  most = lambda r: max(v['bytes'] for v in r['views'].values()) / 1e6
  axis.plot(n, list(map(most, results)), marker='.', label='largest view, MB')
  axis.set(
      xscale='log', yscale='log', xlabel='nodes of the tree',
      title='Cost of a view of those trees',
  )  # fmt: skip
  axis.legend(fontsize=8)


def _plot_captures(axis, results):
  names = list(dict.fromkeys(r['capture'] for r in results))
  for result in results:
    share = [100 * v['touched_share']['plain'] for v in result['views']]
    axis.plot(
        [v['height'] for v in result['views']], share,
        ls=('-', '--', ':')[names.index(result['capture'])], marker='.',
        label=(
            f'{result["capture"]}: {result["levels"]} levels,'
            f' {result["num_nodes"]} nodes, grid {result["grid_size"]}'
        ),
    )  # fmt: skip
  axis.axhline(17, color='0.7', lw=1)
  axis.set(
      xscale='log', xlabel='height, m', ylabel='% of the parameters',
      title='Touched by a view of real captures (line: the paper, 17 %)',
      ylim=(0, 100),
  )  # fmt: skip
  if results:
    axis.legend(fontsize=7)


def _plot_depths(axis, results):
  styles = dict(zip(captures.POLICIES, ('-', '--', '-.', ':')))
  for i, name in enumerate(dict.fromkeys(r['capture'] for r in results)):
    mine = [r for r in results if r['capture'] == name]
    for policy, style in styles.items():
      axis.plot(
          [r['levels'] for r in mine],
          [100 * near_share(r, policy) for r in mine],
          color=f'C{i}', ls=style, marker='.', label=f'{name}, {policy}',
      )  # fmt: skip
  for share in (10, 17):
    axis.axhline(share, color='0.7', lw=1)
  axis.set(
      xlabel='levels of the tree', ylabel='% of the parameters', ylim=(0, 30),
      title='The largest share near the ground (lines: 10 and 17 %)',
  )  # fmt: skip
  if results:
    axis.legend(fontsize=7)
