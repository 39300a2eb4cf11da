"""Real captures, where they are: counts and reprojection as documented."""

import os
import pathlib

import numpy as np
import pycolmap
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers, split

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DATA = pathlib.Path(os.environ.get('INFNERF_DATA', '../shared/data'))


def _capture(name) -> pathlib.Path:
  folder = _ROOT / _DATA / name
  if not folder.is_dir():
    pytest.skip(f'{name}: not in INFNERF_DATA (default ../shared/data)')
  return folder


def test_fox():
  scene = readers.load_scene(_capture('fox'))
  assert len(scene.photos.names) == 50
  assert scene.report['photos_listed'] == 67
  assert scene.report['num_photos_absent'] == 17
  assert scene.report['photos_absent'][:2] == ['0005.jpg', '0016.jpg']
  assert len(scene.points.positions) == 11599
  test = split.split_photos(scene.photos.names).test
  assert [scene.photos.names[i] for i in test] == [
      '0001.jpg', '0012.jpg', '0027.jpg', '0042.jpg', '0073.jpg', '0089.jpg',
      '0110.jpg',
  ]  # fmt: skip
  # Points lie in front of the cameras and inside most photos: axes are right.
  inside = 0
  for row in range(50):
    camera = cameras_lib.take(scene.cameras, row)
    pix, depth = cameras_lib.project(camera, scene.points.positions)
    fits = (depth > 0) & (pix >= 0).all(-1) & (pix < [1080, 1920]).all(-1)
    inside += fits.mean() / 50
  assert inside > 0.4


@pytest.mark.parametrize(
    'name, photos, points, error',
    [('caliterra', 60, 22933, 0.402), ('brighton_beach', 18, 3400, 0.288)],
)
def test_reprojection_error_is_the_documented_one(name, photos, points, error):
  folder = _capture(name)
  scene = readers.load_scene(folder)
  assert len(scene.photos.names) == photos
  assert len(scene.points.positions) == points
  model = pycolmap.Reconstruction(str(folder / 'sparse' / '0'))
  row_of = {name: row for row, name in enumerate(scene.photos.names)}
  rows, positions, observed = [], [], []
  for image in model.images.values():
    for point in image.points2D:
      if point.has_point3D():
        rows.append(row_of[image.name])
        positions.append(point.point3D_id)
        observed.append(point.xy)
  order = {key: p for p, key in enumerate(sorted(model.points3D))}
  positions = scene.points.positions[[order[key] for key in positions]]
  table = cameras_lib.take(scene.cameras, np.array(rows))
  pix, _ = cameras_lib.project(table, positions)
  distance = np.linalg.norm(pix - np.array(observed), axis=-1)
  assert abs(distance.mean() - error) < 6e-4


def test_caliterra_in_both_formats():
  colmap = readers.load_scene(_capture('caliterra'))
  plain = readers.load_scene(_capture('caliterra_infnerf'))
  assert colmap.photos.names == plain.photos.names
  assert len(plain.photos.names) == 60
  np.testing.assert_allclose(
      colmap.cameras.cam_to_world, plain.cameras.cam_to_world, atol=1e-6
  )
