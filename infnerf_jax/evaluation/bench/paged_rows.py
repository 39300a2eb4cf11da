"""Suite `out_of_core`: a run whose nodes do not fit, beside one whose do.

Both are processes of their own, of equal steps on the same batches' source,
and take turns: each goes on from its last commit. The first has no more memory,
page cache included, than what everything but nodes takes and `max_memory_gb`,
which together is less than the model.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from infnerf_jax.evaluation.bench import harness, memory_group
from infnerf_jax.training import workdir as workdir_lib

_PSNR_TARGET = 0.3  # dB below the run whose nodes are all resident
_SPEED_TARGET = 0.6
_SHARE_TARGET = 0.8
_TURNS = 2
# Nodes with fewer samples in the run whose nodes are all resident say nothing.
_MIN_SAMPLES = 1000
# Slots and steps of the run that says what everything but nodes takes.
_BARE_SLOTS, _BARE_STEPS = 3, 60
# What compilers take differs by that much from run to run of one program.
_NOISE = 32e6
# Where data alone can be limited that limit counts addresses: stacks of threads
# that begin later, and arenas.
_SLACK = 64e6
_NAME = 'out_of_core/city'


def _run(config, workdir, *, limit=None, score=False) -> dict[str, Any]:
  """A worker's result, or {'failed': its last words}.

  Args:
    config: of the run.
    workdir: its folder.
    limit: {'anonymous', 'data'} bytes that it may take, None: any.
    score: whether it scores the test photos.
  """
  task = {
      'config': workdir_lib.config_to_json(config),
      'workdir': str(workdir),
      'score': score,
  }
  bounded = contextlib.nullcontext()
  if limit:
    bounded = memory_group.make_group(limit['anonymous'])
  with bounded as group:
    if group is not None:
      task['group'] = str(group.path)
    elif limit:
      task['limit_bytes'] = limit['data']
    done = subprocess.run(
        [sys.executable, '-m', 'infnerf_jax.evaluation.bench.paged_worker'],
        input=json.dumps(task), capture_output=True, text=True, check=False,
        # One heap from the start, as commands have (`infnerf_jax.heap`).
        env={**os.environ, 'MALLOC_ARENA_MAX': '1'},
        cwd=pathlib.Path(__file__).resolve().parents[3],
    )  # fmt: skip
  by = 'cgroup' if group is not None else 'RLIMIT_DATA' if limit else None
  if done.returncode:
    words = [line for line in done.stderr.strip().splitlines() if line.strip()]
    if done.returncode < 0:
      words.append(f'ended by signal {-done.returncode}')
    return {'failed': (words or ['no words'])[-1][:300], 'bounded_by': by}
  found = json.loads(done.stdout.strip().splitlines()[-1])
  return {**found, 'bounded_by': by}


def _changed(config, **changes):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for name, value in changes.items():
      config[name] = value
  return config


def measure(config, folder) -> dict[str, Any]:
  """Runs all that the rows speak of.

  Args:
    config: of a run that pages; its city is made once, for all.
    folder: for the workdirs.

  Returns:
    {'bare', 'paged', 'resident', 'resident_limited', 'limit'}; 'limit': bytes.
  """
  folder = pathlib.Path(folder)
  bare = _run(
      _changed(
          config, num_slots=_BARE_SLOTS, max_memory_gb=0.0,
          num_steps=_BARE_STEPS, checkpoint_every=10**6,
      ),
      folder / 'bare',
  )  # fmt: skip
  if 'failed' in bare:
    return {'bare': bare}
  # All runs read the photos that the first one made.
  with config.unlocked():
    config.data.path = str(folder / 'bare' / 'scene')
  cap = 1e9 * config.max_memory_gb
  three = bare['report']['bytes_capacity']  # it has three slots, too
  limit = {
      'anonymous': bare['anonymous'] - three + cap + _NOISE,
      'data': bare['data'] - three + cap + _SLACK,
  }
  resident = _changed(config, max_memory_gb=0.0)
  result = {'bare': bare, 'limit': limit}
  result['resident_limited'] = _run(
      _changed(resident, num_steps=_BARE_STEPS), folder / 'limited', limit=limit
  )
  # Its nodes' samples are what each should get.
  resident.logging.samples_by_node = True
  turns = {'paged': [], 'resident': []}
  for turn in range(1, _TURNS + 1):
    steps = config.num_steps * turn // _TURNS
    for name, one, bound in (
        ('paged', config, limit), ('resident', resident, None),
    ):  # fmt: skip
      one = _changed(one, num_steps=steps, checkpoint_every=steps)
      done = _run(one, folder / name, limit=bound)
      if 'failed' in done:
        return {**result, name: done}
      turns[name].append(done)
  scores = {
      # Rendering has a cap of its own: what is limited here is training.
      'paged': _run(config, folder / 'paged', score=True),
      'resident': _run(resident, folder / 'resident', score=True),
  }
  for name, parts in turns.items():
    if 'failed' in scores[name]:
      return {**result, name: scores[name]}
    result[name] = {
        **parts[-1],
        'psnr': scores[name]['psnr'],
        'by_pyramid_level': scores[name]['by_pyramid_level'],
        'peak': max(p['peak'] for p in parts),
        'anonymous': max(p['anonymous'] for p in parts),
        'group_peak': max(p.get('group_peak', 0) for p in parts),
        'cpu_ms': [1e3 * p['cpu_seconds'] / p['steps'] for p in parts],
        'samples_by_node': [p['samples_by_node'] for p in parts],
        'wall_ms': [1e3 * p['wall_seconds'] / p['steps'] for p in parts],
    }
  return result


def _speed_row(paged, resident, clock, target):
  mine, other = paged[f'{clock}_ms'], resident[f'{clock}_ms']
  ratios = sorted(b / a for a, b in zip(mine, other, strict=True))
  return harness.make_row(
      f'{_NAME}/a step/{clock}', sum(mine) / len(mine), 'ms',
      reference=sum(other) / len(other), ratio=ratios[len(ratios) // 2],
      target=target, note='reference: all nodes resident; turn by turn',
      detail={'paged': mine, 'resident': other},
  )  # fmt: skip


def _shares(paged, resident) -> np.ndarray:
  """[n] samples of each node beside those that it gets all-resident."""
  # The store counts from the run's beginning, the others from each start.
  got = np.array(paged['samples_by_node'][-1], np.float64)
  wanted = np.sum(resident['samples_by_node'], axis=0, dtype=np.float64)
  known = wanted >= _MIN_SAMPLES
  return np.sort(got[known] / wanted[known])


def _memory_rows(result, cap_bytes) -> list[harness.Row]:
  bare, paged, limited = (
      result[name] for name in ('bare', 'paged', 'resident_limited')
  )
  report, limit, by = paged['report'], result['limit'], paged['bounded_by']
  three = bare['report']['bytes_capacity']
  nodes = paged['anonymous'] - bare['anonymous'] + three
  whole = report['bytes_all_resident']
  size = f'{paged["num_nodes"]} nodes, {report["num_slots"]} slots'
  return [
      harness.make_row(
          f'{_NAME}/memory of nodes, peak', nodes / 1e6, 'MB',
          reference=cap_bytes / 1e6, ratio=nodes / cap_bytes, target=1.0,
          rule='<=',
          note=f'{size}; reference: max_memory_gb; all: {whole / 1e6:.0f} MB',
          detail={'bare': bare, 'paged': paged},
      ),
      harness.make_row(
          f'{_NAME}/limit of the whole process', limit['anonymous'] / 1e6, 'MB',
          reference=whole / 1e6, ratio=limit['anonymous'] / whole, target=1.0,
          rule='<=',
          note=(
              f'by {by}, page cache counted; reference: the model with moments;'
              f' its peak: {paged["group_peak"] / 1e6:.0f} MB'
          ),
          detail=limit,
      ),
      harness.make_row(
          f'{_NAME}/all resident under the same limit',
          float('failed' not in limited), 'fits',
          ratio=float('failed' not in limited), target=0.0, rule='<=',
          note=limited.get('failed', 'it fitted'),
      ),
  ]  # fmt: skip


def rows_of(result: dict[str, Any], cap_bytes: float) -> list[harness.Row]:
  """Rows of what `measure` found."""
  for name in ('bare', 'paged', 'resident'):
    if 'failed' in result.get(name, {'failed': 'not begun'}):
      reason = result.get(name, {}).get('failed', 'not begun')
      return [harness.missing_row(f'{_NAME}/{name}', 'MB', reason)]
  paged, resident = result['paged'], result['resident']
  report, shares = paged['report'], _shares(paged, resident)
  total = sum(map(sum, resident['samples_by_node']))
  return [
      *_memory_rows(result, cap_bytes),
      harness.make_row(
          f'{_NAME}/psnr', paged['psnr'], 'dB', reference=resident['psnr'],
          ratio=resident['psnr'] - paged['psnr'], target=_PSNR_TARGET,
          rule='<=', note='ratio: dB lost against all resident, equal steps',
          detail={
              'by_pyramid_level': paged['by_pyramid_level'],
              'by_pyramid_level_resident': resident['by_pyramid_level'],
          },
      ),
      _speed_row(paged, resident, 'cpu', _SPEED_TARGET),
      _speed_row(paged, resident, 'wall', None),
      harness.make_row(
          f'{_NAME}/samples of the node that gets fewest', shares[0], 'share',
          ratio=shares[0], target=_SHARE_TARGET,
          note=(
              'of those that it gets with all resident;'
              f' {len(shares)} nodes with {_MIN_SAMPLES:,} and more;'
              f' {int((shares < _SHARE_TARGET).sum())} below the target; of all'
              f' samples: {sum(paged["samples_by_node"][-1]) / total:.3f}'
          ),
          detail={
              'percentiles_1_5_50_95': np.percentile(
                  shares, (1, 5, 50, 95)
              ).tolist(),
              'of_all_that_lie_there': {
                  name: report[name]
                  for name in (
                      'samples_share',
                      'sample_share_min',
                      'sample_share_percentiles_1_5_50',
                      'nodes_below_80_percent',
                      'nodes_counted',
                  )
              },
              'report': report,
          },
      ),
      harness.make_row(
          f'{_NAME}/read', paged['bytes_read_per_step'] / 1e6, 'MB a step'
      ),
      harness.make_row(
          f'{_NAME}/written', paged['bytes_written_per_step'] / 1e6, 'MB a step'
      ),
  ]  # fmt: skip


def rows(config) -> list[harness.Row]:
  """Measures a config of a run that pages, in a temporary folder."""
  if not sys.platform.startswith('linux'):
    return [harness.missing_row(_NAME, 'MB', 'reads /proc')]
  config = config.copy_and_resolve_references()
  with tempfile.TemporaryDirectory() as folder:
    result = measure(config, folder)
  return rows_of(result, 1e9 * config.max_memory_gb)
