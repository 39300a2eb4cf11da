"""COLMAP models: every lens against pycolmap's own projection, both forms."""

import pathlib

import numpy as np
import PIL.Image
import pycolmap
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import colmap_check, readers
from tests.scene import builders


def _reprojections(scene, model):
  """Ours and pycolmap's pixels [N, P, 2] of all points in all photos."""
  ours, theirs = [], []
  images = {image.name: image for image in model.images.values()}
  for row, name in enumerate(scene.photos.names):
    camera = cameras_lib.take(scene.cameras, row)
    pixels, _ = cameras_lib.project(camera, scene.points.positions)
    image = images[name]
    local = image.cam_from_world() * scene.points.positions
    ours.append(pixels)
    theirs.append(model.cameras[image.camera_id].img_from_cam(local))
  return np.stack(ours), np.stack(theirs)


@pytest.mark.parametrize('text', [False, True])
@pytest.mark.parametrize('model', list(builders.COLMAP_PARAMS))
def test_reprojection_equals_pycolmap(tmp_path, model, text):
  folder, reference = builders.colmap(tmp_path, models=(model,), text=text)
  scene = readers.load_scene(folder)
  ours, theirs = _reprojections(scene, reference)
  assert np.abs(ours - theirs).max() < 1e-6
  assert scene.report['format'] == 'colmap'


def test_many_cameras_of_many_sizes(tmp_path):
  models = ('OPENCV', 'SIMPLE_PINHOLE', 'OPENCV_FISHEYE')
  sizes = [(48, 36), (60, 40), (30, 50)]
  folder, reference = builders.colmap(tmp_path, models=models, sizes=sizes)
  scene = readers.load_scene(folder)
  ours, theirs = _reprojections(scene, reference)
  assert np.abs(ours - theirs).max() < 1e-6
  assert scene.cameras.width.tolist() == [48, 60, 30, 48]
  assert scene.cameras.height.tolist() == [36, 40, 50, 36]


@pytest.mark.parametrize('text', [False, True])
@pytest.mark.parametrize('where', ['sparse/0', 'sparse', '.'])
def test_folders_and_names_with_spaces(tmp_path, where, text):
  names = ['b dir/photo 2.png', 'a.png', 'b dir/photo 1.png']
  folder, _ = builders.colmap(tmp_path, where=where, names=names, text=text)
  scene = readers.load_scene(folder)
  assert scene.photos.names == tuple(sorted(names))
  assert all(path.is_file() for path in scene.photos.paths)


def test_model_folder_finds_photos_above(tmp_path):
  builders.colmap(tmp_path)
  scene = readers.load_scene(tmp_path / 'sparse' / '0')
  assert len(scene.photos.names) == 4


def test_visibility_and_colors(tmp_path):
  names = ['d.png', 'b.png', 'c.png', 'a.png']  # ids are not in name order
  folder, _ = builders.colmap(tmp_path, names=names)
  scene = readers.load_scene(folder)
  for p in range(len(scene.points.positions)):
    first, last = scene.visibility.offsets[p : p + 2]
    got = {
        scene.photos.names[i] for i in scene.visibility.photo_idx[first:last]
    }
    assert got == {names[i] for i in range(4) if (p + i) % 3}
    assert scene.points.colors[p].tolist() == [p, 2 * p, 3 * p]


def test_absent_photo_leaves_visibility_of_others(tmp_path):
  folder, _ = builders.colmap(tmp_path)
  (folder / 'images' / '01.png').unlink()
  scene = readers.load_scene(folder)
  assert scene.report['photos_absent'] == ['01.png']
  assert scene.report['num_photos_absent'] == 1
  first, last = scene.visibility.offsets[:2]
  seen = [scene.photos.names[i] for i in scene.visibility.photo_idx[first:last]]
  assert seen == ['02.png']  # point 0: photos 1 and 2 of 0..3


def test_largest_of_several_models(tmp_path):
  builders.colmap(tmp_path, names=['00.png', '01.png'])
  builders.colmap(tmp_path, where='sparse/1')
  scene = readers.load_scene(tmp_path)
  assert scene.report['models'] == {'sparse/0': 2, 'sparse/1': 4}
  assert scene.report['model'] == 'sparse/1'
  assert 'sparse/1' in scene.report['notes'][0]
  assert len(scene.photos.names) == 4


def test_masks_by_both_names(tmp_path):
  folder, _ = builders.colmap(tmp_path)
  (folder / 'masks').mkdir()
  for name in ('00.png.png', '02.png'):
    PIL.Image.new('L', (48, 36)).save(folder / 'masks' / name)
  scene = readers.load_scene(folder)
  got = [path and path.name for path in scene.photos.mask_paths]
  assert got == ['00.png.png', None, '02.png', None]
  assert scene.report['num_masks'] == 2


def test_large_coordinates_are_recentred(tmp_path):
  center = (431234.5, 5412345.25, 312.125)
  folder, reference = builders.colmap(tmp_path, center=center)
  scene = readers.load_scene(folder)
  offset = np.array(scene.frame['offset'])
  assert np.array_equal(offset, np.round(offset))
  assert np.abs(scene.cameras.cam_to_world[:, :, 3]).max() < 20
  back = scene.points.positions + offset
  assert np.abs(back - builders.points(center=center)).max() < 1e-6
  images = {image.name: image for image in reference.images.values()}
  for row, name in enumerate(scene.photos.names):
    centre = scene.cameras.cam_to_world[row, :, 3] + offset
    expected = images[name].projection_center()
    assert np.abs(centre - expected).max() < 1e-3


@pytest.mark.parametrize('model, count', [('FOV', 5), ('EUCM', 6)])
def test_other_lenses_are_refused(tmp_path, model, count):
  folder, _ = builders.colmap(tmp_path, text=True)
  cameras = folder / 'sparse' / '0' / 'cameras.txt'
  cameras.write_text(f'1 {model} 48 36 {" ".join(["0.5"] * count)}\n')
  with pytest.raises(errors.InputError, match=f'camera 1.*{model}.*OPENCV'):
    readers.load_scene(folder)


@pytest.mark.parametrize('focal', [0.0, -5.0, float('nan'), float('inf')])
def test_focal_length(tmp_path, focal):
  folder, reference = builders.colmap(tmp_path, models=('PINHOLE',))
  camera = reference.cameras[1]
  camera.params = np.array([focal, 50, 24, 18])
  reference.write_binary(str(folder / 'sparse' / '0'))
  with pytest.raises(errors.InputError, match='00.png: focal length fx: got'):
    readers.load_scene(folder)


def test_nan_pose(tmp_path):
  folder, _ = builders.colmap(tmp_path, text=True)
  path = folder / 'sparse' / '0' / 'frames.txt'
  lines = path.read_text().splitlines()
  fields = lines[-1].split()
  fields[2] = 'nan'
  path.write_text('\n'.join(lines[:-1] + [' '.join(fields)]) + '\n')
  with pytest.raises(errors.InputError) as caught:
    readers.load_scene(folder)
  assert '\n' not in str(caught.value)


def test_names_that_leave_the_folder(tmp_path):
  names = ['00.png', '../outside.png', '02.png']
  folder, _ = builders.colmap(tmp_path / 'scene', names=names)
  with pytest.raises(errors.InputError, match='outside.png.*inside the scene'):
    readers.load_scene(folder)


@pytest.mark.parametrize(
    'name', ['cameras.bin', 'images.bin', 'points3D.bin', 'frames.bin',
             'rigs.bin']
)  # fmt: skip
@pytest.mark.parametrize('keep', [0, 5, 0.5, -3])
def test_cut_binary_files(tmp_path, name, keep):
  folder, _ = builders.colmap(tmp_path)
  path = folder / 'sparse' / '0' / name
  content = path.read_bytes()
  count = int(keep * len(content)) if isinstance(keep, float) else keep
  path.write_bytes(content[:count])
  with pytest.raises(errors.InputError, match=f'{name}: got a file of'):
    readers.load_scene(folder)


def test_whole_files_of_every_lens_pass_the_check(tmp_path):
  models = list(pycolmap.CameraModelId.__members__)
  models = [name for name in models if name != 'INVALID']
  reference = pycolmap.Reconstruction()
  for i, model in enumerate(models):
    camera = pycolmap.Camera.create_from_model_name(i + 1, model, 50.0, 48, 36)
    reference.add_camera_with_trivial_rig(camera)
  reference.write_binary(str(tmp_path))
  colmap_check.check_binary(tmp_path)
  content = (tmp_path / 'cameras.bin').read_bytes()
  (tmp_path / 'cameras.bin').write_bytes(content + b'\0')
  with pytest.raises(errors.InputError, match='1 bytes after record'):
    colmap_check.check_binary(tmp_path)


@pytest.mark.parametrize('name', ['cameras.txt', 'images.txt', 'frames.txt'])
def test_malformed_text(tmp_path, name):
  folder, _ = builders.colmap(tmp_path, text=True)
  path = pathlib.Path(folder / 'sparse' / '0' / name)
  path.write_text('1 what is this\n')
  with pytest.raises(errors.InputError) as caught:
    readers.load_scene(folder)
  assert '\n' not in str(caught.value)


def test_photos_absent_altogether(tmp_path):
  folder, _ = builders.colmap(tmp_path, photos=False)
  with pytest.raises(errors.InputError, match='images: got no such folder'):
    readers.load_scene(folder)
