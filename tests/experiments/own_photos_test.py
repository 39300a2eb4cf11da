"""README's way from photos to a map, a film and a scene to walk in."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import rasterio

from infnerf_jax import json_files
from infnerf_jax.accuracy import map_reading, registration
from infnerf_jax.evaluation.bench import chromium
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from tests.capture import city_photos
from tests.viewer import socket_client

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# What README's commands are called with here: less of everything.
_SMALLER = {
    'PHOTOS': '{folder}/photos',
    'SCENE': '{folder}/scene',
    'runs/mine': '{folder}/run',
    'maps/mine': '{folder}/maps/mine',
    'configs/aerial.py': 'configs/aerial.py:quicktest',
}
_MORE = {
    'train': (
        '--config.num_steps=500 --config.batch_size=1024'
        ' --config.data.max_width=160'
    ),
    'orthophoto': '--bounds={bounds}',
    'render': '--num_frames=3 --width=64',
    'view': '--port=0',
}


def _commands() -> list[list[str]]:
  """The commands of README's section, as they stand there."""
  text = (_ROOT / 'README.md').read_text()
  section = text.split('## Your own photos')[1].split('\n## ')[0]
  block = re.search(r'```bash\n(.*?)```', section, re.S)[1]
  lines = block.replace('\\\n', ' ').strip().splitlines()
  return [shlex.split(line, comments=True) for line in lines]


def _arguments(command, **values) -> list[str]:
  """A command made smaller."""
  assert command[:2] == ['python', '-m']
  name = command[2].removeprefix('experiments.')
  text = ' '.join(command[2:])
  for long, short in _SMALLER.items():
    text = text.replace(long, short)
  text = f'{text} {_MORE.get(name, "")}'.replace('--gsd=0.13', '--gsd=0.25')
  return [sys.executable, '-m', *text.format(**values).split()]


def _run(command, **values) -> str:
  done = subprocess.run(
      _arguments(command, **values), cwd=_ROOT, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)}, timeout=1200,
  )  # fmt: skip
  assert done.returncode == 0, (command, done.stderr[-2000:])
  return done.stdout


@pytest.mark.slow
def test_from_photos_to_a_map_a_film_and_a_walk(tmp_path):
  city, places = city_photos.make(tmp_path / 'photos')
  low = city_photos.ORIGIN[:2] - [25, 12]
  high = city_photos.ORIGIN[:2] + [25, 12]
  bounds = ','.join(map(str, (*low, *high)))
  commands = _commands()
  names = [c[2].removeprefix('experiments.') for c in commands]
  assert names == [
      'prepare', 'train', 'train', 'evaluate', 'orthophoto', 'render', 'view',
  ]  # fmt: skip
  words = [_run(c, folder=tmp_path, bounds=bounds) for c in commands[:-1]]
  assert 'fits here         yes' in words[1]
  report = json_files.read_json(tmp_path / 'scene' / 'prepare_report.json')
  assert report['registered_share'] >= 0.95
  assert report['coordinate_system'] == f'EPSG:{city_photos.EPSG}'
  assert report['gps']['horizontal_median_metres'] < 1.0
  assert json_files.read_json(tmp_path / 'run' / 'eval.json')['psnr'] > 15
  _check_map(tmp_path / 'maps' / 'mine.tif', city)
  film = tmp_path / 'run' / 'film'
  assert (film / 'film.mp4').stat().st_size > 1000
  assert len(list((film / 'frames').glob('*.png'))) == 3
  _walk(commands[-1], tmp_path)


def _check_map(path, city):
  """The map opens, lies where the city lies, and has its heights."""
  with rasterio.open(path) as file:
    assert file.crs.to_epsg() == city_photos.EPSG
    assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
  with rasterio.open(path.with_name('mine_dsm.tif')) as file:
    assert 'GPS' in file.tags()['VERTICAL_DATUM']
  piece = map_reading.read(path)
  assert piece.shown.mean() > 0.9
  rows, columns = piece.shown.shape
  west, north = np.array([piece.left, piece.top]) - city_photos.ORIGIN[:2]
  camera = cameras_lib.make_camera(
      focal=1 / piece.gsd, width=columns, height=rows, center=(0.0, 0.0),
      cam_to_world=np.array(
          [[1, 0, 0, west], [0, -1, 0, north], [0, 0, -1, 80.0]], float
      ),
      projection=cameras_lib.ORTHOGRAPHIC,
  )  # fmt: skip
  truth = city_lib.render(city, camera, supersampling=3)
  side = min(rows, columns)
  moved = registration.shift(
      registration.grey(piece.rgb[:side, :side]),
      registration.grey(truth.rgb[:side, :side]),
  )
  assert np.linalg.norm(moved) * piece.gsd < 1.0  # metres on Earth
  error = piece.height - city_photos.ORIGIN[2] - (80.0 - truth.depth)
  assert abs(np.nanmedian(error)) < 1.5


def _walk(command, folder):
  """A client of the viewer gets a picture, and so does a browser."""
  with subprocess.Popen(
      _arguments(command, folder=folder), cwd=_ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
  ) as process:  # fmt: skip
    try:
      address = re.search(r'127\.0\.0\.1:(\d+)', process.stdout.readline())
      with socket_client.Client(int(address[1])) as client:
        client.look((0.0, -9.0, 6.0), (0.0, 0.0, 0.0))
        assert client.picture(seconds=120.0).size
      if not chromium.missing():
        _browse(f'http://{address[0]}/')
      process.terminate()
      assert process.wait(timeout=60) == 143  # ends in order
      assert process.stderr.read().strip() == 'terminated'
    finally:
      process.kill()


def _browse(address):
  """Chromium shows the scene, and something else once it was turned."""
  with chromium.launch() as browser:
    page = chromium.open_page(browser, address)
    chromium.picture_seconds(page)
    before = chromium.scene(page)
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(420, 330, steps=6)
    page.mouse.up()
    chromium.until(lambda: np.abs(chromium.scene(page) - before).mean() > 3)
