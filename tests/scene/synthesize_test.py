"""The synthesised scene folder reads back as what was rendered."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from infnerf_jax.scene import readers, synthesize

_OPTIONS = synthesize.SynthesisOptions(
    num_photos=8, width=64, height=48, num_points=400, supersampling=2
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('synthesized') / 'scene'
  return synthesize.synthesize(out, _OPTIONS, show_progress=False)


def test_scene_reads_back(folder):
  scene = readers.load_scene(folder)
  _, cameras = synthesize.make_cameras(_OPTIONS)
  assert len(scene.photos.names) == 8
  np.testing.assert_allclose(
      scene.cameras.cam_to_world, cameras.cam_to_world, atol=1e-12
  )
  np.testing.assert_array_equal(scene.cameras.width, cameras.width)
  assert len(scene.points.positions) > 200
  assert scene.visibility.offsets[-1] == len(scene.visibility.photo_idx)
  assert scene.frame['coordinate_system'] == 'east-north-up, metres'
  assert not list(folder.parent.glob('.*')), 'temporary files are left'


def test_photos_are_renders_of_the_stored_city(folder):
  scene = readers.load_scene(folder)
  city = synthesize.load_city(folder)
  for row in (0, 7):
    camera = cameras_lib.take(scene.cameras, row)
    view = city_lib.render(city, camera, supersampling=2)
    stored = np.asarray(Image.open(scene.photos.paths[row])) / 255
    assert np.abs(stored - view.rgb).max() < 0.51 / 255 + 1e-3


def test_same_options_leave_the_folder_alone(folder):
  before = {p: p.stat().st_mtime_ns for p in folder.rglob('*')}
  synthesize.synthesize(folder, _OPTIONS, show_progress=False)
  assert before == {p: p.stat().st_mtime_ns for p in folder.rglob('*')}
  other = dataclasses.replace(_OPTIONS, seed=1)
  with pytest.raises(errors.InputError, match='scene'):
    synthesize.synthesize(folder, other, show_progress=False)
  assert before == {p: p.stat().st_mtime_ns for p in folder.rglob('*')}


def test_exposure_differs_between_photos_if_asked(tmp_path, folder):
  options = dataclasses.replace(_OPTIONS, exposure_variation=1.0)
  gains = synthesize.exposure_gains(options, 8)
  assert np.ptp(gains.mean(axis=1)) > 0.1
  assert np.all(synthesize.exposure_gains(_OPTIONS, 8) == 1)
  out = synthesize.synthesize(tmp_path / 's', options, show_progress=False)
  name = 'photo_00003.png'
  plain = np.asarray(Image.open(folder / 'images' / name), np.float64)
  varied = np.asarray(Image.open(out / 'images' / name), np.float64)
  expected = np.clip(plain * gains[3], 0, 255)
  assert np.abs(varied - expected).max() <= 1.5
  content = json.loads((out / 'scene.json').read_text())
  np.testing.assert_allclose(content['exposure'][name], gains[3], rtol=1e-6)


@pytest.mark.parametrize(
    'change',
    [
        {'extent': -1.0},
        {'supersampling': 0},
        {'exposure_variation': 2.0},
        {'num_points': 0},
        {'num_photos': 1},
        {'altitudes': ()},
    ],
)
def test_bad_options_are_refused(tmp_path, change):
  options = dataclasses.replace(_OPTIONS, **change)
  with pytest.raises(errors.InputError):
    synthesize.synthesize(tmp_path / 's', options)
  assert not (tmp_path / 's').exists()


def test_foreign_folders_are_refused(tmp_path):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(errors.InputError):
    synthesize.synthesize(tmp_path, _OPTIONS)
  with pytest.raises(errors.InputError, match='scene.json'):
    synthesize.load_city(tmp_path)
