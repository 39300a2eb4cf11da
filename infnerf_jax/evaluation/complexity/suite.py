"""The complexity suite: what a view costs as scenes grow; rows and a plot."""

import pathlib
from typing import Any

import matplotlib.figure

from infnerf_jax.evaluation.bench import harness
from infnerf_jax.evaluation.complexity import captures, extents, node_counts

# Nodes that a doubling of n may add to a view.
_SLOPE_TARGET = 1.5
# Largest over smallest tree: flat, or logarithmic in a hundredfold n.
_FLAT_TARGET = 1.5
# Of the time of a zoom, waiting for nodes.
_WAIT_TARGET = 0.25
_NEAR_SHARE, _NEAR_TARGET = 0.05, 0.10


def _extent_rows(results, grid_size: int) -> list[harness.Row]:
  # Of smaller nodes more make up the same bytes: reported, not promised.
  target = _SLOPE_TARGET if grid_size == extents.GRID_SIZES[0] else None
  rows = []
  for name in results[0]['views']:
    first, last = results[0]['views'][name], results[-1]['views'][name]
    slopes = extents.slope_per_doubling(results, name)
    rows.append(
        harness.make_row(
            f'complexity/city, grid {grid_size}/{name}/nodes a doubling of n'
            ' adds',
            max(slopes), 'nodes', ratio=max(slopes), target=target,
            rule='<=', reference=last['flat_cells'],
            note=(
                f'view: {first["nodes"]} to {last["nodes"]} nodes, a flat'
                f' partition {first["flat_cells"]} to {last["flat_cells"]}'
            ),
            detail={'slopes': slopes},
        )
    )  # fmt: skip
  return rows


def _count_rows(results) -> list[harness.Row]:
  small, large = results[0], results[-1]
  rows = [
      harness.make_row(
          'complexity/10^7 nodes/opening', large['opening_ms'], 'ms',
          reference=small['opening_ms'],
          ratio=large['opening_ms'] / max(small['opening_ms'], 1e-3),
          note='CPU time of opening the store; reference: the smallest tree',
      ),
      harness.make_row(
          'complexity/10^7 nodes/tree pages on the host',
          large['tree_bytes'] / 1e6, 'MB', reference=small['tree_bytes'] / 1e6,
          ratio=large['tree_bytes'] / small['tree_bytes'], target=2.0,
          rule='<=', note='after views from all heights',
      ),
  ]  # fmt: skip
  for key, unit in (('nodes', 'nodes'), ('selection_ms', 'ms')):
    values = [max(v[key] for v in r['views'].values()) for r in results]
    rows.append(
        harness.make_row(
            f'complexity/10^7 nodes/largest view/{key}', values[-1], unit,
            reference=values[0], ratio=values[-1] / values[0],
            target=_FLAT_TARGET if key == 'nodes' else None, rule='<=',
            note=f'{small["num_nodes"]} to {large["num_nodes"]} nodes',
            detail={'by_size': values},
        )
    )  # fmt: skip
  return rows


def _capture_rows(results, missing) -> list[harness.Row]:
  rows = [
      harness.missing_row(f'complexity/captures/{i}', 'share', reason)
      for i, reason in enumerate(missing)
  ]
  for result in results:
    share = [v['touched_share'] for v in result['views']]
    near = [
        s for s, x in zip(share, captures.SHARES, strict=True)
        if x <= _NEAR_SHARE
    ]  # fmt: skip
    deep = result['levels'] >= 4
    rows.append(
        harness.make_row(
            f'complexity/{result["capture"]}/{result["levels"]} levels/share'
            ' touched near the ground',
            max(near), 'share', reference=max(share), ratio=max(near),
            target=_NEAR_TARGET if deep else None, rule='<=',
            note=(
                f'{result["num_nodes"]} nodes, grid {result["grid_size"]};'
                ' reference: the largest share at any height'
            ),
            detail={'views': result['views']},
        )
    )  # fmt: skip
  return rows


def _zooms() -> dict[str, Any]:
  """The zoom with and without reading ahead."""
  return {
      name: node_counts.measure_zoom(ahead=name == 'ahead')
      for name in ('ahead', 'not ahead')
  }


def _zoom_rows(zooms) -> list[harness.Row]:
  if zooms is None:
    return []
  wait, plain = (zooms[n]['wait_share'] for n in ('ahead', 'not ahead'))
  return [
      harness.make_row(
          'complexity/zoom from 10 km to 2 m/share of the time that waits',
          wait, 'share', reference=plain, ratio=wait, target=_WAIT_TARGET,
          rule='<=', note='reference: without reading ahead', detail=zooms,
      )
  ]  # fmt: skip


def measure(*, tiny: bool = False) -> dict[str, Any]:
  """All three parts.

  Args:
    tiny: small trees and no rendering, for tests.
  """
  found, missing = captures.measure(
      target_depths=(2, 3) if tiny else captures.TARGET_DEPTHS
  )
  return {
      'city': extents.measure(range(2 if tiny else 5), render=not tiny),
      'city_small_nodes': extents.measure(
          range(2 if tiny else 5), grid_size=extents.GRID_SIZES[1], render=False
      ),
      'node_counts': node_counts.measure(
          (1e3, 1e4) if tiny else node_counts.SIZES, render=not tiny
      ),
      'zoom': None if tiny else _zooms(),
      'captures': found,
      'captures_missing': missing,
  }


def rows(series: dict[str, Any]) -> list[harness.Row]:
  """Rows of a measurement."""
  return (
      _extent_rows(series['city'], extents.GRID_SIZES[0])
      + _extent_rows(series['city_small_nodes'], extents.GRID_SIZES[1])
      + _count_rows(series['node_counts'])
      + _zoom_rows(series['zoom'])
      + _capture_rows(series['captures'], series['captures_missing'])
  )


def plot(series: dict[str, Any], path) -> None:
  """Draws a measurement.

  Args:
    series: of `measure`.
    path: PNG file.
  """
  figure = matplotlib.figure.Figure(figsize=(13, 8.5), layout='constrained')
  axes = figure.subplots(2, 2)
  _plot_city(axes[0, 0], series['city'])
  _plot_counts(axes[0, 1], series['node_counts'])
  _plot_cost(axes[1, 0], series['node_counts'])
  _plot_captures(axes[1, 1], series['captures'])
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


def _plot_counts(axis, results):
  for result in results:
    heights = [float(name.split()[0]) for name in result['views']]
    nodes = [v['nodes'] for v in result['views'].values()]
    axis.plot(heights, nodes, marker='.', label=f'{result["num_nodes"]:,}')
  axis.set(
      xscale='log', xlabel='distance, m', ylabel='nodes of a view',
      title='Trees of 21 levels over 4,200 km',
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
    share = [100 * v['touched_share'] for v in result['views']]
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
