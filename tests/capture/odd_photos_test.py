"""Photos of every kind go through features as they are stored."""

import numpy as np
import PIL.Image
import pycolmap
import pytest

from infnerf_jax.capture import photos, structure
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from infnerf_jax.scene import decode
from tests.capture import builders

_SIZE = (240, 160)


@pytest.fixture(scope='module')
def picture():
  """[H, W, 3] uint8 with something to see."""
  city = city_lib.make_city(extent=72.0)
  camera = city_lib.survey(city, num_photos=6, photo_size=_SIZE)
  view = city_lib.render(
      city, cameras_lib.take(camera, 0), supersampling=2, with_depth=False
  )
  return np.round(255 * view.rgb).astype(np.uint8)


def test_features_are_those_of_the_stored_pixels(picture, tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  image = PIL.Image.fromarray(picture)
  image.save(folder / 'plain.png')
  image.save(folder / 'turned.png', exif=builders.exif(orientation=6))
  image.convert('L').save(folder / 'grey.png')
  wide = np.asarray(image.convert('L')).astype(np.uint16) * 257
  PIL.Image.fromarray(wide).save(folder / 'wide.png')
  image.putalpha(255)
  image.save(folder / 'alpha.png')
  image.convert('RGB').save(folder / 'web.webp', lossless=True)
  image.convert('P').save(folder / 'palette.png')
  found = photos.scan(folder).photos
  assert len(found) == 7 and {p.size for p in found} == {_SIZE}
  work = tmp_path / 'work'
  work.mkdir()
  structure.place_photos(found, work)
  structure.extract_features(found, work, structure.Options(240, 300, 1))
  with pycolmap.Database.open(work / 'database.db') as database:
    keypoints = {
        im.name: database.read_keypoints(im.image_id)[:, :2]
        for im in database.read_all_images()
    }
    sizes = {(c.width, c.height) for c in database.read_all_cameras()}
  assert sizes == {_SIZE} and len(keypoints) == 7
  plain = keypoints['plain.png']
  assert len(plain) > 50
  for name, points in keypoints.items():
    away = np.linalg.norm(points[:, None] - plain[None], axis=-1).min(axis=1)
    share = 0.5 if name == 'palette.png' else 0.9
    assert np.mean(away < 0.5) > share, name
  rgb, _ = decode.read_photo(folder / 'turned.png')
  np.testing.assert_array_equal(rgb, picture)
