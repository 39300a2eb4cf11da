"""Metashape's XML: two sensors, placed on Earth, its manual's formula."""

import numpy as np
import pycolmap
import pyproj
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from tests.scene import builders
from tests.scene.importers import views

_SENSOR = {
    'f': 500.0, 'cx': 3.0, 'cy': -2.0, 'b1': 1.5, 'k1': -0.05, 'k2': 0.02,
    'k3': -0.003, 'p1': 0.002, 'p2': -0.001,
}  # fmt: skip
_OTHER = {'f': 450.0, 'cx': 1.0, 'b2': 0.4, 'k1': 0.03, 'k4': 0.004}


def _xml(sensors, cameras, placement='', head='', group=''):
  parts = []
  for i, values in enumerate(sensors):
    fields = ''.join(
        f'<{k}>{v}</{k}>' for k, v in values.items() if k[0] != '_'
    )
    kind = values.get('_type', 'frame')
    parts.append(
        f'<sensor id="{i}" label="lens {i}" type="{kind}">'
        f'<resolution width="480" height="360"/>'
        '<calibration class="initial"><f>9</f></calibration>'
        f'<calibration class="adjusted"><resolution width="480" height="360"/>'
        f'{fields}</calibration></sensor>'
    )
  listed = ''
  for i, (label, sensor, pose) in enumerate(cameras):
    values = () if pose is None else np.ravel(pose)
    text = ' '.join(repr(float(x)) for x in values)
    inner = '' if pose is None else f'<transform>{text}</transform>'
    listed += (
        f'<camera id="{i}" sensor_id="{sensor}" component_id="0"'
        f' label="{label}" enabled="true">{inner}</camera>'
    )
  if group:
    listed = f'<group id="0" label="{group}">{listed}</group>'
  return (
      f'<?xml version="1.0"?>{head}<document version="2.0.0"><chunk'
      f' label="Chunk 1"><sensors>{"".join(parts)}</sensors><components>'
      f'<component id="0">{placement}</component></components><cameras>'
      f'{listed}</cameras></chunk></document>'
  )


def _placement(rotation, shift, scale):
  write = lambda x: ' '.join(repr(float(v)) for v in np.ravel(x))
  return (
      f'<transform><rotation>{write(rotation)}</rotation><translation>'
      f'{write(shift)}</translation><scale>{scale!r}</scale></transform>'
  )


def _project(values, local):
  """The manual's formula, point by point."""
  get = lambda name: values.get(name, 0.0)
  x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
  r2 = x**2 + y**2
  radial = 1 + sum(get(f'k{i}') * r2**i for i in (1, 2, 3, 4))
  u = x * radial + get('p1') * (r2 + 2 * x**2) + 2 * get('p2') * x * y
  v = y * radial + get('p2') * (r2 + 2 * y**2) + 2 * get('p1') * x * y
  f = get('f')
  return np.stack(
      [
          240 + get('cx') + u * f + u * get('b1') + v * get('b2'),
          180 + get('cy') + v * f,
      ],
      axis=-1,
  )


def _check(scene, world, sensors, placement=None):
  for row, (pose, values) in enumerate(zip(views.poses(), sensors)):
    camera = cameras_lib.take(scene.cameras, row)
    found, depth = cameras_lib.project(camera, world)
    assert (depth > 0).all()
    # A lens that is fitted (b2, k4) is within a third of a pixel.
    atol = 0.3 if 'k4' in values else 1e-6
    expected = _project(values, views.local(pose, views.points()))
    shown = ((expected >= 0) & (expected <= [480, 360])).all(axis=-1)
    assert shown.sum() > 10
    np.testing.assert_allclose(found[shown], expected[shown], atol=atol)


def test_two_sensors_in_local_coordinates(tmp_path):
  views.photos(tmp_path / 'images')
  sensors = (_SENSOR, _OTHER, _SENSOR)
  poses = views.poses()
  cameras = [('DJI_01', 0, poses[0]), ('DJI_02.jpg', 1, poses[1])]
  cameras += [('DJI_03', 0, poses[2]), ('DJI_04', 0, None)]
  (tmp_path / 'cameras.xml').write_text(_xml((_SENSOR, _OTHER), cameras))
  builders.save_ply(tmp_path / 'sparse_points.ply', views.points(), dtype='f8')
  scene = readers.load_scene(tmp_path)
  assert scene.report['format'] == 'metashape'
  assert scene.photos.names == views.NAMES
  assert scene.report['photos_without_pose'] == ['DJI_04']
  np.testing.assert_allclose(scene.points.positions, views.points())
  _check(scene, views.points(), sensors)


def test_georeferenced_projects_lie_east_north_up(tmp_path):
  # Photos in a group's folder; poses in a frame that only the placement knows.
  views.photos(tmp_path / 'images' / 'flight')
  to_metres = pyproj.Transformer.from_crs(4979, 4978, always_xy=True)
  origin = np.array(to_metres.transform(-98.09, 30.17, 310.0))
  lon, lat = np.deg2rad([-98.09, 30.17])
  east = np.array([-np.sin(lon), np.cos(lon), 0])
  up = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
  enu = np.stack([east, np.cross(up, east), up])
  turn, scale = pycolmap.Rotation3d(np.array([0.3, -1.0, 0.5])).matrix(), 0.02
  # world = scale * turn @ own + origin, and world = enu^T @ metres + origin.
  own = []
  for pose in views.poses():
    inner = pose.copy()
    inner[:3, :3] = turn.T @ enu.T @ pose[:3, :3]
    inner[:3, 3] = turn.T @ enu.T @ pose[:3, 3] / scale
    own.append(inner)
  labels = ['DJI_01', 'DJI_02', 'DJI_03']
  cameras = [(n, 0, p) for n, p in zip(labels, own)]
  text = _xml([_SENSOR], cameras, _placement(turn, origin, scale), '', 'flight')
  (tmp_path / 'cameras.xml').write_text(text)
  scene = readers.load_scene(tmp_path / 'cameras.xml')
  assert scene.frame['coordinate_system'] == 'EPSG:4978'
  rotation = np.asarray(scene.frame['rotation'])
  world = views.points() @ enu + origin
  inside = (world - scene.frame['offset']) @ rotation.T
  # Half a micrometre at the Earth's radius is what float64 keeps.
  _check(scene, inside, (_SENSOR,) * 3)
  # Up is up: heights differ by a constant.
  heights = inside[:, 2] - views.points()[:, 2]
  assert np.ptp(heights) < 1e-4
  assert scene.photos.names[0] == 'flight/DJI_01.jpg'


def test_fisheye(tmp_path):
  views.photos(tmp_path)
  lens = {'_type': 'fisheye', 'f': 300.0, 'k1': 0.05, 'k4': 0.001}
  cameras = [(n, 0, p) for n, p in zip(views.NAMES, views.poses())]
  (tmp_path / 'a.xml').write_text(_xml([lens], cameras))
  scene = readers.load_scene(tmp_path)
  local = views.local(views.poses()[1], views.points())
  radius = np.linalg.norm(local[:, :2], axis=-1)
  theta = np.arctan2(radius, local[:, 2])
  theta = theta * (1 + 0.05 * theta**2 + 0.001 * theta**8)
  expected = [240, 180] + 300 * local[:, :2] * (theta / radius)[:, None]
  found, _ = cameras_lib.project(
      cameras_lib.take(scene.cameras, 1), views.points()
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


_BOMB = '<!DOCTYPE a [<!ENTITY b "xx"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: t.replace('?>', f'?>{_BOMB}'), 'entities or a document'),
        (lambda t: t[:-30], "expected Metashape's cameras in XML"),
        (lambda t: t.replace('DJI_01', '../../DJI_01'), 'inside the scene'),
        (lambda t: t.replace('sensor_id="0"', 'sensor_id="7"'), 'sensor_id'),
        (lambda t: t.replace('"frame"', '"spherical"'), "got 'spherical'"),
        (lambda t: t.replace('<f>500.0', '<f>-1'), 'f: got -1.0'),
        (lambda t: t.replace('<f>500.0', '<f>nan'), '1 finite numbers'),
        (lambda t: t.replace('<k1>-0.05</k1>', '<k4>-9</k4>'), 'differs by'),
    ],
)
def test_bad_files_are_one_line(tmp_path, change, message):
  views.photos(tmp_path / 'images')
  cameras = [(n, 0, p) for n, p in zip(views.NAMES, views.poses())]
  text = change(_xml([_SENSOR], cameras))
  (tmp_path / 'cameras.xml').write_text(text)
  with pytest.raises(errors.InputError, match=message) as raised:
    readers.load_scene(tmp_path / 'cameras.xml')
  assert '\n' not in str(raised.value)
