"""Suite `out_of_core`: a run whose nodes do not fit, beside one whose do.

Both are processes of their own, of equal steps on the same batches' source,
and take turns: each goes on from its last commit.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from infnerf_jax.evaluation.bench import harness
from infnerf_jax.training import workdir as workdir_lib

_PSNR_TARGET = 0.3  # dB below the run whose nodes are all resident
_SPEED_TARGET = 0.6
_SHARE_TARGET = 0.8
_TURNS = 2
# Slots and steps of the run that says what everything but nodes takes.
_BARE_SLOTS, _BARE_STEPS = 3, 60
# The limit counts addresses: stacks of threads that begin later, and arenas.
_SLACK = 64e6
_NAME = 'out_of_core/city'


def _run(config, workdir, **options) -> dict[str, Any]:
  """A worker's result, or {'failed': its last words}."""
  task = {
      'config': workdir_lib.config_to_json(config),
      'workdir': str(workdir),
      **options,
  }
  done = subprocess.run(
      [sys.executable, '-m', 'infnerf_jax.evaluation.bench.paged_worker'],
      input=json.dumps(task), capture_output=True, text=True, check=False,
      cwd=pathlib.Path(__file__).resolve().parents[3],
  )  # fmt: skip
  if done.returncode:
    words = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return {'failed': (words or [f'status {done.returncode}'])[-1][:300]}
  return json.loads(done.stdout.strip().splitlines()[-1])


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
    {'bare', 'paged', 'resident', 'resident_limited', 'limit'}.
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
  limit = bare['data'] + 1e9 * config.max_memory_gb + _SLACK
  resident = _changed(config, max_memory_gb=0.0)
  result = {'bare': bare, 'limit': limit}
  limited = _changed(resident, num_steps=_BARE_STEPS)
  result['resident_limited'] = _run(
      limited, folder / 'limited', limit_bytes=limit
  )
  turns = {'paged': [], 'resident': []}
  for turn in range(1, _TURNS + 1):
    steps = config.num_steps * turn // _TURNS
    score = turn == _TURNS
    for name, one, cap in (
        ('paged', config, limit), ('resident', resident, 0),
    ):  # fmt: skip
      one = _changed(one, num_steps=steps, checkpoint_every=steps)
      done = _run(one, folder / name, score=score, limit_bytes=cap)
      if 'failed' in done:
        return {**result, name: done}
      turns[name].append(done)
  for name, parts in turns.items():
    result[name] = {
        **parts[-1],
        'peak': max(p['peak'] for p in parts),
        'cpu_ms': [1e3 * p['cpu_seconds'] / p['steps'] for p in parts],
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


def rows_of(result: dict[str, Any], cap_bytes: float) -> list[harness.Row]:
  """Rows of what `measure` found."""
  for name in ('bare', 'paged', 'resident'):
    if 'failed' in result.get(name, {'failed': 'not begun'}):
      reason = result.get(name, {}).get('failed', 'not begun')
      return [harness.missing_row(f'{_NAME}/{name}', 'MB', reason)]
  bare, paged = result['bare'], result['paged']
  resident, limited = result['resident'], result['resident_limited']
  report = paged['report']
  # The bare run holds three rows, which count too.
  three = bare['report']['bytes_capacity']
  nodes = paged['peak'] - bare['peak'] + three
  others = resident['peak'] - bare['peak'] + three
  share = report['sample_share_min']
  size = f'{paged["num_nodes"]} nodes, {report["num_slots"]} slots'
  return [
      harness.make_row(
          f'{_NAME}/memory of nodes, peak', nodes / 1e6, 'MB',
          reference=cap_bytes / 1e6, ratio=nodes / cap_bytes, target=1.0,
          rule='<=',
          note=(
              f'{size}; reference: max_memory_gb; all resident:'
              f' {others / 1e6:.0f} MB; under RLIMIT_DATA'
          ),
          detail={'bare': bare, 'paged': paged, 'limit': result['limit']},
      ),
      harness.make_row(
          f'{_NAME}/all resident under the same RLIMIT_DATA',
          float('failed' not in limited), 'fits',
          ratio=float('failed' not in limited), target=0.0, rule='<=',
          note=limited.get('failed', 'it fitted'),
      ),
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
          f'{_NAME}/samples of the node that gets fewest', share, 'share',
          ratio=share, target=_SHARE_TARGET,
          note=(
              f'of those that lie in it; {report["nodes_counted"]} nodes with'
              f' 1,000 samples and more; of all: {report["samples_share"]:.3f}'
          ),
          detail=report,
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
