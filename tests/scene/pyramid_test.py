"""The pyramid's cache: what it holds, when it is rebuilt, what is left out."""

import json
import os

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.scene import decode, pyramid, pyramid_cache, readers
from tests.scene import builders


def _build(scene, tmp_path, **options):
  options = {'num_levels': 3, 'show_progress': False, **options}
  return pyramid.build(scene, tmp_path / 'cache', **options)


def _scene(tmp_path, **options):
  return readers.load_scene(builders.infnerf(tmp_path / 'scene', **options))


def _expected(scene, row, level, *, downscale=1.0):
  photo = decode.decode(
      scene.photos.paths[row],
      scene.photos.mask_paths[row],
      (scene.cameras.width[row], scene.cameras.height[row]),
      downscale=downscale,
      num_levels=3,
  )
  valid = None if photo.valid is None else photo.valid[level] != 0
  return photo.rgb[level], valid


def _all_pixels(result, row, level):
  """`gather` for every pixel of a photo's level: ([H, W, 3], [H, W])."""
  width, height = result.sizes[row, level]
  y, x = np.mgrid[:height, :width].reshape(2, -1)
  same = np.zeros_like(x)
  rgb, valid = pyramid.gather(result, same + row, same + level, x, y)
  return rgb.reshape(height, width, 3), valid.reshape(height, width)


# A cache for everything, for two of the four photos, for none.
@pytest.mark.parametrize('cache_gb, num_cached', [(1, 4), (2e-5, 2), (0, 0)])
@pytest.mark.parametrize('downscale', [1.0, 1.5])
def test_holds_the_photos(tmp_path, cache_gb, num_cached, downscale):
  def edit(entries):
    entries['01.png']['mask'] = 'm.png'

  scene = _scene(tmp_path, edit=edit)
  mask = np.random.default_rng(0).random((36, 48)) > 0.1
  PIL.Image.fromarray((mask * 255).astype(np.uint8)).save(
      tmp_path / 'scene' / 'm.png'
  )
  cache_gb /= downscale**2
  result, usable, damaged = _build(
      scene, tmp_path, cache_gb=cache_gb, downscale=downscale
  )
  assert (result.offsets >= 0).sum() == num_cached
  assert usable.tolist() == [0, 1, 2, 3] and not damaged
  for row in range(4):
    for level in range(3):
      rgb, valid = _expected(scene, row, level, downscale=downscale)
      if row == 1 and level == 0:
        assert 0 < valid.mean() < 1
      valid = np.ones(rgb.shape[:2], bool) if valid is None else valid
      for got in (
          pyramid.photo(result, row, level),
          _all_pixels(result, row, level),
      ):
        np.testing.assert_array_equal(got[0], rgb)
        np.testing.assert_array_equal(got[1], valid)


def test_mixed_sizes_and_mixed_rays(tmp_path):
  folder, _ = builders.colmap(
      tmp_path / 'scene',
      models=('OPENCV', 'PINHOLE'),
      sizes=[(48, 36), (61, 40)],
  )
  scene = readers.load_scene(folder)
  result, _, _ = _build(scene, tmp_path, cache_gb=2e-5)
  assert (result.offsets >= 0).tolist() == [True, True, False, False]
  rng = np.random.default_rng(0)
  row, level = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
  size = result.sizes[row, level]
  x, y = (rng.random((300, 2)) * size).astype(int).T
  rgb, valid = pyramid.gather(result, row, level, x, y)
  assert valid.all()
  for i in range(300):
    photo, _ = _expected(scene, row[i], level[i])
    assert rgb[i].tolist() == photo[y[i], x[i]].tolist()


def _damage(scene, row, content=None):
  path = scene.photos.paths[row]
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2] if content is None else content)


@pytest.mark.parametrize('cache_gb', [1, 0])
def test_damaged_photos_are_left_out(tmp_path, cache_gb):
  scene = _scene(tmp_path, num_photos=20)
  _damage(scene, 3)
  _damage(scene, 11, b'')
  result, usable, damaged = _build(scene, tmp_path, cache_gb=cache_gb)
  assert [name for name, _ in damaged] == ['03.png', '11.png']
  assert damaged[1][1] == 'zero bytes'
  assert usable.tolist() == [i for i in range(20) if i not in (3, 11)]
  # Rows of the pyramid are rows of the selected scene.
  assert result.photos.names == tuple(scene.photos.names[i] for i in usable)
  photo, _ = _expected(scene, 4, 0)
  np.testing.assert_array_equal(pyramid.photo(result, 3, 0)[0], photo)
  again = _build(scene, tmp_path, cache_gb=cache_gb)
  assert again[2] == damaged


def test_too_many_damaged_photos(tmp_path):
  scene = _scene(tmp_path, num_photos=10)
  _damage(scene, 3)
  _build(scene, tmp_path)  # one in ten is within the limit
  _damage(scene, 5)
  with pytest.raises(errors.InputError, match='2 damaged of 10.*03.*05'):
    _build(scene, tmp_path)
  _, usable, _ = _build(scene, tmp_path, max_damaged_fraction=0.5)
  assert len(usable) == 8
  for row in range(9):
    _damage(scene, row, b'')
  with pytest.raises(errors.InputError, match='expected at least 2'):
    _build(scene, tmp_path, max_damaged_fraction=1.0)


def test_absent_masks_damage_their_photo(tmp_path):
  def edit(entries):
    entries['01.png']['mask'] = 'm.png'

  scene = _scene(tmp_path, num_photos=10, edit=edit)
  assert _build(scene, tmp_path)[2] == [('01.png', 'mask is absent')]


def test_unreadable_headers_count_as_damaged(tmp_path):
  folder = builders.infnerf(tmp_path / 'scene', num_photos=10)
  for i in range(2):
    (folder / 'images' / f'0{i}.png').write_bytes(b'')
  scene = readers.load_scene(folder)
  with pytest.raises(errors.InputError, match='2 damaged of 10'):
    _build(scene, tmp_path)


def _count_decodes(monkeypatch):
  calls = []
  original = decode.decode

  def counted(path, *args, **kwargs):
    calls.append(path.name)
    return original(path, *args, **kwargs)

  monkeypatch.setattr(decode, 'decode', counted)
  return calls


def test_cache_is_reused_and_rebuilt(tmp_path, monkeypatch):
  scene = _scene(tmp_path)
  calls = _count_decodes(monkeypatch)
  _build(scene, tmp_path)
  assert len(calls) == 4
  _build(scene, tmp_path)
  assert len(calls) == 4
  # A changed photo of the same size on disk but another time.
  path = scene.photos.paths[2]
  path.write_bytes(path.read_bytes())
  status = path.stat()
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
  _build(scene, tmp_path)
  assert len(calls) == 8
  _build(scene, tmp_path, downscale=2.0)
  assert len(calls) == 12
  _build(scene, tmp_path)  # caches of other options stand side by side
  assert len(calls) == 12


@pytest.mark.parametrize('damage', ['stamp', 'pixels'])
def test_incomplete_cache_is_not_trusted(tmp_path, monkeypatch, damage):
  scene = _scene(tmp_path)
  _build(scene, tmp_path)
  (folder,) = (p for p in (tmp_path / 'cache').iterdir() if p.is_dir())
  if damage == 'stamp':
    (folder / 'stamp.json').unlink()
  else:
    os.truncate(folder / 'rgb.u8', 100)
  calls = _count_decodes(monkeypatch)
  result, _, _ = _build(scene, tmp_path)
  assert len(calls) == 4
  np.testing.assert_array_equal(
      pyramid.photo(result, 3, 0)[0], _expected(scene, 3, 0)[0]
  )


def test_killed_build_continues_from_its_journal(tmp_path, monkeypatch):
  scene = _scene(tmp_path, num_photos=6)
  monkeypatch.setattr(pyramid_cache, '_SYNC_EVERY', 1)
  original = decode.decode

  def fails(path, *args, **kwargs):
    if path.name == '04.png':
      raise KeyboardInterrupt
    return original(path, *args, **kwargs)

  monkeypatch.setattr(decode, 'decode', fails)
  with pytest.raises(KeyboardInterrupt):
    _build(scene, tmp_path)
  (partial,) = (tmp_path / 'cache').glob('*.partial')
  lines = (partial / 'journal').read_text().splitlines()
  assert [json.loads(line)[0] for line in lines[1:]] == [0, 1, 2, 3]
  # The record of photo 3 was being written when the process died.
  text = (partial / 'journal').read_text()
  (partial / 'journal').write_text(text[:-3])
  monkeypatch.setattr(decode, 'decode', original)
  calls = _count_decodes(monkeypatch)
  result, _, _ = _build(scene, tmp_path)
  assert sorted(calls) == ['03.png', '04.png', '05.png']
  assert not list((tmp_path / 'cache').glob('*.partial'))
  for row in range(6):
    np.testing.assert_array_equal(
        pyramid.photo(result, row, 0)[0], _expected(scene, row, 0)[0]
    )


def test_journal_of_other_inputs_is_dropped(tmp_path, monkeypatch):
  scene = _scene(tmp_path)
  _build(scene, tmp_path)
  (folder,) = (p for p in (tmp_path / 'cache').iterdir() if p.is_dir())
  partial = folder.with_name(folder.name + '.partial')
  folder.rename(partial)
  lines = [json.dumps('of others')] + [f'[{i}, null, false]' for i in range(4)]
  (partial / 'journal').write_text('\n'.join(lines) + '\n')
  calls = _count_decodes(monkeypatch)
  _build(scene, tmp_path)
  assert len(calls) == 4


def test_memory_of_photos_on_demand_is_bounded(tmp_path, monkeypatch):
  scene = _scene(tmp_path, num_photos=8)
  calls = _count_decodes(monkeypatch)
  result, _, _ = _build(scene, tmp_path, cache_gb=0, decoded_gb=1.5e-5)
  on_demand = result.on_demand
  for row in list(range(8)) + [7, 6]:
    pyramid.photo(result, row, 0)
    assert on_demand._bytes <= 15_000
    assert on_demand._bytes == sum(
        pyramid._num_bytes(photo) for photo in on_demand._kept.values()
    )
  assert len(calls) == 8  # the last two were still there


def test_photo_that_vanishes_during_training_has_no_valid_pixel(tmp_path):
  scene = _scene(tmp_path)
  result, _, _ = _build(scene, tmp_path, cache_gb=0)
  scene.photos.paths[1].unlink()
  assert not pyramid.photo(result, 1, 0)[1].any()
  assert pyramid.photo(result, 2, 0)[1].all()


def test_tiny_photos_have_empty_levels(tmp_path):
  scene = _scene(tmp_path)
  result, _, _ = _build(scene, tmp_path, num_levels=7)
  assert result.sizes[0, 5].tolist() == [1, 1]
  assert result.sizes[0, 6].tolist() == [0, 0]
  rgb, _ = pyramid.photo(result, 0, 5)
  photo = np.asarray(PIL.Image.open(scene.photos.paths[0]))[:32, :32]
  assert np.abs(rgb - photo.mean(axis=(0, 1))).max() <= 0.51


@pytest.mark.parametrize('downscale', [0.5, 0.0, float('nan')])
def test_downscale_below_one(tmp_path, downscale):
  with pytest.raises(errors.InputError, match='downscale: got'):
    _build(_scene(tmp_path), tmp_path, downscale=downscale)


def test_cache_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'cache').write_text('a file')
  with pytest.raises(errors.InputError, match='cache: got .*cache_gb'):
    _build(_scene(tmp_path), tmp_path)


def test_mapped_pages_are_given_back(tmp_path, monkeypatch):
  scene = _scene(tmp_path)
  result, _, _ = _build(scene, tmp_path)
  monkeypatch.setattr(pyramid, '_MAX_MAPPED_RESIDENT', 0)
  monkeypatch.setattr(pyramid, '_TRIM_EVERY', 1)
  for _ in range(2):
    rgb, _ = _all_pixels(result, 2, 0)
    np.testing.assert_array_equal(rgb, _expected(scene, 2, 0)[0])
