"""An OpenDroneMap project: lens in shares, axis-angle poses, tracks."""

import json

import numpy as np
import pycolmap
import pyproj
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from tests.scene.importers import views

_BROWN = {
    'projection_type': 'brown', 'width': 480, 'height': 360, 'focal_x': 0.9,
    'focal_y': 0.91, 'c_x': 0.01, 'c_y': -0.02, 'k1': -0.03, 'k2': 0.01,
    'p1': 0.001, 'p2': -0.002, 'k3': 0.002,
}  # fmt: skip
_PERSPECTIVE = {
    'projection_type': 'perspective', 'width': 480, 'height': 360,
    'focal': 0.85, 'k1': 0.02, 'k2': -0.01,
}  # fmt: skip
_LLA = {'latitude': 30.17, 'longitude': -98.09, 'altitude': 300.0}


def _axis_angle(rotation):
  quaternion = pycolmap.Rotation3d(rotation).quat  # x, y, z, w
  vector, w = quaternion[:3], quaternion[3]
  length = np.linalg.norm(vector)
  return (vector * (2 * np.arctan2(length, w) / max(length, 1e-12))).tolist()


def _project(folder, edit=None):
  views.photos(folder / 'images')
  shots = {}
  for i, (name, pose) in enumerate(zip(views.NAMES, views.poses())):
    world_to_cam = np.linalg.inv(pose)
    shots[name] = {
        'camera': 'b' if i == 1 else 'a',
        'rotation': _axis_angle(world_to_cam[:3, :3]),
        'translation': world_to_cam[:3, 3].tolist(),
    }
  points = {
      str(100 + i): {'color': [i, 2 * i, 3.0], 'coordinates': p.tolist()}
      for i, p in enumerate(views.points())
  }
  model = {
      'cameras': {'a': _BROWN, 'b': _PERSPECTIVE}, 'shots': shots,
      'points': points,
  }  # fmt: skip
  if edit:
    edit(model)
  small = {'cameras': {'a': _BROWN}, 'shots': {}, 'points': {}}
  views.write_json(folder / 'opensfm' / 'reconstruction.json', [small, model])
  views.write_json(folder / 'opensfm' / 'reference_lla.json', _LLA)
  tracks = ['OPENSFM_TRACKS_VERSION_v2']
  for i in range(len(points)):
    for j, name in enumerate(views.NAMES):
      if (i + j) % 3:
        tracks += [f'{name}\t{100 + i}\t{i}\t0.1\t0.2\t0.01\t1\t2\t3\t-1\t-1']
  tracks += ['elsewhere.jpg\t100\t0\t0\t0\t0\t1\t2\t3\t-1\t-1']
  (folder / 'opensfm' / 'tracks.csv').write_text('\n'.join(tracks))
  return folder


def test_projects_as_it_says(tmp_path):
  scene = readers.load_scene(_project(tmp_path))
  assert scene.report['format'] == 'open_drone_map'
  assert scene.photos.names == views.NAMES
  assert '2 reconstructions' in scene.report['notes'][0]
  order = np.argsort([str(100 + i) for i in range(30)])
  np.testing.assert_allclose(scene.points.positions, views.points()[order])
  for row, pose in enumerate(views.poses()):
    values = _PERSPECTIVE if row == 1 else _BROWN
    get = lambda name: values.get(name, 0.0)  # noqa: B023
    local = views.local(pose, views.points())
    x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
    r2 = x**2 + y**2
    radial = 1 + sum(get(f'k{i}') * r2**i for i in (1, 2, 3))
    u = x * radial + 2 * get('p1') * x * y + get('p2') * (r2 + 2 * x**2)
    v = y * radial + get('p1') * (r2 + 2 * y**2) + 2 * get('p2') * x * y
    fx = values.get('focal_x', get('focal'))
    fy = values.get('focal_y', get('focal'))
    expected = np.stack(
        [240 + 480 * (fx * u + get('c_x')), 180 + 480 * (fy * v + get('c_y'))],
        axis=-1,
    )
    camera = cameras_lib.take(scene.cameras, row)
    found, _ = cameras_lib.project(camera, views.points())
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_lies_on_earth_and_knows_who_sees(tmp_path):
  scene = readers.load_scene(_project(tmp_path))
  assert scene.frame['coordinate_system'] == 'EPSG:4978'
  turn = np.asarray(scene.frame['rotation'])
  to_degrees = pyproj.Transformer.from_crs(4978, 4979, always_xy=True)
  place = lambda p: to_degrees.transform(*(turn.T @ p + scene.frame['offset']))
  np.testing.assert_allclose(place([0, 0, 0]), [-98.09, 30.17, 300], atol=1e-8)
  # A metre north is 1/110.86 km of a degree here, a metre up a metre.
  _, north, _ = place([0, 1.0, 0])
  assert north - 30.17 == pytest.approx(1 / 110_856, rel=1e-3)
  assert place([0, 0, 5.0])[2] == pytest.approx(305.0, abs=1e-6)
  offsets, photo_idx = scene.visibility
  for p, name in enumerate(sorted(str(100 + i) for i in range(30))):
    i = int(name) - 100
    seen = [j for j in range(3) if (i + j) % 3]
    assert photo_idx[offsets[p] : offsets[p + 1]].tolist() == seen


@pytest.mark.parametrize(
    'edit, message',
    [
        (lambda m: m['cameras']['a'].update(focal_x=None), 'focal'),
        (lambda m: m['cameras']['b'].update(projection_type='dual'), "'dual'"),
        (lambda m: m['shots']['DJI_01.jpg'].update(camera='c'), "got 'c'"),
        (lambda m: m['shots']['DJI_01.jpg'].update(rotation=[1]), 'rotation'),
        (lambda m: m['shots'].update({'../x.jpg': {'camera': 'a',
         'rotation': [0, 0, 0], 'translation': [0, 0, 0]}}), 'inside the scen'),
        (lambda m: m.pop('shots') and m.update(shots=[]), 'shots'),
    ],
)  # fmt: skip
def test_bad_files_are_one_line(tmp_path, edit, message):
  copy = lambda model: edit(model)
  folder = _project(tmp_path, lambda m: copy(_deep(m)))
  with pytest.raises(errors.InputError, match=message):
    readers.load_scene(folder)


def _deep(model):
  """Lets a test change the cameras without changing the module's."""
  fresh = json.loads(json.dumps(model))
  model.clear()
  model.update(fresh)
  return model


def test_cut_file(tmp_path):
  folder = _project(tmp_path)
  path = folder / 'opensfm' / 'reconstruction.json'
  path.write_text(path.read_text()[:500])
  with pytest.raises(errors.InputError, match='expected JSON'):
    readers.load_scene(folder)
