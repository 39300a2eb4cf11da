"""Suite `canvas`: maps much larger than memory.

The whole canvas with exact city pixels through the real tiling, journal,
mosaics and overviews, killed half way and gone on with; some of its tiles by
the field; a whole smaller map by the field.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from infnerf_jax.evaluation.bench import harness
from infnerf_jax.products import map_pixels

_ROOT = pathlib.Path(__file__).parents[2]
# What users of other programs report as failing, and a tenth of it.
FULL_SIZE, SMALL_SIZE = (50_000, 44_000), (5_000, 4_400)
_TINY_SIZE = (1_500, 1_100)
_MEMORY_TARGET = 2e9
_CAP_GB = 1.2
_FIELD_TILES, _FIELD_TILE_SIZE = 200, 128


def run_worker(job: dict[str, Any], *, kill_at: int = 0) -> dict[str, Any]:
  """Makes a map in another process.

  Args:
    job: of `map_worker`.
    kill_at: tiles after which the process is killed, 0: never.

  Returns:
    Its report; of a killed one `tiles_done` and `killed`.

  Raises:
    RuntimeError: the process failed by itself; its last words.
  """
  process = subprocess.Popen(
      [sys.executable, '-m', 'infnerf_jax.map_worker']
      + [json.dumps(job)],
      cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
  )  # fmt: skip
  last = {}
  for line in process.stdout:
    last = json.loads(line)
    if kill_at and last.get('tiles_done', 0) >= kill_at:
      process.send_signal(signal.SIGKILL)
      break
  words = process.communicate()[1]
  if kill_at and process.returncode == -signal.SIGKILL:
    return {**last, 'killed': True}
  if process.returncode:
    raise RuntimeError(f'map_worker: {words[-2000:]}')
  return last


def measure_city(size, folder, *, cap_gb: float = _CAP_GB) -> dict[str, Any]:
  """A canvas of exact city pixels, killed half way.

  Args:
    size: (width, height) pixels.
    folder: for the map; taken away again.
    cap_gb: `max_memory_gb`.

  Returns:
    `killed` and `resumed`: the two processes' reports; `left_behind`: files
    that looked finished after the kill; `disk_bytes` of the map.
  """
  folder = pathlib.Path(folder)
  out = folder / 'map.tif'
  job = dict(
      kind='city', width=size[0], height=size[1], max_memory_gb=cap_gb,
      out=str(out),
  )  # fmt: skip
  side, _ = map_pixels.memory_plan(cap_gb)
  tiles = -(-size[0] // side) * -(-size[1] // side)
  start = time.monotonic()
  killed = run_worker(job, kill_at=max(1, tiles // 2))
  left_behind = [path.name for path in folder.glob('*.tif')]
  resumed = run_worker(job)
  disk = sum(path.stat().st_size for path in folder.glob('*.tif'))
  for path in folder.glob('*.tif'):
    path.unlink()
  return {
      'size': list(size),
      'killed': killed,
      'left_behind': left_behind,
      'resumed': resumed,
      'disk_bytes': disk,
      'wall_seconds': time.monotonic() - start,
  }


def measure_field(workdir, side: float, size, small, folder) -> dict[str, Any]:
  """Tiles of the canvas and a smaller map, by the field.

  Args:
    workdir: of a run.
    side: metres that the canvas is wide.
    size: (width, height) of the canvas.
    small: (width, height) of the whole map.
    folder: for it.

  Returns:
    `tiles`, `map`: reports.
  """
  common = dict(
      kind='field', workdir=str(workdir), side=side, max_memory_gb=_CAP_GB
  )
  some = dict(
      common, width=size[0], height=size[1], num_tiles=_FIELD_TILES,
      tile_size=_FIELD_TILE_SIZE,
  )  # fmt: skip
  out = pathlib.Path(folder) / 'small.tif'
  whole = dict(common, width=small[0], height=small[1], out=str(out))
  return {'tiles': run_worker(some), 'map': run_worker(whole)}


def run(context) -> list[harness.Row]:
  """Rows of both; the field's where there is a run.

  Args:
    context: of `suites`: `canvas_size`, `scene` or None, `tiny`.

  Returns:
    Rows.
  """
  size = _TINY_SIZE if context.tiny else context.canvas_size or FULL_SIZE
  with tempfile.TemporaryDirectory(dir=context.folder) as folder:
    rows = city_rows(measure_city(size, folder))
    if context.scene is None:
      return rows + [
          harness.missing_row('canvas/field', 'B', 'no --workdir of a run')
      ]
    extent = context.scene.config.data.get('city', {}).get('extent')
    low, high = context.scene.sample_aabb
    side = extent or float((high - low)[:2].max())
    small = _TINY_SIZE if context.tiny else SMALL_SIZE
    found = measure_field(context.scene.workdir, side, size, small, folder)
    return rows + field_rows(found)


def city_rows(found) -> list[harness.Row]:
  """Rows of `measure_city`."""
  resumed, (width, height) = found['resumed'], found['size']
  name = f'canvas/city/{width} x {height}'
  rendered = resumed['tiles'] - resumed['tiles_resumed']
  share = rendered / resumed['tiles']
  return [
      harness.make_row(
          f'{name}/peak memory', resumed['memory_peak'], 'B',
          ratio=resumed['memory_peak'], target=_MEMORY_TARGET, rule='<=',
          note=f'canvas of {width * height * 16:.3g} bytes; before the map'
          f' {resumed["memory_before"]:.3g}', detail=found,
      ),
      harness.make_row(
          f'{name}/tiles kept from a kill', resumed['tiles_resumed'], 'tiles',
          reference=found['killed']['tiles_done'],
          ratio=resumed['tiles_resumed'] / found['killed']['tiles_done'],
          target=1.0, rule='>=',
          note=f'of {resumed["tiles"]}; files that looked finished:'
          f' {len(found["left_behind"])}',
      ),
      harness.make_row(
          f'{name}/wall time', found['wall_seconds'], 's',
          note=f'{resumed["process_cpu_seconds"]:.0f} s of CPU for the'
          f' {share:.0%} of the tiles after the kill, mosaics and overviews'
          f' {resumed["overviews"]}; {found["disk_bytes"] / 1e9:.2f} GB',
      ),
  ]  # fmt: skip


def field_rows(found) -> list[harness.Row]:
  """Rows of `measure_field`."""
  tiles, whole = found['tiles'], found['map']
  width, height = whole['size']
  row = lambda name, report, note: harness.make_row(
      f'canvas/field/{name}/peak memory', report['memory_peak'], 'B',
      ratio=report['memory_peak'], target=_MEMORY_TARGET, rule='<=', note=note,
      detail=report,
  )  # fmt: skip
  return [
      row(
          f'{tiles["tiles"]} of {tiles["tiles_of_canvas"]} tiles', tiles,
          f'{tiles["pixels"] / tiles["cpu_seconds"]:.0f} pixels a CPU second,'
          f' {tiles["pixels_shown"] / tiles["pixels"]:.1%} shown',
      ),
      row(
          f'{width} x {height}', whole,
          f'{whole["process_cpu_seconds"]:.0f} s of CPU, overviews'
          f' {whole["overviews"]}',
      ),
  ]  # fmt: skip
