"""Maps of the exact city and of a tiny model: pixels, files, interruptions."""

import json
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
import rasterio

from infnerf_jax import errors, loaded
from infnerf_jax.accuracy import exact_pixels
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_boundary, map_frame
from infnerf_jax.products import (
  map_canvas,
  map_files,
  map_pixels,
  orthophoto,
)  # fmt: skip
from infnerf_jax.render import ray_block, render_rays
from infnerf_jax.scene import city as city_lib
from tests import tiny_model

_LOCAL = map_frame.make_frame(
    {'offset': np.zeros(3), 'rotation': np.eye(3), 'coordinate_system': 'x'}
)


def _turned(angle, offset):
  c, s = np.cos(angle), np.sin(angle)
  return map_frame.make_frame(
      {
          'offset': np.asarray(offset, float),
          'rotation': np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]),
          'coordinate_system': 'EPSG:32633',
      }
  )


def _read(path):
  with rasterio.open(path) as file:
    return file.read()


def _files(folder):
  return sorted(path.name for path in folder.iterdir())


def _city_truth(city, west, north, gsd, width, height):
  """Colours and heights by one camera over everything."""
  center = [west + width * gsd / 2, north - height * gsd / 2, 80.0]
  camera = cameras_lib.make_camera(
      focal=1 / gsd, width=width, height=height,
      cam_to_world=np.stack([[1, 0, 0], [0, -1, 0], [0, 0, -1], center], -1),
      projection=cameras_lib.ORTHOGRAPHIC,
  )  # fmt: skip
  view = city_lib.render(city, camera, supersampling=1)
  return view.rgb, 80.0 - view.depth


def test_map_of_the_city_is_the_city(tmp_path):
  pixels = exact_pixels.CityPixels(72.0, reach=60.0)
  # Bounds reach beyond the scene's box in the north and the east.
  job = orthophoto.plan_map(
      pixels, _LOCAL, gsd=0.25, bounds=(-20.0, -25.0, 40.0, 35.0), tile_size=96
  )
  out = tmp_path / 'deep' / 'map.tif'
  report = orthophoto.write_map(job, out, show_progress=False)
  assert (report['width'], report['height']) == (240, 240)
  assert _files(out.parent) == ['map.tif', 'map_accuracy.tif', 'map_dsm.tif']
  rgb, height = _city_truth(pixels.city, -20.0, 35.0, 0.25, 240, 240)
  inside = np.zeros((240, 240), bool)
  inside[20:, :200] = True  # 5 m of 60 in the north, 10 m in the east
  tdom, (dsm,) = _read(out), _read(tmp_path / 'deep' / 'map_dsm.tif')
  np.testing.assert_array_equal(tdom[3], np.where(inside, 255, 0))
  np.testing.assert_array_equal(tdom[:3, ~inside], 0)
  error = np.moveaxis(tdom[:3], 0, -1) / 255.0 - rgb
  # Rounding may move a ray across an edge; nowhere else may colours differ.
  assert np.mean(np.abs(error[inside]).max(-1) > 0.51 / 255) < 0.002
  assert np.mean(np.abs(dsm - height)[inside] > 1e-3) < 0.002
  np.testing.assert_array_equal(dsm[~inside], map_files.NODATA)
  opacity, level, photos = _read(tmp_path / 'deep' / 'map_accuracy.tif')
  np.testing.assert_array_equal(opacity[inside], 1)
  np.testing.assert_array_equal(level[inside], 2)
  np.testing.assert_array_equal(opacity[~inside], map_files.NODATA)
  np.testing.assert_array_equal(photos, map_files.NODATA)  # none were taken


def test_files_are_cloud_optimised_and_placed(tmp_path):
  offset = np.array([512345.0, 5412345.0, 210.0])
  pixels = exact_pixels.CityPixels(72.0)
  frame = _turned(0.3, offset)
  job = orthophoto.plan_map(pixels, frame, gsd=0.1, tile_size=512)
  orthophoto.write_map(job, tmp_path / 'a.tif', show_progress=False)
  for layer in map_files.LAYERS:
    path = map_files.layer_path(tmp_path / 'a.tif', layer)
    with rasterio.open(path) as file:
      assert file.crs.to_epsg() == 32633
      assert file.profile['tiled'] and file.block_shapes[0] == (512, 512)
      assert file.overviews(1)
      assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
      assert file.res == (0.1, 0.1)
      assert file.descriptions == layer.bands
      assert file.nodata == layer.nodata
      assert file.tags()['VERTICAL_DATUM'].startswith('unknown')
  with rasterio.open(tmp_path / 'a_dsm.tif') as file:
    dsm, (left, _, _, top) = file.read(1), file.bounds
    assert file.units == ('metre',)
  # Places of the scene are found at their coordinates on Earth.
  spots = np.random.default_rng(0).uniform(-30, 30, (400, 2))
  east, north, _ = frame.from_scene(np.insert(spots, 2, 0, 1)).T
  columns, rows = (east - left) / 0.1, (top - north) / 0.1
  found = dsm[rows.astype(int), columns.astype(int)]
  down = np.broadcast_to([0.0, 0.0, -1.0], (400, 3))
  above = np.insert(spots, 2, 80.0, 1)
  depth = city_lib.render_rays(pixels.city, above, down).depth
  # Half a pixel aside, roofs slope and walls end.
  assert np.median(np.abs(found - 210.0 - (80 - depth))) < 0.05
  assert np.mean(np.abs(found - 210.0 - (80 - depth)) < 0.2) > 0.9


def test_goes_on_after_a_kill_with_the_same_bytes(tmp_path):
  def make(name, pixels, stop_after=None):
    job = orthophoto.plan_map(
        pixels, _LOCAL, gsd=0.5, bounds=(-30, -30, 30, 30), tile_size=48
    )

    def stop(done):
      if done == stop_after:
        raise KeyboardInterrupt

    return orthophoto.write_map(
        job, tmp_path / name, show_progress=False, on_tile=stop
    )

  whole, cut = (exact_pixels.CityPixels(72.0) for _ in range(2))
  make('whole.tif', whole)
  with pytest.raises(KeyboardInterrupt):
    make('cut.tif', cut, stop_after=4)
  assert not list(tmp_path.glob('cut*.tif'))
  parts = tmp_path / 'cut.tif.part'
  # A kill leaves half a line, half a file, and a tile that is gone.
  with open(parts / 'journal.jsonl', 'a', encoding='utf-8') as file:
    file.write('{"tile": [96, ')
  (parts / 'dsm_96_0.tif.part').write_bytes(b'II*')
  (parts / 'dsm_0_48.tif').unlink()
  with pytest.raises(errors.InputError, match='another command'):
    make('cut.tif', exact_pixels.CityPixels(84.0))
  report = make('cut.tif', cut)
  assert report['tiles_resumed'] == 3 and cut.calls == whole.calls + 1
  assert not parts.exists()
  for suffix in ('', '_dsm', '_accuracy'):
    paths = [tmp_path / f'{n}{suffix}.tif' for n in ('whole', 'cut')]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_two_processes_do_not_share_a_map(tmp_path):
  with map_files.TileStore(tmp_path / 'a.tif', None, {}):
    with pytest.raises(errors.InputError, match='another process'):
      with map_files.TileStore(tmp_path / 'a.tif', None, {}):
        pass


def test_boundary(tmp_path):
  path = tmp_path / 'b.geojson'
  triangle = [[[-20, -20], [20, -20], [-20, 20], [-20, -20]]]
  shape = {'type': 'Polygon', 'coordinates': triangle}
  path.write_text(json.dumps({'type': 'Feature', 'geometry': shape}))
  boundary = map_boundary.read_boundary(path, _LOCAL)
  job = orthophoto.plan_map(
      exact_pixels.CityPixels(72.0), _LOCAL, gsd=0.5, boundary=boundary,
      tile_size=32,
  )  # fmt: skip
  assert job.canvas.bounds == (-20, -20, 20, 20)
  report = orthophoto.write_map(job, tmp_path / 'b.tif', show_progress=False)
  assert report['tiles_empty'] == 3
  alpha = _read(tmp_path / 'b.tif')[3]
  across = np.arange(80)
  # Centres below the diagonal; those on it belong to either side.
  inside = across[None] < across[:, None]
  np.testing.assert_array_equal(alpha[inside], 255)
  np.testing.assert_array_equal(alpha[across[None] > across[:, None]], 0)
  path.write_text('{"type": "Point", "coordinates": [1, 2]}')
  with pytest.raises(errors.InputError, match='no polygon'):
    map_boundary.read_boundary(path, _LOCAL)


def test_half_transmittance_against_integration():
  rng = np.random.default_rng(3)
  density = rng.exponential(0.5, (40, 12))
  density[0] = 0
  tdist = np.cumsum(rng.uniform(0.05, 0.6, (40, 13)), axis=-1)
  opacity, half = (
      np.asarray(x)
      for x in ray_block.coverage(
          density.astype(np.float32), tdist.astype(np.float32)
      )
  )
  for ray in range(40):
    fine = np.linspace(tdist[ray, 0], tdist[ray, -1], 20_001)
    cell = np.searchsorted(tdist[ray], 0.5 * (fine[1:] + fine[:-1])) - 1
    light = np.exp(-np.cumsum(density[ray, cell] * np.diff(fine)))
    np.testing.assert_allclose(opacity[ray], 1 - light[-1], atol=2e-4)
    if light[-1] < 0.5:
      left = np.interp(half[ray], fine[1:], light)
      np.testing.assert_allclose(left, 0.5, atol=2e-4)
    else:
      assert np.isinf(half[ray])
  assert np.isinf(half).sum() not in (0, 40)


@pytest.fixture(scope='module')
def field():
  model, spec, octree = tiny_model.make_model()
  low = tiny_model.ROOT_MIN - 0.5
  high = low + tiny_model.SIDE + 1.0
  cameras = cameras_lib.stack([tiny_model.make_camera()])
  return loaded.LoadedScene(
      'nowhere', ml_collections.ConfigDict({'max_memory_gb': 0.0}),
      model, spec, octree,
      np.stack([low, high]), cameras, ('a',), {'train': np.array([0])},
      render_rays.RenderOptions(num_samples=(24, 16), opaque_end=True),
      (0, 0, 0), 7, 1.0,
  )  # fmt: skip


def test_field_tiles_are_one_picture_at_the_level_of_their_pixels(field):
  pixels = map_pixels.FieldPixels(field, supersampling=1, min_photos=0)
  for gsd, size, levels in ((0.01, 64, (1, 2)), (0.2, 16, (0, 0))):
    west, south = tiny_model.ROOT_MIN[:2] + 2.0 - gsd * size / 2
    job = orthophoto.plan_map(
        pixels, _LOCAL, gsd=gsd, tile_size=size // 2,
        bounds=(west, south, west + gsd * size, south + gsd * size),
    )  # fmt: skip
    tiles = [orthophoto.render_tile(job, t) for t in job.canvas.tiles()]
    rows = [tiles[:2], tiles[2:]]
    joined = [
        np.block([[tile[layer] for tile in row] for row in rows])
        for layer in range(3)
    ]
    camera = map_canvas.tile_camera(
        job.canvas, map_canvas.Tile(0, 0, size, size), _LOCAL,
        job.box[1, 2] + pixels.near,
    )  # fmt: skip
    image = field.render(
        camera, outputs=('rgb', 'opacity', 'coverage', 'half_distance')
    )
    want = np.moveaxis(np.round(255 * image.rgb), -1, 0)
    # Tiles have cameras of their own: float32 rounds elsewhere.
    assert np.mean(np.abs(joined[0][:3] - want) > 1) < 0.01
    np.testing.assert_array_equal(joined[0][3], 255)
    accuracy, dsm = joined[2], joined[1][0]
    # Of the levels along a ray the mean: less where the tree has no child.
    assert accuracy[1].max() <= levels[1] + 1e-6
    assert np.mean(accuracy[1]) >= 0.5 * levels[0]
    assert accuracy[1].max() >= levels[0] - 1e-6
    assert np.mean(np.abs(accuracy[0] - image.coverage) > 1 / 200) < 0.01
    # An interval without end is no surface.
    assert image.opacity.min() > 0.999 > image.coverage.min()
    surface = np.isfinite(image.half_distance)
    assert np.mean((dsm != map_files.NODATA) != surface) < 0.01
    top = float(job.box[1, 2]) + pixels.near
    both = surface & (dsm != map_files.NODATA)
    error = np.abs(dsm - (top - image.half_distance))[both]
    assert both.any() and np.mean(error > 1e-3) < 0.01


def test_pixels_of_several_rays_are_their_mean():
  rng = np.random.default_rng(0)
  shape = 6, 8
  fields = [rng.random((*shape, 3))] + [rng.random(shape) for _ in range(4)]
  maps = map_pixels.TileMaps(*fields)
  maps.distance[:2, :2] = [[1.0, np.inf], [2.0, np.inf]]
  maps.distance[:2, 2:4] = [[1.0, np.inf], [np.inf, np.inf]]
  found = map_pixels._mean_of_rays(maps, 2)
  for row, column in np.ndindex(3, 4):
    part = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    np.testing.assert_allclose(
        found.rgb[row, column], maps.rgb[part].mean(axis=(0, 1))
    )
    np.testing.assert_allclose(
        found.level[row, column], maps.level[part].mean()
    )
    # Never between two surfaces; none where most rays meet none.
    want = np.sort(maps.distance[part].ravel())[1]
    assert found.distance[row, column] == want


def test_what_no_photo_sees_is_no_part_of_the_map(field):
  pixels = map_pixels.FieldPixels(field)  # one photo: it must see it
  assert pixels.min_photos == 1
  job = orthophoto.plan_map(pixels, _LOCAL, gsd=0.05)
  whole = orthophoto.plan_map(
      map_pixels.FieldPixels(field, min_photos=0), _LOCAL, gsd=0.05
  )
  assert job.canvas.width <= whole.canvas.width
  (tile,) = job.canvas.tiles()
  tdom, dsm, accuracy = orthophoto.render_tile(job, tile)
  shown = tdom[3] > 0
  assert 0.05 < shown.mean() < 0.95
  np.testing.assert_array_equal(accuracy[2][shown], 1)
  np.testing.assert_array_equal(accuracy[2][~shown], map_files.NODATA)
  np.testing.assert_array_equal(dsm[0][~shown], map_files.NODATA)
  # What is shown lies in the photo's picture.
  known = dsm[0] != map_files.NODATA
  rows, columns = np.nonzero(known)
  places = np.stack(
      [
          job.canvas.left + (columns + 0.5) * 0.05,
          job.canvas.top - (rows + 0.5) * 0.05,
          dsm[0][known],
      ],
      axis=-1,
  )
  pix, depth = cameras_lib.project(cameras_lib.take(field.cameras, 0), places)
  size = [field.cameras.width[0], field.cameras.height[0]]
  inside = (depth > 0) & np.all((pix > 0) & (pix < size), axis=-1)
  # Of what is shown by the height around it; the tiny model is rugged.
  assert np.mean(inside) > 0.8


def test_coarse_pixels_take_rays_as_fine_as_the_finest_level(field):
  finest = float(field.octree.node_gsd(int(field.octree.level.max())))
  wide = finest * np.sqrt(np.pi)  # metres of a pixel whose disc is that fine
  whole = map_pixels.FieldPixels(field)
  for factor, side in ((0.5, 1), (1.0, 1), (1.9, 2), (3.5, 4), (40.0, 4)):
    camera = cameras_lib.make_camera(
        focal=1 / (factor * wide), width=6, height=5, cam_to_world=np.eye(3, 4),
        projection=cameras_lib.ORTHOGRAPHIC,
    )  # fmt: skip
    assert whole.rays_per_side(camera) == side
  asked = map_pixels.FieldPixels(field, supersampling=3)
  assert asked.rays_per_side(camera) == 3
  # The same rays, whether in strips or at once.
  gsd = 2.5 * wide
  job = orthophoto.plan_map(whole, _LOCAL, gsd=gsd, tile_size=13)
  tile = map_canvas.Tile(0, 0, 13, 11)
  camera = map_canvas.tile_camera(
      job.canvas, tile, _LOCAL, job.box[1, 2] + whole.near
  )
  strips = whole.render(camera)
  once = map_pixels._mean_of_rays(
      whole._cast(map_pixels._finer(camera, 3, 0, 13)), 3
  )
  assert strips.rgb.shape == (13, 11, 3)
  assert np.mean(np.abs(strips.rgb - once.rgb) > 1e-3) < 0.01


@pytest.mark.parametrize(
    'arguments, word',
    [
        ({'gsd': 0.0}, '--gsd'),
        ({'gsd': float('nan')}, '--gsd'),
        ({'gsd': 0.1, 'bounds': (500, 500, 510, 510)}, 'outside the scene'),
        ({'gsd': 1e-6}, 'at most'),
    ],
)
def test_refuses_maps(arguments, word):
  with pytest.raises(errors.InputError, match=word) as error:
    orthophoto.plan_map(exact_pixels.CityPixels(72.0), _LOCAL, **arguments)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['1,2,3', '1,2,0,4', 'a,b,c,d', '0,0,inf,1'])
def test_refuses_bounds(text):
  with pytest.raises(errors.InputError, match='--bounds'):
    map_canvas.parse_bounds(text)


def test_refuses_places(tmp_path):
  (tmp_path / 'file').touch()
  (tmp_path / 'a_dsm.tif').mkdir()
  for out in ('a.png', 'file/a.tif', 'a.tif'):
    with pytest.raises(errors.InputError, match='--out'):
      map_files.check_out(tmp_path / out)
  assert _files(tmp_path) == ['a_dsm.tif', 'file']


@pytest.mark.parametrize(
    'flag, word', [('--gsd=0', '--gsd'), ('--out=x.png', '--out')]
)
def test_command_refuses_in_one_line(tmp_path, flag, word):
  base = ['--gsd=1', f'--out={tmp_path}/a.tif', f'--workdir={tmp_path}']
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.orthophoto', *base, flag],
      capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 2
  assert word in done.stderr and len(done.stderr.splitlines()) == 1
