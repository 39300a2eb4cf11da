"""The render thread: latest views, fair turns, cancelling, failures."""

import threading
import time
import types

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import meter, render_loop, schedule

_WAIT = 20.0


class _Renderer:
  """Stands for a Renderer: a colour a camera, at a known speed."""

  max_level, limits, picture_bytes = 3, schedule.Limits(8192, 2), 0

  def __init__(self):
    self.gate = threading.Semaphore(10**6)
    self.bands = []
    self.fails = None

  def band(self, camera, stage, band, appearance):
    self.gate.acquire()
    color = float(camera.intrinsics[0]) / 1000
    self.bands.append((color, stage.pixel_size, band))
    if self.fails is not None:
      raise self.fails
    shape = (band[1] - band[0], stage.width)
    image = types.SimpleNamespace(
        rgb=np.full(shape + (3,), color),
        level=np.ones(shape),
        opacity=np.ones(shape),
        distance=np.full(shape, 5.0),
        half_distance=np.full(shape, 5.0),
        depth=np.full(shape, 4.0),
    )
    time.sleep(0.001)
    return image, meter.Meter(np.array([1, 8 + band[0] % 8]), 9, 100)


class _Client:
  """Collects what it is shown."""

  def __init__(self):
    self.pictures, self.failures = [], []
    self.final = threading.Event()

  def request(self, color, mode='colour', width=256, height=192):
    camera = cameras_lib.make_camera(
        focal=1000 * color, width=width, height=height,
        cam_to_world=np.eye(4)[:3],
    )  # fmt: skip
    self.final.clear()
    return render_loop.Request(
        camera, np.zeros(1), mode, self._take, self._fail
    )

  def _take(self, picture):
    self.pictures.append(picture)
    if picture.is_final:
      self.final.set()

  def _fail(self, message):
    self.failures.append(message)
    self.final.set()


@pytest.fixture
def renderer():
  return _Renderer()


@pytest.fixture
def loop(renderer):
  with render_loop.RenderLoop(renderer) as loop:
    yield loop


def test_pictures_sharpen_to_the_canvas(loop):
  client = _Client()
  loop.submit(1, client.request(0.5))
  assert client.final.wait(_WAIT)
  last = client.pictures[-1]
  assert last.rgb.shape == (192, 256, 3) and last.pixel_size == 1
  np.testing.assert_array_equal(last.rgb, 128)
  np.testing.assert_array_equal(last.depth, 4.0)
  sizes = [p.pixel_size for p in client.pictures]
  assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 1
  assert [p.is_final for p in client.pictures].count(True) == 1
  assert {1, 8} <= set(last.meter.keys.tolist())


def test_the_latest_view_wins_and_the_rest_is_given_up(loop, renderer):
  client = _Client()
  renderer.gate = threading.Semaphore(2)
  loop.submit(1, client.request(0.1))
  while len(renderer.bands) < 2:
    time.sleep(0.005)
  for color in (0.2, 0.3, 0.4, 0.9):
    loop.submit(1, client.request(color))
  renderer.gate.release(10**6)
  assert client.final.wait(_WAIT)
  colors = {round(color, 1) for color, _, _ in renderer.bands}
  assert colors == {0.1, 0.9}
  assert sum(round(color, 1) == 0.1 for color, _, _ in renderer.bands) <= 4
  np.testing.assert_array_equal(client.pictures[-1].rgb, 230)
  # Nothing of the view before was shown once the new one was known.
  shades = [int(p.rgb[0, 0, 0]) for p in client.pictures]
  assert shades == sorted(shades)


def test_a_camera_that_never_rests_still_sees_something(loop):
  client = _Client()
  end = time.monotonic() + 1.0
  while time.monotonic() < end:
    loop.submit(1, client.request(np.random.uniform(0.1, 0.9)))
    time.sleep(0.002)
  assert len(client.pictures) > 10


def test_all_see_something_before_one_sees_all(loop, renderer):
  renderer.gate = threading.Semaphore(0)
  clients = [_Client() for _ in range(10)]
  for i, client in enumerate(clients):
    loop.submit(i, client.request(0.05 * (i + 1)))
  renderer.gate.release(10**6)
  for client in clients:
    assert client.final.wait(_WAIT)
  coarsest = max(size for _, size, _ in renderer.bands)
  first = [c for c, size, _ in renderer.bands if size == coarsest]
  last_of_first = max(
      i for i, band in enumerate(renderer.bands) if band[1] == coarsest
  )
  assert len(set(first)) == 10
  # Whoever was first in may have begun its second picture meanwhile.
  assert last_of_first <= len(first) + 2
  for i, client in enumerate(clients):
    expected = round(255 * 0.05 * (i + 1))
    assert abs(int(client.pictures[-1].rgb[0, 0, 0]) - expected) <= 1


def test_who_has_gone_is_rendered_no_more(loop, renderer):
  renderer.gate = threading.Semaphore(3)
  client = _Client()
  loop.submit(1, client.request(0.5, width=1024, height=1024))
  while len(renderer.bands) < 3:
    time.sleep(0.005)
  loop.remove(1)
  renderer.gate.release(10**6)
  other = _Client()
  loop.submit(2, other.request(0.7))
  assert other.final.wait(_WAIT)
  assert sum(round(c, 1) == 0.5 for c, _, _ in renderer.bands) <= 4
  assert not any(p.is_final for p in client.pictures)
  loop.remove(99)  # was never there


def test_jobs_run_between_bands_and_hand_errors_back(loop, renderer):
  renderer.gate = threading.Semaphore(1)
  client = _Client()
  loop.submit(1, client.request(0.5, width=1024, height=1024))
  while len(renderer.bands) < 1:
    time.sleep(0.005)
  job = loop.call(lambda r, x: (len(r.bands), x), 'x')
  renderer.gate.release(1)
  done, value = job.result(_WAIT)
  assert value == 'x' and done <= 2
  renderer.gate.release(10**6)
  with pytest.raises(ZeroDivisionError):
    loop.call(lambda r: 1 / 0).result(_WAIT)
  assert client.final.wait(_WAIT)


@pytest.mark.parametrize(
    'error,words',
    [(errors.InputError('too small'), 'too small'),
     (KeyError('gone'), "KeyError: 'gone'")],
)  # fmt: skip
def test_a_failure_ends_one_view_only(loop, renderer, error, words):
  client = _Client()
  renderer.fails = error
  loop.submit(1, client.request(0.5))
  assert client.final.wait(_WAIT)
  assert client.failures == [words] and not client.pictures
  renderer.fails = None
  loop.submit(1, client.request(0.6))
  assert client.final.wait(_WAIT)
  assert client.pictures[-1].is_final


def test_a_client_that_cannot_be_shown_harms_nobody(loop):
  broken, client = _Client(), _Client()
  request = broken.request(0.5)._replace(publish=lambda p: 1 / 0)
  loop.submit(1, request)
  assert broken.final.wait(_WAIT)
  assert 'ZeroDivisionError' in broken.failures[0]
  loop.submit(2, client.request(0.5))
  assert client.final.wait(_WAIT)


def test_closing_gives_jobs_back(renderer):
  loop = render_loop.RenderLoop(renderer)
  loop.close()
  assert loop.call(lambda r: 1).cancelled()
