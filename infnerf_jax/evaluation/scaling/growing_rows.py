"""Rows and pictures of what `growing` measured."""

from typing import Any

import numpy as np

from infnerf_jax.evaluation.bench import harness

# Photometric loss behind a step of growth over that before it.
_JUMP_TARGET = 1.1
_FORGET_TARGET = 0.3  # dB of old photos
_PRUNING_TARGET = 0.05  # dB
_SCRATCH = 'from scratch'
_GROWTH = 'growth'


def growth_rows(measured: dict[str, Any]) -> list[harness.Row]:
  """Of `growing.measure_growth`."""
  scratch, rows = measured[_SCRATCH], []
  for kind, item in measured.items():
    name = f'scaling/growth/{kind}'
    note = (
        f'{item["num_steps"]} steps, {item["num_nodes"]} nodes; reference: all'
        ' levels from the start'
    )
    rows.append(
        harness.make_row(
            f'{name}/test photos', item['psnr'], 'dB',
            reference=scratch['psnr'], ratio=item['psnr'] - scratch['psnr'],
            note=note, detail=item,
        )
    )  # fmt: skip
    rows.append(
        harness.make_row(
            f'{name}/time', item['cpu_seconds'], 'CPU s',
            reference=scratch['cpu_seconds'],
            ratio=item['cpu_seconds'] / scratch['cpu_seconds'], note=note,
        )
    )  # fmt: skip
    jumps, same = item['loss_after_over_before'], scratch
    rows.append(
        harness.make_row(
            f'{name}/loss behind the steps of growth', max(jumps), 'ratio',
            reference=max(same['loss_after_over_before']), ratio=max(jumps),
            target=_JUMP_TARGET if kind == _GROWTH else None, rule='<=',
            note=(
                'the largest of all steps, 20 steps behind over 20 before;'
                ' reference: about the same steps without growth'
            ),
            detail={'ratios': jumps, 'steps': item['steps_of_growth']},
        )
    )  # fmt: skip
  return rows


def extension_rows(measured: dict[str, Any]) -> list[harness.Row]:
  """Of `growing.measure_extension`."""
  name = 'scaling/extension'
  psnr = lambda key: measured[key]['psnr']
  before, after = psnr('old photos before'), psnr('old photos after')
  steps = measured['base_steps'], measured['more_steps']
  note = (
      f'{steps[0]} steps, then {steps[1]} with the other field; test photos'
      f' {measured["photos"][0]} old, {measured["photos"][1]} new'
  )
  stays = measured['nodes_untouched']
  rows = [
      harness.make_row(
          f'{name}/old test photos', after, 'dB', reference=before,
          ratio=after - before, target=-_FORGET_TARGET,
          note=f'{note}; reference: before', detail=measured,
      ),
      harness.make_row(
          f'{name}/old test photos, without replay',
          psnr('old photos after, without replay'), 'dB', reference=before,
          ratio=psnr('old photos after, without replay') - before,
          note='all rays of the batches from new photos; reference: before',
      ),
      harness.make_row(
          f'{name}/new test photos', psnr('new photos after'), 'dB',
          reference=psnr('new photos, both from the start'),
          ratio=psnr('new photos after')
          - psnr('new photos, both from the start'),
          note=f'reference: both fields from the start, {sum(steps)} steps',
      ),
      harness.make_row(
          f'{name}/nodes that nothing new touches, same bytes',
          measured['nodes_untouched_same_bytes'], 'nodes', reference=stays,
          ratio=measured['nodes_untouched_same_bytes'] / max(stays, 1),
          target=1.0,
          note=(
              f'of {measured["nodes_before"]} nodes;'
              f' {measured["old_nodes_retrained"]} were retrained,'
              f' {measured["nodes_after"] - measured["nodes_before"]} grew'
          ),
      ),
  ]  # fmt: skip
  return rows


def pruning_rows(measured: dict[str, Any]) -> list[harness.Row]:
  """Of `growing.measure_pruning`."""
  report = measured['report']
  before, after = measured['before']['psnr'], measured['after']['psnr']
  note = (
      f'all {report["num_nodes"]} nodes of three levels,'
      f' {measured["num_steps"]} steps; {report["num_not_seen"]} were not seen'
  )
  return [
      harness.make_row(
          'scaling/pruning/nodes that went', report['num_pruned'], 'nodes',
          reference=report['num_nodes'],
          ratio=report['num_pruned'] / report['num_nodes'], note=note,
          detail=measured,
      ),
      harness.make_row(
          'scaling/pruning/test photos', after, 'dB', reference=before,
          ratio=abs(after - before), target=_PRUNING_TARGET, rule='<=',
          note='without them; reference: with them, ratio: difference',
      ),
  ]  # fmt: skip


def plot_growth(axis, measured: dict[str, Any]) -> None:
  """Photometric loss by steps, and where levels join."""
  for kind, item in measured.items():
    axis.plot(*item['curve'], label=f'{kind}: {item["psnr"]:.2f} dB', lw=1)
  for step in measured[_GROWTH]['steps_of_growth']:
    axis.axvline(step, color='0.8', zorder=0)
  axis.set(
      yscale='log', xlabel='step', ylabel='photometric loss of a batch',
      title='Growth (levels join at the lines; score: test photos)',
  )  # fmt: skip
  axis.legend(fontsize=8)


def plot_extension(axis, measured: dict[str, Any]) -> None:
  """PSNR by pyramid level before and after photos were added."""
  keys = [key for key in measured if 'photos ' in key or 'photos,' in key]
  levels = np.arange(len(measured[keys[0]]['by_pyramid_level']))
  for i, key in enumerate(keys):
    values = measured[key]['by_pyramid_level']
    axis.bar(levels + 0.16 * (i - 2), values, 0.15, label=key)
  lowest = min(min(measured[key]['by_pyramid_level']) for key in keys)
  axis.set(
      xlabel='pyramid level (0: full size)', ylabel='PSNR of test photos (dB)',
      title='Photos added to a finished run', ylim=(lowest - 3, None),
  )  # fmt: skip
  axis.set_xticks(levels)
  axis.legend(fontsize=7)
