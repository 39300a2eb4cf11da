"""The InfNeRF format, format detection and the rules for all formats."""

import json

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from tests.scene import builders


def _set(field, value, name='02.png'):
  def edit(entries):
    entries[name][field] = value

  return edit


def _expect(folder, message):
  with pytest.raises(errors.InputError, match=message) as caught:
    readers.load_scene(folder)
  assert '\n' not in str(caught.value)


def test_plain_scene(tmp_path):
  folder = builders.infnerf(tmp_path)
  scene = readers.load_scene(folder)
  assert scene.photos.names == ('00.png', '01.png', '02.png', '03.png')
  assert scene.cameras.intrinsics[1].tolist() == [50, 51, 24.5, 17.5]
  assert not scene.cameras.distortion.any()
  for row in range(4):
    np.testing.assert_allclose(
        scene.cameras.cam_to_world[row], builders.pose(row)[:3], atol=1e-12
    )
  assert np.array_equal(scene.points.positions, builders.points())
  assert scene.points.colors[:, 0].tolist() == list(range(20))
  assert scene.visibility is None
  assert scene.frame['offset'] == [0, 0, 0]


def test_size_defaults_to_the_photo(tmp_path):
  def edit(entries):
    del entries['01.png']['width'], entries['01.png']['height']

  scene = readers.load_scene(builders.infnerf(tmp_path, edit=edit))
  assert (scene.cameras.width[1], scene.cameras.height[1]) == (48, 36)


@pytest.mark.parametrize('whole', [True, False])
@pytest.mark.parametrize('model', ['OPENCV', 'FULL_OPENCV', 'OPENCV_FISHEYE'])
def test_distortion(tmp_path, model, whole):
  params = builders.COLMAP_PARAMS[model]
  given = params if whole else params[4:]
  edit = _set('distortion', {'model': model, 'params': given})
  scene = readers.load_scene(builders.infnerf(tmp_path, edit=edit))
  fisheye = model == 'OPENCV_FISHEYE'
  assert scene.cameras.projection[2] == (
      cameras_lib.FISHEYE if fisheye else cameras_lib.PERSPECTIVE
  )
  count = len(params) - 4
  assert scene.cameras.distortion[2, :count].tolist() == params[4:]
  assert not scene.cameras.distortion[2, count:].any()


def test_same_aspect_rescales_the_lens(tmp_path):
  def edit(entries):
    entries['02.png'].update(
        width=96, height=72,
        intrinsic=[[100, 0, 49], [0, 102, 35], [0, 0, 1]],
    )  # fmt: skip

  scene = readers.load_scene(builders.infnerf(tmp_path, edit=edit))
  np.testing.assert_allclose(
      scene.cameras.intrinsics[2], scene.cameras.intrinsics[1]
  )
  assert (scene.cameras.width[2], scene.cameras.height[2]) == (48, 36)
  assert scene.report['photos_rescaled'] == ['02.png']
  assert scene.report['num_photos_rescaled'] == 1


def test_exif_turned_photo_is_not_turned(tmp_path):
  def edit(entries):
    entries['02.png'].update(
        width=36, height=48,
        intrinsic=[[50, 0, 18], [0, 50, 24], [0, 0, 1]],
    )  # fmt: skip

  folder = builders.infnerf(tmp_path, edit=edit)
  path = folder / 'images' / '02.png'
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  builders.save_photo(path, exif=exif)
  _expect(folder, '02.png: width x height: .*48x36.*36x48 .EXIF orientation 6')
  # Poses for the stored pixels are read, whatever EXIF says.
  entries = json.loads((folder / 'cameras.json').read_text())
  entries['02.png'] = entries['01.png']
  (folder / 'cameras.json').write_text(json.dumps(entries))
  assert readers.load_scene(folder).cameras.width[2] == 48


def test_masks(tmp_path):
  folder = builders.infnerf(tmp_path, edit=_set('mask', 'masks/m.png'))
  scene = readers.load_scene(folder)
  masks = [path and path.name for path in scene.photos.mask_paths]
  assert masks == [None, None, 'm.png', None]


def test_visibility_follows_names_not_rows(tmp_path):
  folder = builders.infnerf(tmp_path)
  names = ['03.png', '00.png', '02.png', 'gone.png', '01.png']
  views = [[0, 1], [3], [2, 4]] + [[4]] * 17
  np.savez(
      folder / 'visibility.npz',
      offsets=np.cumsum([0] + [len(v) for v in views]),
      photo_idx=np.concatenate(views),
      photo_names=np.array(names),
  )
  (folder / 'images' / '01.png').unlink()
  scene = readers.load_scene(folder)
  assert scene.photos.names == ('00.png', '02.png', '03.png')
  assert scene.visibility.offsets[:4].tolist() == [0, 2, 2, 3]
  assert scene.visibility.photo_idx.tolist() == [2, 0, 1]


def test_points_that_are_not_finite_are_dropped_with_their_views(tmp_path):
  folder = builders.infnerf(tmp_path)
  positions = builders.points()
  positions[0], positions[7, 2] = np.nan, np.inf
  builders.save_ply(folder / 'sparse_points.ply', positions, text=True)
  np.savez(
      folder / 'visibility.npz',
      offsets=np.arange(21),
      photo_idx=np.arange(20) % 4,
  )
  scene = readers.load_scene(folder)
  assert scene.report['num_points_dropped'] == 2
  assert len(scene.points.positions) == 18
  expected = [p % 4 for p in range(20) if p not in (0, 7)]
  assert scene.visibility.photo_idx.tolist() == expected
  assert scene.visibility.offsets.tolist() == list(range(19))


def test_large_coordinates(tmp_path):
  center = np.array([1.2e6, -4.7e6, 4.0e6])
  scene = readers.load_scene(builders.infnerf(tmp_path, center=center))
  offset = np.array(scene.frame['offset'])
  for row in range(4):
    centre = scene.cameras.cam_to_world[row, :, 3] + offset
    expected = builders.pose(row, center)[:3, 3]
    assert np.abs(centre - expected).max() < 1e-3
  positions = scene.points.positions + offset
  assert np.abs(positions - builders.points(center=center)).max() < 1e-3
  assert np.abs(scene.cameras.cam_to_world[:, :, 3]).max() < 20


def test_scene_json_and_recentring_compose(tmp_path):
  center = np.array([2e5, 0, 0])
  folder = builders.infnerf(tmp_path, center=center)
  turn = builders.rotation(3)
  (folder / 'scene.json').write_text(
      json.dumps(
          {
              'coordinate_system': 'east-north-up',
              'offset': [1.0, 2.0, 3.0],
              'rotation': turn.tolist(),
          }
      )
  )
  scene = readers.load_scene(folder)
  frame = scene.frame
  assert frame['coordinate_system'] == 'east-north-up'
  # scene = rotation (source - offset), before and after the shift.
  source = builders.points(center=center) @ turn + [1, 2, 3]
  moved = (source - frame['offset']) @ np.array(frame['rotation']).T
  np.testing.assert_allclose(scene.points.positions, moved, atol=1e-8)


def test_bad_headers_are_left_out(tmp_path):
  folder = builders.infnerf(tmp_path, num_photos=5)
  (folder / 'images' / '01.png').write_bytes(b'')
  (folder / 'images' / '03.png').write_bytes(b'no photo')
  scene = readers.load_scene(folder)
  assert scene.photos.names == ('00.png', '02.png', '04.png')
  assert scene.report['photos_damaged'] == [
      ['01.png', 'zero bytes'],
      ['03.png', 'not an image that can be read'],
  ]


def test_fewer_than_two_photos(tmp_path):
  folder = builders.infnerf(tmp_path, num_photos=3)
  (folder / 'images' / '00.png').unlink()
  (folder / 'images' / '01.png').write_bytes(b'')
  _expect(folder, 'got 1 usable of 3 listed .1 absent, 1 damaged.*at least 2')


def _mirror(entries):
  pose = np.array(entries['02.png']['extrinsic'])
  pose[0] *= -1
  entries['02.png']['extrinsic'] = pose.tolist()


def _without(field):
  def edit(entries):
    del entries['02.png'][field]

  return edit


def _rename(name):
  def edit(entries):
    entries[name] = entries.pop('02.png')

  return edit


_NAN_POSE = [[float('nan')] * 4] * 4
_K = [[50, 0, 24], [0, 50, 18], [0, 0, 1]]


@pytest.mark.parametrize(
    'edit, message',
    [
        (_mirror, '02.png: extrinsic: got a mirrored pose'),
        (_set('extrinsic', np.ones((4, 4)).tolist()), 'last row'),
        (_set('extrinsic', np.diag([1, 1, 2, 1]).tolist()), 'not orthonormal'),
        (_set('extrinsic', _NAN_POSE), '02.png: extrinsic: got nan'),
        (_set('extrinsic', np.eye(3).tolist()), 'got 3x3, expected 4x4 or 3x4'),
        (_without('extrinsic'), '02.png: extrinsic: got nothing'),
        (_without('intrinsic'), '02.png: intrinsic: got nothing'),
        (_set('intrinsic', [[50, 0], [0, 50]]), 'intrinsic: got 2x2'),
        (_set('intrinsic', np.diag([0, 50, 1]).tolist()), 'fx: got 0.0'),
        (_set('intrinsic', np.diag([50, -50, 1]).tolist()), 'fy: got -50'),
        (_set('intrinsic', np.diag([5, 5, 5]).tolist()), 'intrinsic: got'),
        (_set('width', -48), '02.png: width: got -48'),
        (_set('height', '36'), "02.png: height: got '36'"),
        (_set('width', 60), '02.png: width x height: got a photo of 48x36'),
        (_set('distortion', [1]), '02.png: distortion: got'),
        (_set('distortion', {'model': 'X', 'params': []}), 'model: got X'),
        (
            _set('distortion', {'model': 'OPENCV', 'params': [1, 2, 3]}),
            'params of OPENCV: got 3, expected 8',
        ),
        (
            _set('distortion', {'model': 'OPENCV', 'params': [9] * 8}),
            'expected those of intrinsic',
        ),
        (
            _set('distortion', {'model': 'OPENCV', 'params': ['a'] * 4}),
            'expected numbers',
        ),
        (_set('mask', '../../m.png'), '02.png: mask: got'),
        (_rename('../02.png'), 'photo ../02.png: got .*inside the scene'),
        (_rename('/tmp/02.png'), 'photo /tmp/02.png: got'),
        (lambda entries: entries.update({'04.png': 3}), '04.png: got .3'),
    ],
)
def test_bad_input_is_one_line(tmp_path, edit, message):
  _expect(builders.infnerf(tmp_path, edit=edit), message)


@pytest.mark.parametrize('keep', [0, 20, 100, -5])
@pytest.mark.parametrize('text', [False, True])
def test_cut_ply(tmp_path, keep, text):
  folder = builders.infnerf(tmp_path)
  path = folder / 'sparse_points.ply'
  builders.save_ply(path, builders.points(), text=text)
  path.write_bytes(path.read_bytes()[:keep])
  _expect(folder, 'sparse_points.ply: got .*expected a PLY file')


def test_empty_and_useless_ply(tmp_path):
  folder = builders.infnerf(tmp_path)
  path = folder / 'sparse_points.ply'
  builders.save_ply(path, np.zeros((0, 3)))
  _expect(folder, 'sparse_points.ply: vertex: got 0 points')
  builders.save_ply(path, np.full((3, 3), np.nan))
  _expect(folder, 'vertex: got 3 points, 0 of them finite')
  path.write_text(
      'ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\n'
      'end_header\n1\n'
  )
  _expect(folder, 'got no y, z')


@pytest.mark.parametrize(
    'arrays, message',
    [
        ({'offsets': [0, 1], 'photo_idx': [0]}, 'offsets: got'),
        ({'offsets': range(21), 'photo_idx': [9] * 20}, 'photo_idx: got 9'),
        ({'offsets': range(21), 'photo_idx': [0] * 19}, 'offsets: got'),
        ({'offsets': range(21)}, 'photo_idx: got nothing'),
    ],
)
def test_bad_visibility(tmp_path, arrays, message):
  folder = builders.infnerf(tmp_path)
  np.savez(
      folder / 'visibility.npz', **{k: np.array(v) for k, v in arrays.items()}
  )
  _expect(folder, message)


def test_visibility_is_no_archive(tmp_path):
  folder = builders.infnerf(tmp_path)
  (folder / 'visibility.npz').write_bytes(b'PK\x03\x04 cut')
  _expect(folder, 'visibility.npz: cannot be read')


def test_unknown_formats(tmp_path):
  _expect(tmp_path / 'nowhere', 'no such folder')
  _expect(tmp_path, 'cameras.json.*transforms.json.*COLMAP')
  (tmp_path / 'x.txt').write_text('')
  _expect(tmp_path / 'x.txt', 'got a file')


@pytest.mark.parametrize('text', ['', '[]', '{"a": ', '\ufeff{"a.png": null}'])
def test_bad_json(tmp_path, text):
  (tmp_path / 'cameras.json').write_text(text)
  _expect(tmp_path, 'cameras.json: ')


def test_infnerf_goes_before_the_others(tmp_path):
  builders.transforms(tmp_path)
  assert readers.detect_format(tmp_path) == 'transforms'
  builders.infnerf(tmp_path)
  assert readers.detect_format(tmp_path) == 'infnerf'
  assert readers.detect_format(tmp_path / 'transforms.json') == 'transforms'
