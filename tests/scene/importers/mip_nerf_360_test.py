"""COLMAP models whose photos are in images_2, images_4, ..."""

import shutil

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from tests.scene import builders


@pytest.fixture
def folder(tmp_path):
  folder, model = builders.colmap(tmp_path / 'garden', photos=False)
  for shrink in (2, 4):
    for i, image in enumerate(model.images.values()):
      size = (builders.WIDTH // shrink, builders.HEIGHT // shrink)
      path = folder / f'images_{shrink}' / image.name
      builders.save_photo(path, size=size, seed=i)
  return folder, model


@pytest.mark.parametrize('which, shrink', [('', 2), ('images_4', 4)])
def test_smaller_photos_scale_the_cameras(folder, which, shrink):
  folder, model = folder
  scene = readers.load_scene(folder / which)
  assert scene.report['format'] == 'mip_nerf_360'
  assert scene.report['photo_folder'] == f'images_{shrink}'
  positions = scene.points.positions
  for image in model.images.values():
    row = scene.photos.names.index(image.name)
    transform = image.cam_from_world()
    local = transform * positions
    seen = model.cameras[image.camera_id].img_from_cam(local)
    camera = cameras_lib.take(scene.cameras, row)
    found, _ = cameras_lib.project(camera, positions)
    np.testing.assert_allclose(found, np.array(seen) / shrink, atol=1e-6)
  assert scene.cameras.width[0] == builders.WIDTH // shrink


def test_full_photos_are_plain_colmap(folder):
  folder, _ = folder
  for path in (folder / 'images_2').iterdir():
    size = (builders.WIDTH, builders.HEIGHT)
    builders.save_photo(folder / 'images' / path.name, size=size)
  assert readers.detect_format(folder) == 'colmap'
  assert readers.load_scene(folder).cameras.width[0] == builders.WIDTH


def test_renamed_photos_go_by_order(folder):
  folder, model = folder
  shutil.rmtree(folder / 'images_2')
  paths = sorted((folder / 'images_4').iterdir())
  for i, path in enumerate(paths):
    path.rename(path.with_name(f'image{i:03d}.png'))
  scene = readers.load_scene(folder)
  assert scene.photos.names == tuple(
      sorted(i.name for i in model.images.values())
  )
  assert [p.name for p in scene.photos.paths] == [
      f'image{i:03d}.png' for i in range(4)
  ]
  (folder / 'images_4' / 'image000.png').unlink()
  with pytest.raises(errors.InputError, match='3 photos of other names'):
    readers.load_scene(folder)
