"""Area averages against a dense oracle; photos of every kind and damage."""

import numpy as np
import PIL.Image
import pytest

from infnerf_jax.scene import decode
from tests.scene import builders


def _weights(count, num_pixels, side):
  """[count, num_pixels] share of each pixel in each box, dense."""
  left = np.arange(count)[:, None] * side
  pixel = np.arange(num_pixels)[None]
  overlap = np.minimum(left + side, pixel + 1) - np.maximum(left, pixel)
  return np.maximum(overlap, 0) / side


@pytest.mark.parametrize('side', [1, 2, 3, 8, 1.5, 2.7, 1.0001, 100 / 27])
def test_average_is_exact(side):
  photo = np.random.default_rng(0).integers(0, 256, (67, 53, 3), np.uint8)
  size = decode.level_sizes(53, 67, downscale=side, num_levels=1)[0]
  got = decode.average(photo, side, size)
  rows = _weights(size[1], 67, side)
  columns = _weights(size[0], 53, side)
  expected = np.einsum('iy,yxc,jx->ijc', rows, photo.astype(float), columns)
  assert got.shape == expected.shape
  # Half a step of rounding; Pillow rounds ninths from 5/9 up.
  assert np.abs(got - expected).max() <= (0.56 if side == 3 else 0.501)


def test_average_in_stripes(monkeypatch):
  photo = np.random.default_rng(1).integers(0, 256, (90, 40, 3), np.uint8)
  size = decode.level_sizes(40, 90, downscale=1.7, num_levels=1)[0]
  whole = decode.average(photo, 1.7, size)
  monkeypatch.setattr(decode, '_STRIPE_VALUES', 500)
  np.testing.assert_array_equal(decode.average(photo, 1.7, size), whole)


@pytest.mark.parametrize('side', [1, 2, 3, 1.5, 2.7])
def test_cover_needs_every_touched_pixel(side):
  valid = np.random.default_rng(0).random((67, 53)) > 0.05
  size = decode.level_sizes(53, 67, downscale=side, num_levels=1)[0]
  got = decode.cover(valid, side, size)
  rows = _weights(size[1], 67, side) > 1e-7
  columns = _weights(size[0], 53, side) > 1e-7
  holes = np.einsum(
      'iy,yx,jx->ij',
      rows.astype(int),
      (~valid).astype(int),
      columns.astype(int),
  )
  np.testing.assert_array_equal(got, holes == 0)
  assert 0 < got.mean() < 1


def test_level_sizes():
  sizes = decode.level_sizes(1080, 1921, downscale=4.0, num_levels=4)
  assert sizes.tolist() == [[270, 480], [135, 240], [67, 120], [33, 60]]
  # Rounding of the ratio costs no pixel.
  for width in range(1, 400):
    got = decode.level_sizes(1000, 1000, downscale=1000 / width, num_levels=1)
    assert got[0].tolist() == [width, width]
  assert decode.level_sizes(3, 3, downscale=1, num_levels=3)[2].tolist() == [
      0,
      0,
  ]


def test_levels_nest(tmp_path):
  builders.save_photo(tmp_path / 'a.png', size=(50, 37))
  photo = decode.decode(
      tmp_path / 'a.png', None, (50, 37), downscale=1.0, num_levels=3
  )
  assert [level.shape for level in photo.rgb] == [
      (37, 50, 3), (18, 25, 3), (9, 12, 3),
  ]  # fmt: skip
  assert photo.valid is None
  block = photo.rgb[0][:36, :48].astype(float).reshape(9, 4, 12, 4, 3)
  mean = block.mean(axis=(1, 3))
  assert np.abs(photo.rgb[2] - mean).max() <= 0.5 + 1e-3


def _grey_ramp():
  return np.arange(48 * 36).reshape(36, 48).astype(np.float64) / (48 * 36 - 1)


def test_sixteen_bits(tmp_path):
  values = np.round(_grey_ramp() * 65535).astype(np.uint16)
  PIL.Image.fromarray(values).save(tmp_path / 'a.png')
  rgb, valid = decode.read_photo(tmp_path / 'a.png')
  expected = _grey_ramp()[..., None] * 255
  assert np.abs(rgb - expected).max() <= 0.51
  assert valid is None


def test_grey_palette_bilevel_and_cmyk(tmp_path):
  grey = np.round(_grey_ramp() * 255).astype(np.uint8)
  image = PIL.Image.fromarray(grey)
  image.save(tmp_path / 'grey.png')
  rgb, _ = decode.read_photo(tmp_path / 'grey.png')
  np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, -1))
  image.convert('P').save(tmp_path / 'palette.png')
  rgb, valid = decode.read_photo(tmp_path / 'palette.png')
  np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, -1))
  assert valid is None
  image.point(lambda v: 255 * (v > 99)).convert('1').save(tmp_path / 'bits.png')
  rgb, _ = decode.read_photo(tmp_path / 'bits.png')
  np.testing.assert_array_equal(rgb[..., 0], 255 * (grey > 99))
  red = PIL.Image.new('RGB', (48, 36), (255, 0, 0)).convert('CMYK')
  red.save(tmp_path / 'cmyk.jpg', quality=95)
  rgb, _ = decode.read_photo(tmp_path / 'cmyk.jpg')
  assert np.abs(rgb.astype(int) - [255, 0, 0]).max() <= 3


def test_alpha_zero_does_not_count(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (36, 48, 4), np.uint8)
  pixels[..., 3] = 255
  pixels[:5, :7, 3] = 0
  pixels[20, 20, 3] = 1
  PIL.Image.fromarray(pixels).save(tmp_path / 'a.png')
  rgb, valid = decode.read_photo(tmp_path / 'a.png')
  np.testing.assert_array_equal(rgb[valid], pixels[..., :3][valid])
  np.testing.assert_array_equal(valid, pixels[..., 3] > 0)
  pixels[..., 3] = 255
  PIL.Image.fromarray(pixels).save(tmp_path / 'b.png')
  assert decode.read_photo(tmp_path / 'b.png')[1] is None


def test_exif_orientation_is_not_applied(tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  pixels = builders.save_photo(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(
      decode.read_photo(tmp_path / 'a.png')[0], pixels
  )


@pytest.mark.parametrize('mode', ['L', '1', 'RGB', 'RGBA', 'P', 'I;16'])
def test_masks_of_every_mode(tmp_path, mode):
  mask = np.random.default_rng(0).random((36, 48)) > 0.5
  if mode == 'I;16':
    image = PIL.Image.fromarray((mask * 40000).astype(np.uint16))
  else:
    image = PIL.Image.fromarray((mask * 255).astype(np.uint8)).convert(mode)
  image.save(tmp_path / 'm.png')
  got = decode.read_mask(tmp_path / 'm.png', (36, 48))
  np.testing.assert_array_equal(got, mask)
  half = decode.read_mask(tmp_path / 'm.png', (18, 24))
  np.testing.assert_array_equal(half, mask[1::2, 1::2])
  with pytest.raises(decode.DamagedPhoto, match='mask is 48x36'):
    decode.read_mask(tmp_path / 'm.png', (48, 36))


def _cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
def test_truncated_photos_fail_when_decoded(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  builders.save_photo(path, size=(200, 150))
  decode.verify(path, None, (200, 150))
  assert decode.read_photo(path)[0].shape == (150, 200, 3)
  _cut(path)
  for function in (
      lambda: decode.read_photo(path),
      lambda: decode.verify(path, None, (200, 150)),
  ):
    with pytest.raises(decode.DamagedPhoto) as caught:
      function()
    assert '\n' not in str(caught.value) and len(str(caught.value)) > 5


def test_other_damage(tmp_path):
  path = tmp_path / 'a.jpg'
  with pytest.raises(decode.DamagedPhoto, match='absent'):
    decode.read_photo(path)
  path.write_bytes(b'')
  with pytest.raises(decode.DamagedPhoto, match='zero bytes'):
    decode.verify(path, None, (48, 36))
  path.write_bytes(b'this is not a photo')
  with pytest.raises(decode.DamagedPhoto, match='not an image'):
    decode.read_photo(path)
  PIL.Image.new('F', (48, 36)).save(tmp_path / 'f.tif')
  with pytest.raises(decode.DamagedPhoto, match='float'):
    decode.read_photo(tmp_path / 'f.tif')
  builders.save_photo(path)
  with pytest.raises(decode.DamagedPhoto, match='decoded to 48x36'):
    decode.decode(path, None, (50, 36), downscale=1, num_levels=1)
  with pytest.raises(decode.DamagedPhoto, match='mask is absent'):
    decode.decode(path, tmp_path / 'm.png', (48, 36), downscale=1, num_levels=1)
