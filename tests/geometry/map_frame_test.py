"""Coordinate systems of maps, and what is refused."""

import json

import numpy as np
import pyproj
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import map_frame


def _frame(system, offset=(0, 0, 0), rotation=np.eye(3)):
  return {
      'coordinate_system': system,
      'offset': np.asarray(offset, float),
      'rotation': np.asarray(rotation, float),
  }


def _turn(angle):
  c, s = np.cos(angle), np.sin(angle)
  return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_own_system_is_the_frames():
  rotation, offset = _turn(0.4), np.array([512345.0, 5412345.0, 210.0])
  frame = map_frame.make_frame(_frame('EPSG:32633', offset, rotation))
  assert not frame.is_local and 'UTM zone 33N' in frame.note
  source = offset + np.array([[12.5, -3.0, 7.0], [-400.0, 90.0, 1.0]])
  # scene = rotation (source - offset)
  scene = np.stack([rotation @ (p - offset) for p in source])
  np.testing.assert_allclose(frame.to_scene(source), scene, atol=1e-6)
  np.testing.assert_allclose(frame.from_scene(scene), source, atol=1e-6)


@pytest.mark.parametrize('wanted', ['EPSG:32633', 'EPSG:3857', 'EPSG:32632'])
def test_another_system_round_trips_to_a_millimetre(wanted):
  offset = [512345.0, 5412345.0, 210.0]
  frame = map_frame.make_frame(_frame('EPSG:32633', offset), wanted)
  scene = np.random.default_rng(0).uniform(-500, 500, (50, 3))
  there = frame.from_scene(scene)
  np.testing.assert_allclose(frame.to_scene(there), scene, atol=1e-3)
  plane = pyproj.Transformer.from_crs('EPSG:32633', wanted, always_xy=True)
  east, north = plane.transform(
      scene[:, 0] + offset[0], scene[:, 1] + offset[1]
  )
  np.testing.assert_allclose(there[:, 0], east, atol=1e-3)
  np.testing.assert_allclose(there[:, 1], north, atol=1e-3)


def test_earth_centred_scenes_become_maps_in_their_utm_zone():
  to_ecef = pyproj.Transformer.from_crs(
      'EPSG:4979', 'EPSG:4978', always_xy=True
  )
  longitude, latitude, height = 15.1, 48.85, 300.0
  offset = np.array(to_ecef.transform(longitude, latitude, height))
  up = np.array(to_ecef.transform(longitude, latitude, height + 1)) - offset
  north = (
      np.array(to_ecef.transform(longitude, latitude + 1e-5, height)) - offset
  )
  north = north / np.linalg.norm(north)
  east = np.cross(north, up)
  frame = map_frame.make_frame(
      _frame('EPSG:4978', offset, np.stack([east, north, up]))
  )
  assert 'UTM zone 33N' in frame.note
  assert frame.vertical_datum.startswith('ellipsoid')
  origin, raised, moved = frame.from_scene(
      np.array([[0, 0, 0], [0, 0, 25.0], [0, 40.0, 0]])
  )
  utm = pyproj.Transformer.from_crs('EPSG:4326', 'EPSG:32633', always_xy=True)
  np.testing.assert_allclose(
      origin, [*utm.transform(longitude, latitude), height], atol=1e-3
  )
  np.testing.assert_allclose(raised - origin, [0, 0, 25], atol=1e-3)
  # Grid north is nearly true north here; the scale factor is 0.9996.
  np.testing.assert_allclose(moved - origin, [0, 40 * 0.9996, 0], atol=0.1)


def test_local_maps_say_so():
  local = map_frame.make_frame(_frame('east-north-up, metres'))
  assert local.is_local and local.wkt.startswith('LOCAL_CS')
  assert 'no place on Earth' in local.note
  taken = map_frame.make_frame(_frame('unknown'), 'EPSG:32633')
  assert not taken.is_local and 'taken to be' in taken.note
  np.testing.assert_array_equal(taken.to_scene(np.eye(3)), np.eye(3))


@pytest.mark.parametrize(
    'system, wanted, word',
    [
        ('EPSG:32633', 'EPSG:999999', '--crs'),
        ('EPSG:32633', 'nonsense', '--crs'),
        ('EPSG:32633', 'EPSG:4326', 'projected'),
        ('EPSG:32633', 'EPSG:2225', 'in metres'),  # feet
        ('EPSG:999999', None, 'coordinate_system'),
    ],
)
def test_refuses_systems(system, wanted, word):
  with pytest.raises(errors.InputError, match=word) as error:
    map_frame.make_frame(_frame(system), wanted)
  assert '\n' not in str(error.value)


def test_reads_and_refuses_frame_json(tmp_path):
  assert map_frame.read_frame(tmp_path)['coordinate_system'] == 'unknown'
  path = tmp_path / map_frame.FRAME_FILE
  path.write_text(json.dumps({'coordinate_system': 'EPSG:32633'}))
  np.testing.assert_array_equal(
      map_frame.read_frame(tmp_path)['rotation'], np.eye(3)
  )
  for field, value in (('offset', [1, 2]), ('rotation', 'x'), ('offset', None)):
    path.write_text(json.dumps({field: value}))
    with pytest.raises(errors.InputError, match=field):
      map_frame.read_frame(tmp_path)
