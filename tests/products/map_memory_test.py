"""A canvas larger than the cap is written within it."""

import json
import subprocess
import sys

import pytest

from infnerf_jax.accuracy import canvas_suite

_CODE = r"""
import json, sys
import numpy as np
import rasterio
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import map_pixels, orthophoto

WIDTH, HEIGHT, CAP, OUT = sys.argv[1:]
width, height, cap = int(WIDTH), int(HEIGHT), float(CAP)
GSD = 0.05


class Pattern:
  # Of a place on the ground alone, so that every pixel can be checked.
  near = 1.0
  identity = {'pattern': 1}
  sample_aabb = np.array([[-1e4, -1e4, 0.0], [1e4, 1e4, 10.0]])

  def render(self, camera):
    pose, (focal, _, cx, cy) = camera.cam_to_world, camera.intrinsics
    x = (np.arange(camera.width) + 0.5 - cx) / focal + pose[0, 3]
    y = pose[1, 3] - (np.arange(camera.height) + 0.5 - cy) / focal
    values = pattern(np.rint(x / GSD - 0.5), np.rint(y / GSD - 0.5))
    one = np.ones(values.shape, np.float32)
    rgb = np.repeat(values[..., None] / np.float32(255), 3, -1)
    distance = pose[2, 3] - values.astype(np.float64)
    return map_pixels.TileMaps(rgb, one, distance, one, one)

  def count_photos(self, camera, distance):
    return None


def pattern(x, y):
  # Smooth enough to be packed, different in every tile.
  x, y = np.asarray(x, np.int64), np.asarray(y, np.int64)
  return ((x[None] // 16 * 7 + y[:, None] // 16 * 13) % 251).astype(np.float32)


def status(name):
  for line in open('/proc/self/status'):
    if line.startswith(name):
      return 1024 * int(line.split()[1])


frame = map_frame.make_frame({
    'offset': np.zeros(3), 'rotation': np.eye(3), 'coordinate_system': 'x',
})
pixels = Pattern()
tile_size, cache = map_pixels.memory_plan(cap / 1e9)
west, south = -GSD * width / 2, -GSD * height / 2
job = orthophoto.plan_map(
    pixels, frame, gsd=GSD, bounds=(west, south, -west, -south),
    tile_size=tile_size,
)
# What is there before the first large array: libraries and their code.
first = next(job.canvas.tiles())._replace(width=8, height=8)
orthophoto.render_tile(job, first)
before = status('VmRSS')
report = orthophoto.write_map(job, OUT, cache_bytes=cache, show_progress=False)
peak = status('VmHWM')
wrong = 0
with rasterio.open(OUT) as file:
  assert (file.width, file.height) == (width, height), file.profile
  overviews = file.overviews(1)
  rows = np.random.default_rng(0).integers(0, height, 40)
  for row in rows:
    found = file.read(1, window=((row, row + 1), (0, width)))[0]
    x = np.arange(width) + round(west / GSD)
    want = pattern(x, [round(-south / GSD) - 1 - row])[0]
    wrong += int((found != want).sum())
print(json.dumps({
    'before': before, 'peak': peak, 'wrong': wrong, 'overviews': overviews,
    'canvas_bytes': width * height * 16, **report,
}))
"""


def _measure(tmp_path, width, height, cap):
  """What a map in a process of its own reports."""
  done = subprocess.run(
      [sys.executable, '-c', _CODE, str(width), str(height), str(cap)]
      + [str(tmp_path / 'map.tif')],
      capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  result = json.loads(done.stdout.splitlines()[-1])
  print(result)
  return result


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_peak_memory_is_the_caps_not_the_canvas(tmp_path):
  cap = 150e6
  result = _measure(tmp_path, 4608, 4096, cap)
  # Beside the cap: what GDAL holds while it writes compressed overviews.
  limit = cap + 64e6
  assert result['canvas_bytes'] > 1.4 * limit
  assert result['peak'] - result['before'] < limit
  assert result['wrong'] == 0
  assert result['overviews'] == [2, 4, 8, 16]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_large_canvas_of_the_city_survives_a_kill(tmp_path):
  """As `experiments.bench --suite=canvas`, whose canvas is 25 times larger."""
  found = canvas_suite.measure_city((10_000, 8_800), tmp_path, cap_gb=0.5)
  assert not found['left_behind']
  resumed = found['resumed']
  assert resumed['size'] == [10_000, 8_800]
  assert resumed['tiles_resumed'] >= found['killed']['tiles_done']
  assert resumed['memory_peak'] - resumed['memory_before'] < 0.5e9 + 64e6
  assert resumed['overviews'][:4] == [2, 4, 8, 16]
  memory, kept, _ = canvas_suite.city_rows(found)
  assert memory.passed and kept.passed
