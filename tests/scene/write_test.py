"""Scenes written in the InfNeRF format read back as they were."""

import json

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.scene import readers, write
from tests.scene import builders


def _assert_same(one, two):
  assert one.photos.names == two.photos.names
  for field in ('projection', 'intrinsics', 'distortion', 'width', 'height'):
    np.testing.assert_array_equal(
        getattr(one.cameras, field), getattr(two.cameras, field)
    )
  # The file holds the inverse pose.
  np.testing.assert_allclose(
      one.cameras.cam_to_world, two.cameras.cam_to_world, rtol=0, atol=1e-12
  )
  assert (one.points is None) == (two.points is None)
  if one.points is not None:
    np.testing.assert_array_equal(one.points.positions, two.points.positions)
    np.testing.assert_array_equal(one.points.colors, two.points.colors)
  assert (one.visibility is None) == (two.visibility is None)
  if one.visibility is not None:
    for a, b in zip(one.visibility, two.visibility, strict=True):
      np.testing.assert_array_equal(a, b)
      assert a.dtype == b.dtype
  assert one.frame == two.frame
  for a, b in zip(one.photos.paths, two.photos.paths, strict=True):
    assert a.read_bytes() == b.read_bytes()
  for a, b in zip(one.photos.mask_paths, two.photos.mask_paths, strict=True):
    assert (a is None) == (b is None)
    assert a is None or a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize('models', [[m] for m in builders.COLMAP_PARAMS])
def test_every_lens(tmp_path, models):
  folder, _ = builders.colmap(tmp_path / 'source', models=models)
  scene = write.convert(folder, tmp_path / 'out', show_progress=False)
  _assert_same(scene, readers.load_scene(tmp_path / 'out'))


def test_mixed_sizes_spaces_subfolders_masks_and_far_coordinates(tmp_path):
  names = ['b dir/p 2.png', 'a.png', 'b dir/p 1.png']
  folder, _ = builders.colmap(
      tmp_path / 'source',
      models=('OPENCV', 'OPENCV_FISHEYE', 'FULL_OPENCV'),
      sizes=[(48, 36), (60, 40), (30, 50)],
      names=names,
      center=(431234.5, 5412345.25, 312.125),
  )
  (folder / 'masks' / 'b dir').mkdir(parents=True)
  PIL.Image.new('L', (48, 36)).save(folder / 'masks' / 'b dir' / 'p 2.png')
  scene = write.prepare_colmap_data(
      folder, tmp_path / 'out', show_progress=False
  )
  assert scene.report['num_masks'] == 1
  again = readers.load_scene(tmp_path / 'out')
  _assert_same(scene, again)
  assert again.report['source_report']['format'] == 'colmap'
  assert np.abs(again.frame['offset']).max() > 1e6


def test_transforms_with_absent_photos(tmp_path):
  folder = builders.transforms(
      tmp_path / 'source', fields={'applied_scale': 2.0, 'k1': 0.01}
  )
  (folder / 'images' / '02.png').unlink()
  scene = write.convert(folder, tmp_path / 'out', show_progress=False)
  again = readers.load_scene(tmp_path / 'out')
  _assert_same(scene, again)
  assert again.points is None
  assert again.report['source_report']['photos_absent'] == ['02.png']


def test_links(tmp_path):
  folder = builders.infnerf(tmp_path / 'source')
  scene = readers.load_scene(folder)
  write.write_infnerf(
      scene, tmp_path / 'out', copy_photos=False, show_progress=False
  )
  again = readers.load_scene(tmp_path / 'out')
  assert all(path.is_symlink() for path in again.photos.paths)
  _assert_same(scene, again)


def test_target_must_be_new_or_empty(tmp_path):
  scene = readers.load_scene(builders.infnerf(tmp_path / 'source'))
  out = tmp_path / 'out'
  put = lambda target, **options: write.write_infnerf(
      scene, target, show_progress=False, **options
  )
  out.mkdir()
  put(out)
  with pytest.raises(errors.InputError, match='out: got a folder that holds'):
    put(out)
  put(out, overwrite=True)
  _assert_same(scene, readers.load_scene(out))
  with pytest.raises(errors.InputError, match='source photos'):
    put(tmp_path / 'source', overwrite=True)
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'diary.txt').write_text('dear')
  with pytest.raises(errors.InputError, match='mine: got a folder that holds'):
    put(tmp_path / 'mine', overwrite=True)
  with pytest.raises(errors.InputError, match='got a file'):
    put(tmp_path / 'mine' / 'diary.txt')


def test_killed_half_way_leaves_no_scene(tmp_path, monkeypatch):
  scene = readers.load_scene(builders.infnerf(tmp_path / 'source'))
  out = tmp_path / 'out'
  original = json.dumps

  def fails(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(json, 'dumps', fails)
  with pytest.raises(KeyboardInterrupt):
    write.write_infnerf(scene, out, show_progress=False)
  assert not out.exists()
  monkeypatch.setattr(json, 'dumps', original)
  write.write_infnerf(scene, out, show_progress=False)
  _assert_same(scene, readers.load_scene(out))
  assert not (tmp_path / 'out.partial').exists()


def test_prepare_colmap_data_wants_colmap(tmp_path):
  folder = builders.infnerf(tmp_path / 'source')
  with pytest.raises(errors.InputError, match='no COLMAP model'):
    write.prepare_colmap_data(folder, tmp_path / 'out')


def test_sixteen_digits_survive(tmp_path):
  def edit(entries):
    entries['00.png']['intrinsic'][0][0] = 50.000000000000014

  folder = builders.infnerf(tmp_path / 'source', edit=edit)
  scene = write.convert(folder, tmp_path / 'out', show_progress=False)
  assert scene.cameras.intrinsics[0, 0] == 50.000000000000014
  text = (tmp_path / 'out' / 'cameras.json').read_text()
  assert '50.000000000000014' in text
