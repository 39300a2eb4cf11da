"""Cameras that leave as transforms.json come back the same."""

import json
import types

import ml_collections
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.products import camera_export
from infnerf_jax.scene import readers
from tests.scene import builders


@pytest.fixture
def loaded(tmp_path):
  folder, _ = builders.colmap(
      tmp_path / 'in',
      models=('OPENCV', 'PINHOLE', 'OPENCV_FISHEYE', 'FULL_OPENCV'),
  )
  scene = readers.load_scene(folder)
  config = ml_collections.ConfigDict({'data': {'path': str(folder)}})
  return types.SimpleNamespace(
      cameras=scene.cameras, photo_names=scene.photos.names, config=config,
      workdir=tmp_path / 'run', open_pyramid=None,
  )  # fmt: skip


def test_round_trip(loaded, tmp_path):
  frame = {'coordinate_system': 'EPSG:32614', 'offset': np.ones(3)}
  out = tmp_path / 'out'
  report = camera_export.write_cameras(loaded, out, frame)
  assert report['cameras'] == report['photos_linked'] == 4
  scene = readers.load_scene(out)
  assert scene.report['format'] == 'transforms'
  assert scene.photos.names == loaded.photo_names
  for name, value in loaded.cameras._asdict().items():
    np.testing.assert_allclose(
        getattr(scene.cameras, name), value, atol=1e-12, err_msg=name
    )
  assert len(scene.points.positions) == 20
  content = json.loads((out / 'transforms.json').read_text())
  assert content['scene_frame']['coordinate_system'] == 'EPSG:32614'


def test_a_file_alone(loaded, tmp_path):
  out = tmp_path / 'deep' / 'cameras.json'
  assert camera_export.write_cameras(loaded, out)['photos_linked'] == 0
  frames = json.loads(out.read_text())['frames']
  # OpenGL: the third column points back, from the scene to the camera.
  pose = np.array(frames[0]['transform_matrix'])
  np.testing.assert_allclose(pose[:3, 2], -loaded.cameras.cam_to_world[0, :, 2])
  (tmp_path / 'file').touch()
  with pytest.raises(errors.InputError, match='--out'):
    camera_export.write_cameras(loaded, tmp_path / 'file' / 'a.json')
