"""Progress in a terminal and in a file."""

import io

import pytest

from infnerf_jax import progress


class Terminal(io.StringIO):
  isatty = lambda self: True


@pytest.fixture
def now(monkeypatch):
  clock = {'now': 1000.0}
  monkeypatch.setattr(progress.time, 'monotonic', lambda: clock['now'])
  return clock


def test_a_file_gets_a_line_every_half_minute(now):
  stream = io.StringIO()
  with progress.Progress(1000, first=100, stream=stream) as bar:
    for done in range(110, 410, 10):
      now['now'] += 2.5
      bar.update(done, rays_per_second=131_072.0, psnr=21.345, loss=0.00123)
  lines = stream.getvalue().splitlines()
  assert len(lines) == 2  # 75 s
  # 4 steps a second: 1000 - 220 = 780 steps are left.
  assert lines[0] == (
      'step 220/1000 (22%)  131.1k rays/s  21.34 dB  loss 0.00123  3:15 left'
  )


def test_a_terminal_gets_a_bar():
  stream = Terminal()
  with progress.Progress(4, stream=stream, description='photos') as bar:
    bar.update(4, psnr=20.0)
  text = stream.getvalue()
  assert 'photos' in text and '4/4' in text and '20.00 dB' in text


def test_time_left_forgets_the_compilation(now):
  bar = progress.Progress(1000, stream=io.StringIO())
  assert bar.seconds_left() is None
  now['now'] += 100
  bar.update(1)
  for done in range(2, 102):
    now['now'] += 1
    bar.update(done)
  assert bar.seconds_left() == pytest.approx(899)


@pytest.mark.parametrize(
    'seconds,text',
    [(0, '0:00'), (59.6, '1:00'), (192, '3:12'), (7384, '2:03:04')],
)
def test_clock(seconds, text):
  assert progress.clock(seconds) == text
