"""EXIF and DJI XMP, as written by Pillow and by hand."""

import math

import pytest

from infnerf_jax import errors
from infnerf_jax.capture import metadata, photos
from tests.capture import builders


@pytest.mark.parametrize(
    'place', [(30.171157, -98.0895, 317.3), (-33.9, 151.2, -4.25)]
)
def test_reads_exif_position(tmp_path, place):
  builders.photo(tmp_path / 'a.jpg', place, focal35=20)
  found = metadata.read(tmp_path / 'a.jpg')
  gps = (found.gps.latitude, found.gps.longitude, found.gps.altitude)
  # 1e-7 seconds of arc are 3 micrometres.
  assert gps == pytest.approx(place, abs=1e-9)
  assert found.gps.source == 'EXIF'
  assert found.focal == pytest.approx(20 / 36 * 64)
  assert found.camera[:2] == ('Maker', 'One')
  assert found.time == '2024:05:01 10:00:00'


@pytest.mark.parametrize('spelling', ['GpsLongtitude', 'GpsLongitude'])
def test_dji_position_goes_first(tmp_path, spelling):
  fields = {'GpsLatitude': '46.5', spelling: '-91.25'}
  xmp = builders.dji_xmp(AbsoluteAltitude='+198.31', **fields)
  builders.photo(tmp_path / 'a.jpg', (46.6, -91.3, 190.0), xmp=xmp)
  gps = metadata.read(tmp_path / 'a.jpg').gps
  assert gps == metadata.Gps(46.5, -91.25, 198.31, 'XMP')


def test_no_fix_is_no_position(tmp_path):
  builders.photo(tmp_path / 'a.jpg', (0.0, 0.0, 0.0))
  assert metadata.read(tmp_path / 'a.jpg').gps is None
  builders.photo(tmp_path / 'b.jpg', (1.0, 2.0, 3.0), status='V')
  assert metadata.read(tmp_path / 'b.jpg').gps is None


def test_nan_is_refused_by_name(tmp_path):
  builders.photo(tmp_path / 'a.jpg', (1.0, 2.0, 3.0))
  builders.photo(tmp_path / 'b.jpg', (1.0, 2.0, 3.0), nan=True)
  assert math.isnan(metadata.read(tmp_path / 'b.jpg').gps.latitude)
  with pytest.raises(errors.InputError, match=r'b\.jpg: EXIF GPS latitude: go'):
    photos.scan(tmp_path)
  found = photos.scan(tmp_path, use_gps=False)
  assert [p.metadata.gps for p in found.photos] == [None, None]


def test_xml_bomb_is_not_expanded(tmp_path):
  bomb = b'<!DOCTYPE a [<!ENTITY b "xx"><!ENTITY c "&b;&b;">]><a>&c;</a>'
  builders.photo(tmp_path / 'a.jpg', (1.0, 2.0, 3.0), xmp=bomb)
  assert metadata.read(tmp_path / 'a.jpg').gps.source == 'EXIF'


def test_damaged_photos_are_put_aside(tmp_path):
  for name in 'abc':
    builders.photo(tmp_path / f'{name}.jpg')
  content = (tmp_path / 'c.jpg').read_bytes()
  (tmp_path / 'c.jpg').write_bytes(content[:-200])
  (tmp_path / 'd.png').write_bytes(b'')
  found = photos.scan(tmp_path)
  assert [p.name for p in found.photos] == ['a.jpg', 'b.jpg']
  assert [name for name, _ in found.damaged] == ['c.jpg', 'd.png']


def test_folder_without_photos(tmp_path):
  (tmp_path / 'notes.txt').write_text('none')
  with pytest.raises(errors.InputError, match='got no photo'):
    photos.scan(tmp_path)
  with pytest.raises(errors.InputError, match='no such folder'):
    photos.scan(tmp_path / 'absent')


def test_masks_by_either_name(tmp_path):
  for name in ('a', 'b', 'c'):
    builders.photo(tmp_path / 'in' / f'{name}.jpg')
  builders.photo(tmp_path / 'masks' / 'a.jpg.png')
  builders.photo(tmp_path / 'masks' / 'b.png')
  found = photos.scan(tmp_path / 'in', masks=tmp_path / 'masks')
  names = [p.mask_path and p.mask_path.name for p in found.photos]
  assert names == ['a.jpg.png', 'b.png', None]
