"""From photos to a scene: COLMAP's own synthetic views, and a real flight."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pycolmap
import pyproj
import pytest

from infnerf_jax import errors, json_files
from infnerf_jax.capture import photos, prepare, report, structure
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from tests.capture import builders

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DATA = pathlib.Path(
    os.environ.get('INFNERF_DATA', _ROOT / '..' / 'shared' / 'data')
)


def _synthetic(folder, work, *, num=8, gps=True):
  """Photos in `folder` and a database of exact matches in `work`.

  Returns:
    Camera centres [num, 3] in metres from (30 N, 99 W), by name.
  """
  options = pycolmap.SyntheticDatasetOptions()
  options.num_rigs = 1
  options.num_cameras_per_rig = 1
  options.num_frames_per_rig = num
  options.num_points3D = 200
  options.camera_model_id = pycolmap.CameraModelId.SIMPLE_RADIAL
  options.camera_params = [500.0, 320.0, 240.0, 0.0]
  options.camera_width, options.camera_height = 640, 480
  pycolmap.set_random_seed(1)
  work.mkdir(parents=True)
  with pycolmap.Database.open(work / 'database.db') as database:
    truth = pycolmap.synthesize_dataset(options, database)
  to_earth = pyproj.Transformer.from_crs(32614, 4326, always_xy=True)
  centres = {}
  for image in truth.images.values():
    centre = image.projection_center() * 20
    centres[image.name] = centre
    east, north = 5e5 + centre[0], 3318785.35 + centre[1]
    longitude, latitude = to_earth.transform(east, north)
    place = (latitude, longitude, 200 + centre[2]) if gps else None
    path = folder / image.name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.new('RGB', (640, 480), (90, 120, 60))
    picture.save(path, format='PNG', exif=builders.exif(place))
  return centres


def _take_up(folder, out, options):
  """Marks the database's folder as work of these photos."""
  plan = prepare.make_plan(folder, out, options)
  work = out.with_name(f'{out.name}.work')
  stamp = {'stamp': prepare.make_stamp(plan, options)}
  json_files.write_json_atomic(work / 'stamp.json', stamp)
  return plan


@pytest.mark.parametrize('gps', [True, False])
def test_scene_of_known_cameras(tmp_path, gps):
  folder, out = tmp_path / 'in', tmp_path / 'out'
  truth = _synthetic(folder, tmp_path / 'out.work', gps=gps)
  options = prepare.Options()
  _take_up(folder, out, options)
  result = prepare.prepare(folder, out, options)
  assert result['photos_registered'] == result['photos'] == 8
  assert result['mean_reprojection_error_pixels'] < 0.1
  assert not (tmp_path / 'out.work').exists()
  assert 'registered (100%)' in report.describe(result)
  scene = readers.load_scene(out)
  assert sorted(truth) == list(scene.photos.names)
  centres = scene.cameras.cam_to_world[:, :, 3]
  expected = np.array([truth[name] for name in sorted(truth)])
  if gps:
    assert scene.frame['coordinate_system'] == 'EPSG:32614'
    centres = centres + scene.frame['offset']
    expected = expected + [5e5, 3318785.35, 200.0]
    # EXIF keeps 1e-7 seconds of arc and millimetres of height; the model
    # itself is exact to a fraction of a pixel.
    np.testing.assert_allclose(centres, expected, atol=0.02)
    assert result['gps']['horizontal_max_metres'] < 0.02
    assert result['gsd_metres_per_pixel'] > 0
  else:
    assert scene.frame['coordinate_system'] == 'local, scale unknown'
    assert result['gps'] is None and result['gsd_metres_per_pixel'] is None
    spread = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
    ratio = spread(centres)[0, 1:] / spread(expected)[0, 1:]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
  # Known work is not done again, and nothing else is replaced.
  assert prepare.prepare(folder, out, options) == result
  with pytest.raises(errors.InputError, match='--out'):
    prepare.prepare(folder, out, options._replace(matching='sequential'))


def test_global_mapping_gives_the_same_cameras(tmp_path):
  folder, out = tmp_path / 'in', tmp_path / 'out'
  truth = _synthetic(folder, tmp_path / 'out.work')
  options = prepare.Options(sfm=structure.Options(mapping='global', threads=1))
  _take_up(folder, out, options)
  result = prepare.prepare(folder, out, options)
  assert result['photos_registered'] == 8
  assert result['mean_reprojection_error_pixels'] < 0.1
  scene = readers.load_scene(out)
  centres = scene.cameras.cam_to_world[:, :, 3] + scene.frame['offset']
  expected = np.array([truth[name] for name in sorted(truth)])
  np.testing.assert_allclose(
      centres, expected + [5e5, 3318785.35, 200.0], atol=0.05
  )


@pytest.mark.parametrize(
    'field, value, words',
    [
        ('mapping', 'bundle', '--mapping: .*incremental, global'),
        ('device', 'tpu', '--device: .*auto, cpu, gpu'),
        ('max_size', 10, '--max_size'),
    ],
)
def test_options_that_are_none(field, value, words):
  options = structure.Options(**{field: value})
  with pytest.raises(errors.InputError, match=words):
    structure.check_options(options)


def test_a_gpu_that_is_not_there(monkeypatch):
  options = structure.Options(device='gpu')
  monkeypatch.setattr(pycolmap, 'has_cuda', False)
  assert not structure.uses_gpu(options)
  with pytest.raises(errors.InputError, match='--device: got gpu.*CUDA'):
    structure.check_options(options)
  monkeypatch.setattr(pycolmap, 'has_cuda', True)
  structure.check_options(options)
  assert structure.uses_gpu(options)
  assert not structure.uses_gpu(options._replace(device='cpu'))


def test_control_points_place_the_scene(tmp_path):
  folder, out = tmp_path / 'in', tmp_path / 'out'
  _synthetic(folder, tmp_path / 'out.work')
  options = prepare.Options(keep_work=True)
  _take_up(folder, out, options)
  prepare.prepare(folder, out, options)
  by_gps = readers.load_scene(out)
  # Points that the GPS puts 7 m west, 3 m north and 2 m below of the survey.
  shift = np.array([7.0, -3.0, 2.0])
  offsets, photo_idx = by_gps.visibility
  lines = ['WGS84 UTM 14N']
  for p in np.argsort(-np.diff(offsets))[:8]:
    place = by_gps.points.positions[p]
    surveyed = place + by_gps.frame['offset'] + shift
    for row in photo_idx[offsets[p] : offsets[p + 1]]:
      camera = cameras_lib.take(by_gps.cameras, row)
      pixel, _ = cameras_lib.project(camera, place)
      numbers = ' '.join(repr(float(x)) for x in (*surveyed, *pixel))
      lines.append(f'{numbers} {by_gps.photos.names[row]} G{p}')
  gcp = tmp_path / 'gcp_list.txt'
  gcp.write_text('\n'.join(lines))
  with pytest.raises(errors.InputError, match='--out'):
    prepare.prepare(folder, out, options._replace(gcp=gcp))
  options = options._replace(gcp=gcp, overwrite=True)
  result = prepare.prepare(folder, out, options)
  control = result['ground_control']
  assert (control['control']['points'], control['check']['points']) == (6, 2)
  assert control['control']['rmse'] < 1e-3 and control['check']['rmse'] < 1e-3
  assert result['gps']['up_from'] == 'control points'
  # The GPS itself is exact to 2 cm here.
  across = float(np.hypot(*shift[:2]))
  assert result['gps']['horizontal_median_metres'] == pytest.approx(
      across, abs=0.03
  )
  scene = readers.load_scene(out)
  found = scene.cameras.cam_to_world[:, :, 3] + scene.frame['offset']
  before = by_gps.cameras.cam_to_world[:, :, 3] + by_gps.frame['offset']
  np.testing.assert_allclose(found, before + shift, atol=1e-3)
  assert scene.frame['vertical_datum'] == 'as in the ground control points'
  text = report.describe(result)
  assert 'control points    6, RMSE 0.000 m' in text
  gcp.write_text('\n'.join(lines).replace('.png', '.gif'))
  with pytest.raises(errors.InputError, match='--gcp: .*expected some of'):
    prepare.make_plan(folder, out, options)


def test_photos_that_do_not_overlap(tmp_path):
  for name in 'abc':
    builders.photo(tmp_path / 'in' / f'{name}.jpg', size=(160, 120))
  with pytest.raises(errors.InputError, match='none overlap'):
    prepare.prepare(tmp_path / 'in', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_refuses_before_working(tmp_path):
  for name in 'ab':
    builders.photo(tmp_path / 'in' / f'{name}.jpg')
  with pytest.raises(errors.InputError, match='inside the folder'):
    prepare.prepare(tmp_path / 'in', tmp_path / 'in' / 'out')
  with pytest.raises(errors.InputError, match='--matching'):
    prepare.prepare(
        tmp_path / 'in', tmp_path / 'out', prepare.Options(matching='all')
    )
  (tmp_path / 'out.work').mkdir()
  (tmp_path / 'out.work' / 'mine.txt').write_text('keep')
  with pytest.raises(errors.InputError, match='not ours'):
    prepare.prepare(tmp_path / 'in', tmp_path / 'out')
  assert (tmp_path / 'out.work' / 'mine.txt').exists()


def test_names_with_spaces_are_one_word_for_colmap(tmp_path):
  for name in ('a b.jpg', 'a%20b.jpg'):
    builders.photo(tmp_path / 'in' / name)
  found = photos.scan(tmp_path / 'in').photos
  names = {structure.sfm_name(photo) for photo in found}
  assert names == {'a%20b.jpg', 'a%2520b.jpg'}
  structure.place_photos(found, tmp_path / 'work')
  assert {p.name for p in (tmp_path / 'work' / 'images').iterdir()} == names


def test_lenses_by_camera_and_size(tmp_path):
  builders.photo(tmp_path / 'a.jpg', focal35=20)
  builders.photo(tmp_path / 'b.jpg', focal35=20)
  builders.photo(tmp_path / 'c.jpg', size=(48, 64), focal35=20)
  groups = structure.group_by_lens(photos.scan(tmp_path).photos)
  assert [[p.name for p in g] for g in groups] == [
      ['a.jpg', 'b.jpg'],
      ['c.jpg'],
  ]


def test_command_is_one_line_on_bad_input(tmp_path):
  (tmp_path / 'in').mkdir()
  done = subprocess.run(
      [
          sys.executable,
          '-m',
          'experiments.prepare',
          f'--photos={tmp_path / "in"}',
          f'--out={tmp_path / "out"}',
          '--dry_run',
      ],
      cwd=_ROOT,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True,
      text=True,
      timeout=600,
  )
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1 and 'got no photo' in done.stderr


@pytest.mark.slow
def test_real_flight(tmp_path):
  source = _DATA / 'brighton_beach' / 'images'
  if not source.is_dir():
    pytest.skip(f'{source} is absent')
  folder = tmp_path / 'in'
  folder.mkdir()
  for path in sorted(source.glob('*.jpg'))[:8]:
    (folder / path.name).symlink_to(path.resolve())
  options = prepare.Options(sfm=structure.Options(800, 2000))
  result = prepare.prepare(folder, tmp_path / 'out', options)
  assert result['photos_registered'] >= 7
  assert result['mean_reprojection_error_pixels'] < 1.0
  assert result['coordinate_system'] == 'EPSG:32615'
  # This flight's GPS agrees with its geometry within 1 m, at 43 m above.
  assert result['gps']['horizontal_median_metres'] < 1.0
  assert 30 < result['median_distance_metres'] < 60
  assert len(readers.load_scene(tmp_path / 'out').photos.names) >= 7
