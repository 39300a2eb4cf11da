"""Web tiles of a map: where they lie, what they show, interruptions."""

import json
import math

import numpy as np
import pyproj
import pytest
import rasterio
from PIL import Image

from infnerf_jax import errors
from infnerf_jax.products import web_tiles

_WEST, _NORTH, _GSD = 512345.0, 5412345.0, 0.2


def _map(path, crs='EPSG:32633', size=600):
  """A map whose colours say where a pixel is: east, north in steps of 16."""
  across = np.arange(size)
  values = np.zeros((4, size, size), np.uint8)
  values[0], values[1] = across // 16 * 4, across[:, None] // 16 * 4
  values[3] = 255
  values[:, :100, :100] = 0
  with rasterio.open(
      path, 'w', driver='GTiff', dtype='uint8', count=4, width=size,
      height=size, crs=crs,
      transform=rasterio.Affine(_GSD, 0, _WEST, 0, -_GSD, _NORTH),
  ) as file:  # fmt: skip
    file.write(values)
    file.colorinterp = [rasterio.enums.ColorInterp[n] for n in
                        ('red', 'green', 'blue', 'alpha')]  # fmt: skip
  return path


def _pixel(folder, index, zoom, longitude, latitude):
  """The colour that a web map shows at a place."""
  n = 2**zoom * web_tiles.SIZE
  x = (longitude + 180) / 360 * n
  y = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2 * n
  size = web_tiles.SIZE
  name = index['tiles'][0].format(z=zoom, x=int(x // size), y=int(y // size))
  if not (folder / name).exists():
    return np.zeros(4, int)
  with Image.open(folder / name) as image:
    assert image.size == (size, size)
    return np.asarray(image)[int(y % size), int(x % size)].astype(int)


def test_places_have_their_colours_at_every_zoom(tmp_path):
  folder = tmp_path / 'tiles'
  report = web_tiles.write_tiles(_map(tmp_path / 'a.tif'), folder)
  index = json.loads((folder / web_tiles.INDEX).read_text())
  assert report['num_tiles'] == len(list(folder.glob('*/*/*.png')))
  assert not list(tmp_path.glob('*.part'))
  ground = 2 * math.pi * 6378137 * math.cos(math.radians(48.86)) / 256
  fine = ground / 2 ** index['maxzoom']
  assert fine <= _GSD < 2 * fine
  to_earth = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
  rng = np.random.default_rng(0)
  for column, row in rng.integers(1, 37, (60, 2)) * 16 + 8:
    place = _WEST + (column + 0.5) * _GSD, _NORTH - (row + 0.5) * _GSD
    longitude, latitude = to_earth.transform(*place)
    shown = column >= 100 or row >= 100
    for zoom in (index['maxzoom'], index['maxzoom'] - 1):
      found = _pixel(folder, index, zoom, longitude, latitude)
      want = [column // 16 * 4, row // 16 * 4, 0, 255] if shown else [0] * 4
      np.testing.assert_allclose(found, want, atol=2)
    west, south, east, north = index['bounds']
    assert west < longitude < east and south < latitude < north
  top = list((folder / str(index['minzoom'])).glob('*/*.png'))
  assert len(top) == 1


def test_goes_on_after_a_kill_and_not_with_another_map(tmp_path, monkeypatch):
  source = _map(tmp_path / 'a.tif')
  whole = web_tiles.write_tiles(source, tmp_path / 'whole')
  read, left = web_tiles._Pyramid._read, [5]

  def fails(self, *bounds):
    left[0] -= 1
    if not left[0]:
      raise KeyboardInterrupt
    return read(self, *bounds)

  monkeypatch.setattr(web_tiles._Pyramid, '_read', fails)
  with pytest.raises(KeyboardInterrupt):
    web_tiles.write_tiles(source, tmp_path / 'cut')
  assert not (tmp_path / 'cut').exists()
  left[0] = 10**9
  assert web_tiles.write_tiles(source, tmp_path / 'cut') == whole
  for path in (tmp_path / 'whole').glob('*/*/*.png'):
    other = tmp_path / 'cut' / path.relative_to(tmp_path / 'whole')
    assert path.read_bytes() == other.read_bytes()
  (tmp_path / 'new.part' / '3').mkdir(parents=True)
  web_tiles.write_tiles(source, tmp_path / 'new')
  assert not (tmp_path / 'new' / '3').exists()


def test_refuses(tmp_path):
  with pytest.raises(errors.InputError, match='--xyz: .*there already'):
    web_tiles.check_folder(tmp_path.parent)
  (tmp_path / 'file').touch()
  with pytest.raises(errors.InputError, match='--xyz: .*can be written'):
    web_tiles.check_folder(tmp_path / 'file' / 'tiles')
  local = 'LOCAL_CS["here",UNIT["metre",1]]'
  source = _map(tmp_path / 'l.tif', crs=local, size=128)
  with pytest.raises(errors.InputError, match='without a place on Earth'):
    web_tiles.write_tiles(source, tmp_path / 'tiles')
