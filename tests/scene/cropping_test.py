"""A boundary crops points and masks pixels outside."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import cropping
from infnerf_jax.scene import scene as scene_lib

_OFFSET = np.array([512_000.0, 5_412_000.0, 200.0])


def _boundary(path, ring):
  """GeoJSON of a ring of the scene's metres."""
  ring = [[x + _OFFSET[0], y + _OFFSET[1]] for x, y in ring]
  shape = {'type': 'Polygon', 'coordinates': [ring + ring[:1]]}
  crs = {'type': 'name', 'properties': {'name': 'EPSG:32633'}}
  path.write_text(json.dumps({**shape, 'crs': crs}))
  return path


def _scene(masks=(None, None)):
  """Two photos from 40 m above a plain, the second one turned aside."""
  cameras = cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=100, width=120, height=80,
              cam_to_world=cameras_lib.look_at(
                  [0, 0, 40], [x, 0, 0], (0, 1, 0)
              ),
          )
          for x in (0, 5)
      ]
  )  # fmt: skip
  across = np.linspace(-20, 20, 9)
  positions = np.array([[x, y, 0.0] for x in across for y in across])
  num = len(positions)
  return scene_lib.Scene(
      photos=scene_lib.Photos(
          ('a', 'b'), (pathlib.Path('a'), pathlib.Path('b')), masks
      ),
      cameras=cameras,
      points=scene_lib.Points(positions, np.zeros((num, 3), np.uint8)),
      visibility=scene_lib.Visibility(
          np.arange(num + 1) * 2, np.tile(np.int32([0, 1]), num)
      ),
      frame={
          'coordinate_system': 'EPSG:32633',
          'offset': _OFFSET.tolist(),
          'rotation': np.eye(3).tolist(),
      },
      report={},
  )


def test_points_and_pixels_outside_do_not_count(tmp_path):
  path = _boundary(tmp_path / 'b.json', [(-12, -8), (6, -8), (6, 8), (-12, 8)])
  scene = cropping.crop_points(_scene(), path)
  x, y, _ = _scene().points.positions.T
  inside = (x > -12) & (x < 6) & (np.abs(y) < 8)
  np.testing.assert_array_equal(
      scene.points.positions, _scene().points.positions[inside]
  )
  assert len(scene.visibility.photo_idx) == 2 * inside.sum()
  assert scene.report['num_points_in_boundary'] == inside.sum()
  masked = cropping.mask_photos(scene, path, tmp_path / 'masks')
  for row, mask_path in enumerate(masked.photos.mask_paths):
    mask = np.asarray(PIL.Image.open(mask_path)) > 0
    assert mask.shape == (80, 120)
    rows, columns = np.indices(mask.shape)
    camera = cameras_lib.take(scene.cameras, row)
    # The corners of the boundary, projected, hold the mask.
    ring = np.array([[-12, -8, 0], [6, -8, 0], [6, 8, 0], [-12, 8, 0.0]])
    pix, _ = cameras_lib.project(camera, ring)
    left, right = pix[[0, 3], 0], pix[[1, 2], 0]
    if row == 0:  # from straight above: a rectangle
      want = (columns + 0.5 > left.mean()) & (columns + 0.5 < right.mean())
      want &= np.abs(rows + 0.5 - 40) < 20
      np.testing.assert_array_equal(mask, want)
    assert mask[:, : int(left.min()) - 1].sum() == 0
    assert mask[:, int(right.max()) + 2 :].sum() == 0
    assert 0 < mask.sum() < mask.size
  # A run that resumes finds the same files.
  before = [p.stat().st_mtime_ns for p in masked.photos.mask_paths]
  again = cropping.mask_photos(scene, path, tmp_path / 'masks')
  assert before == [p.stat().st_mtime_ns for p in again.photos.mask_paths]


def test_own_masks_count_as_before(tmp_path):
  own = tmp_path / 'own.png'
  half = np.zeros((80, 120), np.uint8)
  half[:40] = 255
  PIL.Image.fromarray(half).save(own)
  path = _boundary(tmp_path / 'b.json', [(-9, -9), (9, -9), (9, 9), (-9, 9)])
  plain, with_own = (
      cropping.mask_photos(
          cropping.crop_points(_scene(masks), path), path, tmp_path / name
      )
      for name, masks in (('plain', (None, None)), ('own', (own, None)))
  )
  masks = [
      np.asarray(PIL.Image.open(s.photos.mask_paths[0]))
      for s in (plain, with_own)
  ]
  np.testing.assert_array_equal(masks[1], np.where(half > 0, masks[0], 0))
  assert 0 < masks[1].sum() < masks[0].sum()


def test_boundaries_that_hold_nothing(tmp_path):
  path = _boundary(tmp_path / 'b.json', [(500, 0), (510, 0), (510, 9)])
  with pytest.raises(errors.InputError, match='holds none of 81 points'):
    cropping.crop_points(_scene(), path)
  with pytest.raises(errors.InputError, match='without points'):
    cropping.crop_points(_scene()._replace(points=None), path)
