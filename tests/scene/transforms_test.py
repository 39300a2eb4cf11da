"""transforms.json in the dialects of nerfstudio and instant-ngp."""

import json
import math

import numpy as np
import PIL.Image
import pycolmap
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import decode, readers, transforms, write
from tests.scene import builders


def _project(scene, row, positions):
  camera = cameras_lib.take(scene.cameras, row)
  return cameras_lib.project(camera, positions)[0]


def _expected(model, params, row, positions):
  """Pixels by pycolmap for the pose of photo `row`."""
  camera = pycolmap.Camera(model=model, width=48, height=36, params=params)
  world_to_cam = np.linalg.inv(builders.pose(row))
  local = positions @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
  return camera.img_from_cam(local)


@pytest.mark.parametrize(
    'model, fields',
    [
        ('PINHOLE', {'camera_model': 'PINHOLE'}),
        ('OPENCV', {'k1': -0.05, 'k2': 0.02, 'p1': 0.003, 'p2': -0.002}),
        (
            'OPENCV_FISHEYE',
            {
                'camera_model': 'OPENCV_FISHEYE',
                'k1': 0.05, 'k2': -0.01, 'k3': 0.004, 'k4': 0.002,
            },
        ),
        (
            'FULL_OPENCV',
            {
                'camera_model': 'FULL_OPENCV',
                'k1': 0.05, 'k2': 0.02, 'p1': 0.003, 'p2': -0.002,
                'k3': 0.01, 'k4': 0.1, 'k5': 0.03, 'k6': 0.02,
            },
        ),
        ('FISHEYE', {'is_fisheye': True}),
    ],
)  # fmt: skip
def test_reprojection_equals_pycolmap(tmp_path, model, fields):
  builders.transforms(tmp_path, fields=fields)
  scene = readers.load_scene(tmp_path)
  names = ('k1', 'k2', 'p1', 'p2', 'k3', 'k4', 'k5', 'k6')
  coefficients = [fields[name] for name in names if name in fields]
  positions = builders.points()
  for row in range(4):
    got = _project(scene, row, positions)
    expected = _expected(
        model, [50, 51, 24.5, 17.5] + coefficients, row, positions
    )
    assert np.abs(got - expected).max() < 1e-6


def test_angles_of_view_and_defaults(tmp_path):
  def edit(content):
    for field in ('fl_x', 'fl_y', 'cx', 'cy', 'w', 'h'):
      del content[field]
    content['camera_angle_x'] = 0.8
    content['frames'][1]['camera_angle_x'] = 1.0
    content['frames'][2].update(fl_x=70.0, cx=20.0)
    content['frames'][3]['y_fov'] = 40.0

  builders.transforms(tmp_path, edit=edit)
  got = readers.load_scene(tmp_path).cameras.intrinsics
  wide = 24 / math.tan(0.4), 24 / math.tan(0.5), 18 / math.tan(math.pi / 9)
  expected = [
      [wide[0], wide[0], 24, 18],
      [wide[1], wide[1], 24, 18],
      [70, 70, 20, 18],
      [wide[2], wide[2], 24, 18],
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_per_frame_intrinsics_sizes_and_lens(tmp_path):
  def edit(content):
    builders.save_photo(tmp_path / 'images' / '02.png', size=(60, 40))
    content['frames'][2].update(
        w=60, h=40.0, fl_x=71, fl_y=72, cx=30, cy=20, k1=0.125
    )

  builders.transforms(tmp_path, edit=edit)
  cameras = readers.load_scene(tmp_path).cameras
  assert cameras.intrinsics[2].tolist() == [71, 72, 30, 20]
  assert cameras.distortion[:, 0].tolist() == [0, 0, 0.125, 0]
  assert (cameras.width[2], cameras.height[2]) == (60, 40)


def test_unsorted_frames_missing_extensions_and_dots(tmp_path):
  def edit(content):
    for frame in content['frames']:
      frame['file_path'] = './' + frame['file_path'].removesuffix('.JPG')
    content['frames'].reverse()

  builders.transforms(tmp_path, edit=edit, suffix='.JPG')
  scene = readers.load_scene(tmp_path)
  assert scene.photos.names == tuple(f'{i:02d}.JPG' for i in range(4))
  for row in range(4):
    np.testing.assert_allclose(
        scene.cameras.cam_to_world[row], builders.pose(row)[:3], atol=1e-12
    )


def test_windows_separators_and_other_folders(tmp_path):
  def edit(content):
    for frame in content['frames'][:2]:
      frame['file_path'] = frame['file_path'].replace('/', '\\')
    builders.save_photo(tmp_path / 'more' / 'x.png')
    content['frames'][3]['file_path'] = 'more/x.png'

  builders.transforms(tmp_path, edit=edit)
  names = readers.load_scene(tmp_path).photos.names
  assert names == ('images/00.png', 'images/01.png', 'images/02.png',
                   'more/x.png')  # fmt: skip


def test_instant_ngp_s_masks_of_what_moves(tmp_path):
  """Beside the photo, by its name; pixels other than zero are left out."""
  folder = builders.transforms(tmp_path / 'scene')
  source = transforms.read(folder / 'transforms.json')
  moving = np.zeros((36, 48, 3), np.uint8)
  moving[3:9, 10:20, 1] = 1
  path = source.paths[1].with_name(f'dynamic_mask_{source.paths[1].stem}.png')
  PIL.Image.fromarray(moving).save(path)
  scene = readers.load_scene(folder)
  assert [bool(p) for p in scene.photos.mask_paths] == [False, True] + [
      False
  ] * (len(scene.photos.names) - 2)
  counts = moving.max(axis=-1) == 0
  mask = decode.read_mask(scene.photos.mask_paths[1], (36, 48))
  np.testing.assert_array_equal(mask, counts)
  # The InfNeRF format knows one kind of mask only.
  out = write.write_infnerf(scene, tmp_path / 'out', show_progress=False)
  again = readers.load_scene(out).photos.mask_paths[1]
  assert not decode.is_dynamic_mask(again)
  np.testing.assert_array_equal(decode.read_mask(again, (36, 48)), counts)
  path.write_bytes(b'cut')
  with pytest.raises(errors.InputError, match='dynamic_mask_01.png: got'):
    write.write_infnerf(scene, tmp_path / 'two', show_progress=False)


def test_points_masks_and_applied_transform(tmp_path):
  applied = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]

  def edit(content):
    content['ply_file_path'] = 'clouds/sparse.ply'
    content['applied_transform'] = applied
    content['applied_scale'] = 0.5
    content['frames'][1]['mask_path'] = 'masks/01.png'

  builders.transforms(tmp_path, edit=edit)
  (tmp_path / 'clouds').mkdir()
  (tmp_path / 'masks').mkdir()
  PIL.Image.new('L', (48, 36)).save(tmp_path / 'masks' / '01.png')
  builders.save_ply(tmp_path / 'clouds' / 'sparse.ply', builders.points())
  scene = readers.load_scene(tmp_path / 'transforms.json')
  # The frame stays the file's: points and poses as they are written.
  np.testing.assert_allclose(
      scene.points.positions, builders.points().astype(np.float32)
  )
  assert scene.frame['applied_transform'] == applied
  assert scene.frame['applied_scale'] == 0.5
  assert scene.visibility is None
  assert scene.report['visibility'] == 'none'
  masks = [path and path.name for path in scene.photos.mask_paths]
  assert masks == [None, '01.png', None, None]


def test_points_beside_and_none(tmp_path):
  builders.transforms(tmp_path)
  assert readers.load_scene(tmp_path).points is None
  builders.save_ply(tmp_path / 'sparse_points.ply', builders.points())
  assert len(readers.load_scene(tmp_path).points.positions) == 20


def test_listed_but_absent(tmp_path):
  builders.transforms(tmp_path)
  (tmp_path / 'images' / '01.png').unlink()
  scene = readers.load_scene(tmp_path)
  assert scene.report['photos_absent'] == ['01.png']
  assert scene.report['photos_listed'] == 4
  assert len(scene.photos.names) == 3


def _mirror(content):
  matrix = np.array(content['frames'][2]['transform_matrix'])
  matrix[:3, 0] *= -1
  content['frames'][2]['transform_matrix'] = matrix.tolist()


def _scale(content):
  matrix = np.array(content['frames'][2]['transform_matrix'])
  matrix[:3, :3] *= 1.01
  content['frames'][2]['transform_matrix'] = matrix.tolist()


def _set(field, value, frame=2):
  def edit(content):
    target = content if frame is None else content['frames'][frame]
    target[field] = value

  return edit


def _not_a_number(content):
  content['frames'][2]['transform_matrix'][0][3] = float('nan')


@pytest.mark.parametrize(
    'edit, message',
    [
        (_mirror, 'photo 02.png: transform_matrix: got a mirrored pose'),
        (_scale, 'photo 02.png: transform_matrix: .*not orthonormal'),
        (_not_a_number, 'photo 02.png: transform_matrix: got nan'),
        (_set('transform_matrix', [[1, 2], [3, 4]]), 'got 2x2, expected 4x4'),
        (_set('transform_matrix', 'identity'), 'transform_matrix: got .ident'),
        (_set('fl_x', 0), '02.png: focal length fx: got 0.0'),
        (_set('fl_y', -3, None), '00.png: focal length fy: got -3'),
        (_set('fl_x', 'wide'), "02.png: fl_x: got 'wide'"),
        (_set('cx', float('nan')), '02.png: cx: got nan'),
        (_set('k1', None), '02.png: k1: got None'),
        (_set('w', 47.5), '02.png: w: got 47.5'),
        (_set('h', 0), '02.png: h: got 0'),
        (_set('w', 24), '02.png: width x height: got a photo of 48x36'),
        (_set('camera_model', 'EQUIRECTANGULAR'), 'camera_model: got EQUIRECT'),
        (_set('k4', 0.5), '02.png: k4: got 0.5'),
        (_set('file_path', '../secret.png'), r'frames\[2\].*secret'),
        (_set('file_path', '/etc/passwd'), r'frames\[2\].*passwd'),
        (_set('file_path', 'C:\\x.png'), r'frames\[2\].*inside the scene'),
        (_set('file_path', 'a/../../b.png'), r'frames\[2\].*inside the scene'),
        (_set('file_path', 7), r'frames\[2\].*got 7, expected a relative'),
        (_set('mask_path', '../m.png'), r'frames\[2\]: mask_path: got'),
        (_set('file_path', 'images/01.png'), '01.png: got it twice'),
        (_set('ply_file_path', '../p.ply', None), 'ply_file_path: got'),
        (_set('ply_file_path', 'p.ply', None), 'p.ply, which is absent'),
        (_set('frames', [], None), 'frames: got'),
        (_set('frames', [{}], None), r'frames\[0\]: file_path: got nothing'),
    ],
)
def test_bad_input_is_one_line(tmp_path, edit, message):
  builders.transforms(tmp_path, edit=edit)
  with pytest.raises(errors.InputError, match=message) as caught:
    readers.load_scene(tmp_path)
  assert '\n' not in str(caught.value)
  assert 'transforms.json' in str(caught.value)


@pytest.mark.parametrize('text', ['', '{"frames": [', '[1, 2]', '\x00'])
def test_not_json(tmp_path, text):
  (tmp_path / 'transforms.json').write_text(text)
  with pytest.raises(errors.InputError, match='transforms.json: got') as caught:
    readers.load_scene(tmp_path)
  assert '\n' not in str(caught.value)


def test_missing_fields(tmp_path):
  folder = builders.transforms(tmp_path)
  content = json.loads((folder / 'transforms.json').read_text())
  del content['fl_x'], content['fl_y']
  (folder / 'transforms.json').write_text(json.dumps(content))
  with pytest.raises(errors.InputError, match='fl_x or camera_angle_x'):
    readers.load_scene(folder)
  del content['frames'][0]['transform_matrix']
  content['fl_x'] = 50
  (folder / 'transforms.json').write_text(json.dumps(content))
  with pytest.raises(errors.InputError, match='transform_matrix: got nothing'):
    readers.load_scene(folder)
