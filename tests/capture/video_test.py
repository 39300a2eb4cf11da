"""Frames of a video whose motion and blur are known."""

import subprocess

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from infnerf_jax import errors
from infnerf_jax.capture import photos, prepare, video

_SIZE = (240, 180)


def _ground():
  """A texture with detail at many scales."""
  rng = np.random.default_rng(0)
  total = np.zeros((400, 1400))
  for sigma in (1, 3, 9):
    layer = ndimage.gaussian_filter(rng.normal(size=total.shape), sigma)
    total += layer / layer.std()
  return np.clip(128 + 40 * total, 0, 255).astype(np.uint8)


def _view(ground, x, y):
  return ground[y : y + _SIZE[1], x : x + _SIZE[0]]


@pytest.mark.parametrize('dx, dy', [(0, 0), (30, 0), (-40, 12), (10, -50)])
def test_shared_part_is_that_of_the_shift(dx, dy):
  ground = _ground()
  first, second = _view(ground, 300, 100), _view(ground, 300 + dx, 100 + dy)
  expected = (1 - abs(dx) / 240) * (1 - abs(dy) / 180)
  assert video.shared_part(first, second) == pytest.approx(expected, abs=0.01)


def test_other_places_share_nothing():
  ground = _ground()
  found = video.shared_part(_view(ground, 0, 0), _view(ground, 900, 200))
  assert found < 0.1


def test_blur_and_darkness():
  sharp = _view(_ground(), 0, 0).astype(float)
  blurred = ndimage.gaussian_filter(sharp, 2)
  assert video.sharpness(blurred) < 0.3 * video.sharpness(sharp)
  dark = video.sharpness(0.3 * sharp)
  assert dark == pytest.approx(video.sharpness(sharp), rel=0.1)


def test_choice_keeps_the_overlap_and_the_sharpest():
  # Steps of 4 %: overlap 0.8 is reached with the fifth frame.
  share = lambda i, j: max(0.0, 1 - 0.04 * (j - i))
  sharp = np.ones(30)
  sharp[[3, 7, 12]] = 2.0
  found = video.choose(sharp, share, 0.8)
  assert found[:4] == [0, 3, 7, 12]
  assert max(np.diff(found)) <= 5 and min(np.diff(found)) >= 2
  assert found[-1] >= 25
  still = video.choose(np.ones(20), lambda i, j: 1.0, 0.8)
  assert still == [0]
  # Nothing in common: each frame stands for itself.
  assert video.choose(np.ones(4), lambda i, j: 0.0, 0.8) == [0, 1, 2, 3]


@pytest.fixture(scope='module')
def flight(tmp_path_factory):
  """A flight of 40 frames, 12 pixels each; every third frame is blurred."""
  path = tmp_path_factory.mktemp('video') / 'flight.mp4'
  ground = _ground()
  frames = []
  for i in range(40):
    view = _view(ground, 12 * i, 100).astype(float)
    if i % 3 == 1:
      view = ndimage.gaussian_filter(view, 3)
    frames.append(view.astype(np.uint8))
  subprocess.run(
      [
          imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-f',
          'rawvideo', '-pix_fmt', 'gray', '-s', '240x180', '-r', '8', '-i',
          '-', '-c:v', 'mpeg4', '-q:v', '2', str(path),
      ],
      input=b''.join(frame.tobytes() for frame in frames), check=True,
  )  # fmt: skip
  return path


def test_photos_of_a_flight(flight, tmp_path):
  folder = tmp_path / 'frames'
  report = video.extract(flight, folder, video.Options(overlap=0.7))
  assert report['frames'] == 40
  names = sorted(p.name for p in folder.glob('*.jpg'))
  assert len(names) == report['photos']
  frames = np.round(8 * np.array(report['seconds_of_photos'])).astype(int)
  # 12 of 240 pixels a frame: at most six steps keep 70 %.
  assert np.diff(frames).max() <= 6 and np.diff(frames).min() >= 2
  assert not (frames % 3 == 1).any()
  assert frames[-1] >= 34
  # The pixels are those of the frame, in colour and full size.
  with PIL.Image.open(folder / names[2]) as image:
    assert image.size == _SIZE and image.mode == 'RGB'
    found = np.asarray(image.convert('L'), float)
  expected = _view(_ground(), 12 * frames[2], 100)
  assert np.abs(found - expected).mean() < 8
  found = photos.scan(folder).photos
  assert [p.name for p in found] == names
  # What is there is taken.
  (folder / names[0]).write_bytes(b'marked')
  again = video.extract(flight, folder, video.Options(overlap=0.7))
  assert again == report and (folder / names[0]).read_bytes() == b'marked'
  few = video.extract(flight, tmp_path / 'few', video.Options(0.7, 4))
  assert few['photos'] == 4 and few['thinned'] == report['photos'] - 4


def test_bad_videos_are_one_line(flight, tmp_path):
  torn = tmp_path / 'torn.mp4'
  torn.write_bytes(flight.read_bytes()[:300])
  with pytest.raises(errors.InputError, match='expected a video') as raised:
    video.extract(torn, tmp_path / 'a')
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'a').exists()
  with pytest.raises(errors.InputError, match='--overlap: got 1.5'):
    video.extract(flight, tmp_path / 'a', video.Options(overlap=1.5))
  (tmp_path / 'mine').mkdir()
  with pytest.raises(errors.InputError, match='not ours'):
    video.extract(flight, tmp_path / 'mine')
  with prepare.photo_folder(
      flight, prepare.Options(frames=video.Options(0.7))
  ) as folder:
    assert len(list(folder.glob('*.jpg'))) > 5
  assert not folder.exists()
