"""Depth files, letterboxes, videos, and a film of a tiny scene."""

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import film, film_journal, paths, video
from infnerf_jax.render import render_image, render_rays
from tests import tiny_model


def test_depth_survives_its_16_bits(tmp_path):
  rng = np.random.default_rng(0)
  depth = rng.uniform(0.5, 80.0, (20, 30))
  opacity = np.ones_like(depth)
  opacity[3, 4] = 0.2
  depth[5, 6] = np.inf
  scale = film.write_depth(tmp_path / 'd.png', depth, opacity)
  with Image.open(tmp_path / 'd.png') as image:
    assert image.mode.startswith('I;16')
    assert float(image.text[film.DEPTH_KEY]) == scale
  found = film.read_depth(tmp_path / 'd.png')
  known = opacity > 0.5
  known[5, 6] = False
  np.testing.assert_allclose(found[known], depth[known], atol=0.51 * scale)
  np.testing.assert_array_equal(found[~known], 0)
  assert scale < 80.0 / 65000
  empty = film.write_depth(tmp_path / 'e.png', depth, 0 * opacity)
  assert empty > 0 and film.read_depth(tmp_path / 'e.png').max() == 0


def test_colours_of_depth():
  depth = np.geomspace(1, 100, 64)[None].repeat(2, 0)
  picture = film.color_depth(depth, np.ones_like(depth)).astype(int)
  assert picture[0, 3, 0] > picture[0, 3, 2]  # near: red
  assert picture[0, -4, 2] > picture[0, -4, 0]  # far: blue
  np.testing.assert_array_equal(film.color_depth(depth, 0 * depth), 0)


def test_colours_of_a_film_do_not_jump():
  near, far = np.full((4, 4), 2.0), np.full((4, 4), 32.0)
  near[0], far[0] = 4.0, 64.0
  seen = np.ones_like(near)
  first = film.depth_limits(near, seen)
  np.testing.assert_allclose(np.exp(first), [2, 4], rtol=1e-6)
  then = film.depth_limits(far, seen, first)
  np.testing.assert_allclose(then - first, 0.2 * np.log(16))
  for _ in range(60):  # but they arrive
    then = film.depth_limits(far, seen, then)
  np.testing.assert_allclose(np.exp(then), [32, 64], rtol=1e-4)
  assert film.depth_limits(near, 0 * seen) is None
  np.testing.assert_array_equal(film.depth_limits(near, 0 * seen, then), then)
  np.testing.assert_array_equal(
      film.color_depth(near, seen, first), film.color_depth(near, seen)
  )


def test_letterbox_centres():
  picture = np.full((2, 3, 3), 7, np.uint8)
  framed = video.letterbox(picture, 6, 5)
  assert framed.shape == (5, 6, 3)
  np.testing.assert_array_equal(framed[1:3, 1:4], picture)
  assert framed.sum() == picture.sum()


class _Scene:
  """What `render_film` needs of a loaded scene."""

  def __init__(self):
    self.model, self.spec, self.octree = tiny_model.make_model()
    self.calls, self.fails_at = 0, None

  def appearance(self, photo):
    return np.zeros(4, np.float32)

  def render(self, camera, *, appearance, **options):
    if self.calls == self.fails_at:
      raise KeyboardInterrupt
    self.calls += 1
    return render_image.render_image(
        self.model,
        self.spec,
        camera,
        self.octree,
        appearance,
        render_rays.RenderOptions(num_samples=(16, 12)),
        ray_block=512,
        **options,
    )


def _path():
  cameras = cameras_lib.stack(
      [
          tiny_model.make_camera(0.1),
          tiny_model.make_camera(0.2, width=38, height=30),
      ]
  )
  return paths.photo_path(
      cameras, ['a/x.jpg', 'b.jpg'], [0, 1], pixel_size=2.0, fps=5.0
  )


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
  out = tmp_path_factory.mktemp('film')
  return film.render_film(_Scene(), _path(), out, show_progress=False), out


def test_film_writes_frames_depth_and_report(rendered):
  report, out = rendered
  assert json.loads((out / 'render.json').read_text()) == report
  assert report['num_frames'] == 2 and report['nodes'] == 17
  assert report['num_rays'] == 24 * 18 + 19 * 15
  assert report['rays_per_second'] > 0 and report['peak_bytes'] > 1e6
  assert 1 <= report['nodes_touched_mean'] <= report['nodes_touched_max'] <= 17
  first, second = report['frames']
  assert first['rgb'] == 'frames/a_x.png'
  for frame, size in ((first, (24, 18)), (second, (19, 15))):
    for name in ('rgb', 'depth', 'depth_color'):
      with Image.open(out / frame[name]) as image:
        assert image.size == size
    assert sum(frame['samples_by_level']) == pytest.approx(1)
  depth = film.read_depth(out / first['depth'])
  assert 1.0 < depth[depth > 0].mean() < 7.0


def _play(path, height, width):
  """[N, H, W, 3] uint8 frames of a video, and what the decoder says of it."""
  done = subprocess.run(
      [imageio_ffmpeg.get_ffmpeg_exe(), '-i', str(path), '-f', 'rawvideo']
      + ['-pix_fmt', 'rgb24', '-'],
      capture_output=True,
      check=True,
  )
  frames = np.frombuffer(done.stdout, np.uint8)
  return frames.reshape(-1, height, width, 3), done.stderr.decode()


def test_video_plays(rendered):
  report, out = rendered
  for name in report['films']:
    frames, words = _play(out / name, 18, 24)
    assert len(frames) == 2
    assert 'h264' in words and 'yuv420p' in words and '24x18' in words
    assert ' 5 fps' in words
  with Image.open(out / report['frames'][0]['rgb']) as image:
    still = np.asarray(image).astype(int)
  moving = _play(out / 'film.mp4', 18, 24)[0][0].astype(int)
  assert np.abs(still - moving).mean() < 12  # lossy, but the same picture


def test_goes_on_behind_the_last_view_of_a_kill(rendered, tmp_path):
  whole, reference = rendered
  scene = _Scene()
  scene.fails_at = 1
  with pytest.raises(KeyboardInterrupt):
    film.render_film(scene, _path(), tmp_path, show_progress=False)
  # Nothing looks finished.
  assert not list(tmp_path.glob('*.mp4*')) + list(tmp_path.glob('*.json'))
  journal = tmp_path / film_journal.FILE
  journal.write_text(journal.read_text() + '{"frame": {"na')
  again = _Scene()
  report = film.render_film(again, _path(), tmp_path, show_progress=False)
  assert again.calls == 1 and report['num_frames_resumed'] == 1
  assert not journal.exists()
  for frame in whole['frames']:
    for kind in ('rgb', 'depth', 'depth_color'):
      one, two = (Image.open(o / frame[kind]) for o in (reference, tmp_path))
      np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
  for name in whole['films']:
    one, two = (_play(o / name, 18, 24)[0] for o in (reference, tmp_path))
    np.testing.assert_array_equal(one, two)


def test_views_of_another_film_are_not_taken(tmp_path):
  entry = {'frame': dict.fromkeys(('name', 'rgb', 'depth', 'depth_color'), 'a')}
  (tmp_path / 'a').touch()
  with film_journal.FilmJournal(tmp_path, 'one') as journal:
    journal.add(entry)
  with film_journal.FilmJournal(tmp_path, 'one') as journal:
    assert list(journal.done) == ['a']
  with film_journal.FilmJournal(tmp_path, 'other') as journal:
    assert not journal.done
  scene, path = _Scene(), _path()
  job = lambda **k: film_journal.identity(
      scene, **{**dict(path=path, appearance=np.zeros(2), options=None,
                       max_memory_gb=None), **k}
  )  # fmt: skip
  names = {
      job(), job(appearance=np.ones(2)), job(max_memory_gb=1),
      job(path=path._replace(pixel_size=1.0)),
      job(options=render_rays.RenderOptions()),
  }  # fmt: skip
  assert len(names) == 5 and job() in names


def test_a_video_that_cannot_be_written_says_why(tmp_path):
  with pytest.raises(OSError, match='nowhere/x.mp4: the video was not written'):
    with video.Video(tmp_path / 'nowhere/x.mp4', 16, 16, fps=5) as film_file:
      film_file.add(np.zeros((16, 16, 3), np.uint8))


def test_odd_sizes_are_refused_by_the_video(tmp_path):
  with pytest.raises(ValueError, match='expected even'):
    video.Video(tmp_path / 'x.mp4', 25, 18, fps=5)
