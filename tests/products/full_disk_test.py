"""Products on a disk that is full: nothing looks finished, all goes on."""

import errno
import pathlib
import subprocess

import pytest

from infnerf_jax.accuracy import exact_pixels
from infnerf_jax.products import film, mesh, orthophoto, web_tiles
from tests.products import film_test, mesh_test, orthophoto_test


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 256 kB, and a function that makes it larger."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = lambda options: subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)],
      capture_output=True,
  )  # fmt: skip
  if mount('size=256k').returncode:
    pytest.skip('needs the right to mount a file system')
  yield folder, lambda: mount('remount,size=64m')
  subprocess.run(['umount', '-l', str(folder)], check=True)


def _is_full(call):
  with pytest.raises(OSError) as raised:
    call()
  assert raised.value.errno == errno.ENOSPC


def test_maps(small_disk):
  folder, enlarge = small_disk
  pixels = exact_pixels.CityPixels(72.0)

  def make():
    job = orthophoto.plan_map(
        pixels, orthophoto_test._LOCAL, gsd=0.1, tile_size=128
    )
    return orthophoto.write_map(job, folder / 'a.tif', show_progress=False)

  _is_full(make)
  assert [p.name for p in folder.iterdir()] == ['a.tif.part']
  enlarge()
  report = make()
  assert report['tiles_resumed'] > 0
  names = sorted(p.name for p in folder.iterdir())
  assert names == ['a.tif', 'a_accuracy.tif', 'a_dsm.tif']


def test_web_tiles(small_disk, tmp_path):
  from tests.products import web_tiles_test

  folder, enlarge = small_disk
  source = web_tiles_test._map(tmp_path / 'a.tif')
  (folder / 'filler').write_bytes(bytes(200_000))
  make = lambda: web_tiles.write_tiles(source, folder / 'tiles')
  _is_full(make)
  assert not (folder / 'tiles').exists()
  enlarge()
  assert make()['num_tiles'] == len(list((folder / 'tiles').glob('*/*/*.png')))


def test_films(small_disk):
  folder, enlarge = small_disk
  filler = pathlib.Path(folder / 'filler')
  filler.write_bytes(bytes(230_000))
  make = lambda: film.render_film(
      film_test._Scene(), film_test._path(), folder / 'film',
      show_progress=False,
  )  # fmt: skip
  _is_full(make)
  assert not list((folder / 'film').glob('*.mp4'))
  assert not (folder / 'film' / 'render.json').exists()
  enlarge()
  assert make()['num_frames'] == 2
  assert (folder / 'film' / 'film.mp4').exists()


def test_meshes(small_disk):
  folder, enlarge = small_disk
  out = folder / 'ball.ply'
  make = lambda: mesh.write_mesh(
      mesh_test.Ball(0.1), mesh_test._region(0.1), out
  )
  filler = folder / 'filler'
  filler.write_bytes(bytes(240_000))
  _is_full(make)
  assert list(folder.iterdir()) == [filler]
  enlarge()
  assert make()['vertices'] > 100 and out.exists()
