"""RealityCapture's CSV: known angles, known lens, degrees refused."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from tests.scene.importers import views

_HEAD = '#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2\n'
_LENS = (24.0, 0.3, -0.2, -0.02, 0.01, 0.001, 0.0, 0.001, -0.002)


def _angles(rotation):
  """(heading, pitch, roll) in degrees of R = Rz(-h) Rx(p) Ry(r)."""
  pitch = np.arcsin(rotation[2, 1])
  heading = np.arctan2(rotation[0, 1], rotation[1, 1])
  roll = np.arctan2(-rotation[2, 0], rotation[2, 2])
  return np.rad2deg([heading, pitch, roll])


def _rows(shift=(0.0, 0.0, 0.0), lens=_LENS):
  rows = []
  for name, pose in zip(views.NAMES, views.poses()):
    opengl = pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    values = [*(pose[:3, 3] + shift), *_angles(opengl), *lens]
    rows.append(','.join([name, *(repr(float(v)) for v in values)]))
  return _HEAD + '\n'.join(rows) + '\n'


def test_projects_as_it_says(tmp_path):
  views.photos(tmp_path)
  shift = np.array([500000.25, 3338000.5, 300.0])
  (tmp_path / 'rc.csv').write_text('#cameras 3\n' + _rows(shift))
  scene = readers.load_scene(tmp_path)
  assert scene.report['format'] == 'reality_capture'
  world = views.points() + shift - scene.frame['offset']
  f, px, py, k1, k2, k3, _, t1, t2 = _LENS
  for row, pose in enumerate(views.poses()):
    local = views.local(pose, views.points())
    x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    u = x * radial + 2 * t1 * x * y + t2 * (r2 + 2 * x**2)
    v = y * radial + t1 * (r2 + 2 * y**2) + 2 * t2 * x * y
    # 36 mm are the 480 pixels of the longer side.
    expected = np.stack([u, v], -1) * f * 480 / 36
    expected += [240 + px * 480 / 36, 180 + py * 480 / 36]
    camera = cameras_lib.take(scene.cameras, row)
    found, _ = cameras_lib.project(camera, world)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_looking_down_with_north_up_is_zero(tmp_path):
  views.photos(tmp_path)
  lens = ','.join(map(str, (36.0, 0, 0, 0, 0, 0, 0, 0, 0)))
  places = ('0,0,100,0,0,0', '10,0,100,90,0,0', '0,10,100,0,90,0')
  rows = [f'{n},{p},{lens}' for n, p in zip(views.NAMES, places)]
  (tmp_path / 'rc.csv').write_text(_HEAD + '\n'.join(rows))
  poses = readers.load_scene(tmp_path).cameras.cam_to_world
  # Columns: right, down, forward in east, north, up.
  right_down_forward = poses[:, :, :3].transpose(0, 2, 1)
  np.testing.assert_allclose(
      right_down_forward,
      [
          [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
          [[0, -1, 0], [-1, 0, 0], [0, 0, -1]],
          [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
      ],
      atol=1e-12,
  )


def test_eighth_power_is_fitted(tmp_path):
  views.photos(tmp_path)
  k4 = 0.02
  (tmp_path / 'rc.csv').write_text(
      _rows(lens=(36.0, 0, 0, 0.01, 0, 0, k4, 0, 0))
  )
  scene = readers.load_scene(tmp_path / 'rc.csv')
  local = views.local(views.poses()[0], views.points())
  plane = local[:, :2] / local[:, 2:]
  r2 = (plane**2).sum(axis=-1, keepdims=True)
  expected = [240, 180] + 480 * plane * (1 + 0.01 * r2 + k4 * r2**4)
  found, _ = cameras_lib.project(
      cameras_lib.take(scene.cameras, 0), views.points()
  )
  shown = ((expected >= 0) & (expected <= [480, 360])).all(axis=-1)
  assert shown.sum() > 10
  np.testing.assert_allclose(found[shown], expected[shown], atol=0.3)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: t.replace(',heading', ',course'), 'no column heading'),
        (lambda t: t.replace('DJI_01', '../DJI_01'), 'inside the scene'),
        (lambda t: t.replace(',24.0,', ',zoom,', 1), "f: got 'zoom'"),
        (lambda t: t.replace(',24.0,', ',nan,', 1), "f: got 'nan'"),
        (lambda t: t.replace(',24.0,', ',0,', 1), 'positive focal'),
    ],
)
def test_bad_files_are_one_line(tmp_path, change, message):
  views.photos(tmp_path)
  (tmp_path / 'rc.csv').write_text(
      change(_rows()).replace('course', 'heading_')
  )
  with pytest.raises(errors.InputError, match=message):
    readers.load_scene(tmp_path / 'rc.csv')


def test_degrees_are_refused(tmp_path):
  views.photos(tmp_path)
  rows = []
  for i, name in enumerate(views.NAMES):
    place = f'{-98.09 + 1e-4 * i},{30.17 + 1e-4 * i},{310 + i}'
    rows.append(f'{name},{place},0,0,0,' + ','.join(map(str, _LENS)))
  (tmp_path / 'rc.csv').write_text(_HEAD + '\n'.join(rows))
  with pytest.raises(errors.InputError, match='which are degrees'):
    readers.load_scene(tmp_path)
