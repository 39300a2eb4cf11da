"""Control points: the file, where photos see them, how they place a model."""

import numpy as np
import pycolmap
import pyproj
import pytest

from infnerf_jax import errors
from infnerf_jax.capture import ground_control, similarity

# Corners, middle and two more of a field, in metres about (500 km, 3318 km).
_PLACES = np.array(
    [
        [0, 0, 2.0], [60, 5, 4], [58, 44, 1], [3, 40, 0], [30, 22, 6],
        [12, 30, 3], [45, 12, 2], [20, 8, 1],
    ]
)  # fmt: skip
_BASE = np.array([500000.0, 3318000.0, 250.0])
_NAMES = [f'P{i}' for i in range(8)]


def _model(seed=0):
  """A model in a frame of its own, and the similarity that leads to it."""
  rng = np.random.default_rng(seed)
  turn = pycolmap.Rotation3d(np.array([0.4, -0.7, 1.1]))
  scale, shift = 0.05, np.array([3.0, -1.0, 2.0])
  model = pycolmap.Reconstruction()
  model.add_camera_with_trivial_rig(
      pycolmap.Camera(
          camera_id=1, model='OPENCV', width=1000, height=750,
          params=[800, 802, 503, 371, -0.03, 0.01, 0.001, -0.001],
      )
  )  # fmt: skip
  for i in range(6):
    metres = np.array([10.0 + 9 * i, 20 + 4 * (i % 2), 90 + i])
    tilt = pycolmap.Rotation3d(rng.normal(size=3) * 0.05).matrix()
    down = np.diag([1.0, -1.0, -1.0]) @ tilt
    rotation = turn.matrix() @ down  # camera to model
    center = scale * turn.matrix() @ metres + shift
    pose = pycolmap.Rigid3d(
        np.concatenate([rotation.T, -(rotation.T @ center)[:, None]], axis=1)
    )
    image = pycolmap.Image(name=f'{i}.jpg', camera_id=1, image_id=i + 1)
    model.add_image_with_trivial_frame(image, pose)
  inside = scale * _PLACES @ turn.matrix().T + shift
  return model, inside


def _images(model):
  return {image.name: image for image in model.images.values()}


def _lines(model, inside, *, noise=0.0, names=_NAMES, every=1):
  rng = np.random.default_rng(5)
  lines = []
  for name, place, position in zip(names, _PLACES + _BASE, inside):
    for image in list(model.images.values())[::every]:
      local = image.cam_from_world() * position
      u, v = np.ravel(model.cameras[1].img_from_cam(local[None]))
      if not (0 < u < 1000 and 0 < v < 750):
        continue
      u, v = np.array([u, v]) + noise * rng.normal(size=2)
      x, y, z = place
      numbers = ' '.join(repr(float(n)) for n in (x, y, z, u, v))
      lines.append(f'{numbers} {image.name} {name}')
  return lines


def _write(path, lines, head='EPSG:32614'):
  path.write_text('\n'.join([head, '# a remark', *lines, '']))
  return path


def test_exact_sightings_place_exactly(tmp_path):
  model, inside = _model()
  path = _write(tmp_path / 'gcp_list.txt', _lines(model, inside))
  survey = ground_control.read(path)
  assert survey.epsg == 32614
  assert [p.name for p in survey.points] == _NAMES
  assert [p.name for p in survey.points if p.is_check] == ['P3', 'P7']
  found = ground_control.place(survey, model, _images(model))
  placed = similarity.apply(found.transform, inside) + found.offset
  # 1e6 m in float64; the triangulation is exact to its solver's tolerance.
  np.testing.assert_allclose(placed, _PLACES + _BASE, atol=1e-4)
  assert found.transform.scale == pytest.approx(20.0, rel=1e-6)
  assert (found.offset == np.round(found.offset)).all()
  assert found.report['control']['points'] == 6
  assert found.report['check']['rmse'] < 1e-4
  text = '\n'.join(ground_control.describe(found.report))
  assert 'control points    6, RMSE 0.000 m horizontally' in text


def test_residuals_are_metres_and_checks_do_not_shape(tmp_path):
  model, inside = _model()
  # A check point surveyed 3 m east and 4 m north of where it is.
  x, y = (_PLACES + _BASE)[4][:2]
  wrong = [
      f'{x + 3} {y + 4} ' + line.split(' ', 2)[2]
      if line.endswith('P4')
      else line
      for line in _lines(model, inside)
  ]
  path = _write(tmp_path / 'b.txt', wrong)
  survey = ground_control.read(path, ('P4',))
  report = ground_control.place(survey, model, _images(model)).report
  assert report['control']['rmse'] < 1e-4
  assert report['check']['points'] == 1
  assert report['check']['horizontal_rmse'] == pytest.approx(5.0, abs=1e-3)
  assert report['check']['vertical_rmse'] < 1e-3
  row = next(r for r in report['points'] if r['name'] == 'P4')
  np.testing.assert_allclose(row['residual_metres'], [-3, -4, 0], atol=1e-3)


def test_noise_of_half_a_pixel(tmp_path):
  model, inside = _model()
  path = _write(tmp_path / 'a.txt', _lines(model, inside, noise=0.5))
  found = ground_control.place(ground_control.read(path), model, _images(model))
  placed = similarity.apply(found.transform, inside) + found.offset
  # A pixel is 0.11 m on the ground; heights of short base lines are worse.
  error = np.abs(placed - _PLACES - _BASE)
  assert error[:, :2].max() < 0.15 and error[:, 2].max() < 0.6
  assert 0.1 < found.report['points'][0]['reprojection_pixels'] < 1.5


def test_degrees_become_metres(tmp_path):
  model, inside = _model()
  lines = _lines(model, inside)
  to_degrees = pyproj.Transformer.from_crs(32614, 4326, always_xy=True)
  turned = []
  for line in lines:
    x, y, rest = line.split(' ', 2)
    lon, lat = to_degrees.transform(float(x), float(y))
    turned.append(f'{lon!r}\t{lat!r}\t' + rest.replace(' ', '\t'))
  survey = ground_control.read(_write(tmp_path / 'a.txt', turned, 'EPSG:4326'))
  assert survey.epsg == 32614
  places = np.array([p.position for p in survey.points])
  np.testing.assert_allclose(places, _PLACES + _BASE, atol=1e-4)


@pytest.mark.parametrize(
    'head, epsg',
    [
        ('WGS84 UTM 14N', 32614),
        ('wgs84 utm 14', 32614),
        ('WGS84 UTM 14S', 32714),
        ('EPSG:2193', 2193),
        ('+proj=utm +zone=14 +datum=WGS84 +units=m +no_defs', 32614),
    ],
)
def test_heads(tmp_path, head, epsg):
  model, inside = _model()
  path = _write(tmp_path / 'a.txt', _lines(model, inside), head)
  assert ground_control.read(path).epsg == epsg


def test_marked_checks_and_points_without_height(tmp_path):
  model, inside = _model()
  names = ['CHK-a', *_NAMES[1:]]
  lines = _lines(model, inside, names=names)
  lines = [
      line.replace(' 251.0 ', ' NaN ') if line.endswith('P7') else line
      for line in lines
  ]
  lines.append('500001 3318001 250 10 10 0.jpg once')
  survey = ground_control.read(_write(tmp_path / 'a.txt', lines))
  assert [p.name for p in survey.points if p.is_check] == ['CHK-a']
  assert survey.without_height == ('P7',)
  report = ground_control.place(survey, model, _images(model)).report
  assert report['not_in_two_photos'] == ['once']
  assert report['check']['points'] == 1 and report['control']['points'] == 6


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda lines: ['EPSG:999999', *lines[1:]], 'EPSG:999999'),
        (lambda lines: [], 'expected a coordinate system'),
        (lambda lines: [lines[0], '1 2 3 a.jpg'], 'expected x y z pixel_x'),
        (lambda lines: [lines[0], '1 2 inf 4 5 a.jpg'], 'expected x y z'),
        (lambda lines: lines[:9], 'at least 3'),
        (lambda lines: [*lines, '1 2 3 4 5 0.jpg P1'], 'P1: got'),
    ],
)
def test_bad_files_are_one_line(tmp_path, change, message):
  model, inside = _model()
  lines = ['EPSG:32614', *_lines(model, inside)]
  path = tmp_path / 'gcp_list.txt'
  path.write_text('\n'.join(change(lines)))
  with pytest.raises(errors.InputError, match=message) as raised:
    ground_control.read(path)
  assert '\n' not in str(raised.value)


def test_points_that_place_nothing(tmp_path):
  model, inside = _model()
  path = _write(tmp_path / 'a.txt', _lines(model, inside))
  survey = ground_control.read(path)
  with pytest.raises(errors.InputError, match='two registered photos'):
    ground_control.place(survey, model, {})
  points = tuple(
      p._replace(position=_BASE + [10.0 * i, 5.0 * i, 0.0])
      for i, p in enumerate(survey.points)
  )
  with pytest.raises(errors.InputError, match='on one line'):
    ground_control.place(survey._replace(points=points), model, _images(model))
  with pytest.raises(errors.InputError, match='--gcp_check: got'):
    ground_control.read(path, ('P99',))
  with pytest.raises(errors.InputError, match='--gcp: .*No such file'):
    ground_control.read(tmp_path / 'absent.txt')
