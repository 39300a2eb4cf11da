"""Stages, bands and turns."""

import numpy as np
import pytest

from infnerf_jax.render import render_image
from infnerf_jax.viewer import schedule, views
from tests import tiny_model

_LIMITS = schedule.Limits(corners=2048, stride=2)


def _stages(width, height, speed, **changes):
  options = {'max_pixels': 1_500_000, 'limits': _LIMITS, **changes}
  return schedule.stages(width, height, rays_per_second=speed, **options)


@pytest.mark.parametrize('speed', [3e3, 40e3, 5e6])
@pytest.mark.parametrize(
    'width,height', [(1280, 720), (317, 1003), (1, 1), (5000, 20)]
)
def test_pictures_halve_their_pixels_down_to_the_canvas(width, height, speed):
  stages = _stages(width, height, speed)
  sizes = [stage.pixel_size for stage in stages]
  np.testing.assert_allclose(sizes, [2.0**i for i in range(len(sizes))][::-1])
  assert (stages[-1].width, stages[-1].height) == (width, height)
  first = stages[0].width * stages[0].height
  # The first is in time, and no coarser than it must be.
  assert first <= max(0.15 * speed, 256) or first == 1
  if len(stages) > 1:
    assert first > max(0.15 * speed, 256) / 8
  for stage in stages:
    rows = sorted(stage.bands)
    assert rows[0][0] == 0 and rows[-1][1] == stage.height
    assert all(a[1] == b[0] for a, b in zip(rows, rows[1:]))


def test_bands_are_small_and_begin_in_the_middle():
  stages = _stages(1280, 720, 40e3)
  last = stages[-1]
  for top, bottom in last.bands:
    assert (bottom - top) * last.width <= 0.15 * 40e3
    corners = (-(-last.width // 2) + 1) * (-(-(bottom - top) // 2) + 1)
    assert corners <= 2048
  away = [abs(0.5 * (a + b) - 360) for a, b in last.bands]
  assert away == sorted(away)


def test_canvases_beyond_the_limit_get_larger_pixels():
  stages = _stages(4000, 3000, 1e5, max_pixels=300_000)
  assert stages[-1].width * stages[-1].height <= 300_000
  assert stages[-1].width * stages[-1].height > 290_000


@pytest.mark.parametrize('size', [1.0, 1.37, 6.32, 64.0])
def test_a_band_has_the_size_that_it_says(size):
  """What the renderer asks of a part of a camera is what it gets."""
  camera = tiny_model.make_camera(width=801, height=455)
  columns, rows = int(801 / size), int(455 / size)
  for top, bottom in ((0, rows), (rows // 3, rows // 3 + 4)):
    part = views.part_of(
        camera, 0, top * size, columns * size, (bottom - top) * size
    )
    found = render_image.image_size(part, pixel_size=size)
    assert found == (columns, bottom - top)


def test_coarse_pictures_come_first_then_who_waited():
  turn = schedule.Turn
  assert schedule.next_turn([]) is None
  assert schedule.next_turn([turn(1, 2, 5), turn(2, 0, 9)]) == 2
  assert schedule.next_turn([turn(1, 1, 5), turn(2, 1, 4)]) == 2


def test_all_clients_get_their_first_picture_before_any_a_second():
  """Ten clients of three stages with three bands each."""
  place = {client: [0, 0] for client in range(10)}
  served, finished = dict.fromkeys(place, 0), []
  for count in range(1, 91):
    client = schedule.next_turn(
        schedule.Turn(c, stage, served[c])
        for c, (stage, _) in place.items()
        if stage < 3
    )
    served[client] = count
    stage, band = place[client]
    if band == 2:
      finished.append((stage, client))
      place[client] = [stage + 1, 0]
    else:
      place[client] = [stage, band + 1]
  assert [stage for stage, _ in finished] == [0] * 10 + [1] * 10 + [2] * 10
  assert all(stage == 3 for stage, _ in place.values())


def test_speed_follows_what_is_measured():
  speed = schedule.update_speed(None, 1000, 0.1)
  assert speed == pytest.approx(10_000)
  for _ in range(40):
    speed = schedule.update_speed(speed, 8192, 8192 / 50_000)
  assert speed == pytest.approx(50_000, rel=0.01)
  # A band of a few rays says little.
  assert schedule.update_speed(50_000, 16, 0.01) > 48_000


def test_clients_share_what_pictures_may_take():
  limit = lambda cap, clients: schedule.pixel_limit(
      cap, clients, bytes_per_pixel=24, most=1_000_000
  )
  assert limit(0, 50) == 1_000_000
  assert limit(48e6, 2) == 1_000_000
  assert limit(24e6, 10) == 100_000
  assert limit(1e3, 10) == 160 * 120
