"""A large map in a process of its own, whose memory is then the map's.

python -m infnerf_jax.map_worker '{"kind": "city", ...}'

prints a line of JSON: what `orthophoto.write_map` reports (or of `num_tiles`
tiles alone), resident memory before and at its peak, and the overviews.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import psutil
import rasterio

from infnerf_jax import heap
from infnerf_jax.accuracy import exact_pixels
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import map_pixels, orthophoto

GSD = 0.05  # metres a pixel of the exact city

_FRAME = {
    'coordinate_system': 'EPSG:32633',
    'offset': np.array([512_000.0, 5_412_000.0, 200.0]),
    'rotation': np.eye(3),
}


def status_bytes(name: str) -> int:
  """A line of /proc/self/status, such as VmHWM, in bytes."""
  with open('/proc/self/status', encoding='ascii') as file:
    for line in file:
      if line.startswith(name):
        return 1024 * int(line.split()[1])
  raise KeyError(name)


def _plan(job: dict[str, Any]):
  """(MapJob, bytes of GDAL's cache) of a job."""
  cap, width, height = job['max_memory_gb'], job['width'], job['height']
  tile_size, cache = map_pixels.memory_plan(cap)
  tile_size = job.get('tile_size') or tile_size
  if job['kind'] == 'city':
    pixels = exact_pixels.CityPixels(GSD * max(width, height))
    frame, gsd, middle = map_frame.make_frame(_FRAME), GSD, _FRAME['offset'][:2]
  else:
    from infnerf_jax import loaded as loaded_lib

    loaded = loaded_lib.load(job['workdir'])
    pixels = map_pixels.FieldPixels(loaded, max_memory_gb=cap)
    frame = map_frame.make_frame(map_frame.read_frame(job['workdir']))
    low, high = pixels.sample_aabb
    gsd = job['side'] / max(width, height)
    middle = frame.from_scene((low + high) / 2)[:2]
  half = np.array([width, height]) * gsd / 2
  bounds = (*(middle - half).tolist(), *(middle + half).tolist())
  plan = orthophoto.plan_map(
      pixels, frame, gsd=gsd, bounds=bounds, tile_size=tile_size
  )
  return plan, cache


def _write_all(plan, cache: int, job) -> dict[str, Any]:
  """The whole map; says how far it is, so that a kill may be timed."""

  def tell(done):
    print(json.dumps({'tiles_done': done}), flush=True)

  report = orthophoto.write_map(
      plan, job['out'], cache_bytes=cache, show_progress=False, on_tile=tell
  )
  with rasterio.open(job['out']) as file:
    report['overviews'] = file.overviews(1)
    report['size'] = [file.width, file.height]
  return report


def _render_some(plan, num: int) -> dict[str, Any]:
  """Tiles spread over the canvas, rendered and thrown away."""
  tiles = list(plan.canvas.tiles())
  chosen = [tiles[k] for k in np.linspace(0, len(tiles) - 1, num).astype(int)]
  orthophoto.render_tile(plan, chosen[0])  # compiles
  start = time.process_time()
  shown = 0
  for tile in chosen:
    layers = orthophoto.render_tile(plan, tile)
    shown += 0 if layers is None else int((layers[0][3] > 0).sum())
  pixels = sum(tile.width * tile.height for tile in chosen)
  return {
      'tiles': num,
      'tiles_of_canvas': plan.canvas.num_tiles,
      'pixels': pixels,
      'pixels_shown': shown,
      'cpu_seconds': time.process_time() - start,
  }


def main(job: dict[str, Any]) -> None:
  """Makes the map and prints the report."""
  heap.use_one_arena()  # as commands do
  plan, cache = _plan(job)
  # What is there before the first large array: libraries and their code.
  first = next(plan.canvas.tiles())._replace(width=8, height=8)
  orthophoto.render_tile(plan, first)
  before, start = status_bytes('VmRSS'), time.process_time()
  if job.get('num_tiles'):
    report = _render_some(plan, job['num_tiles'])
  else:
    report = _write_all(plan, cache, job)
  report.update(
      memory_before=before,
      memory_peak=status_bytes('VmHWM'),
      process_cpu_seconds=time.process_time() - start,
      cores=len(psutil.Process().cpu_affinity()),
  )
  print(json.dumps(report), flush=True)


if __name__ == '__main__':
  main(json.loads(sys.argv[1]))
