"""Profiles and volumes through vertical rays, against a known shape."""

import concurrent.futures

import numpy as np
import pytest

from infnerf_jax.viewer import jobs, schedule, views

_LEVEL = views.make_level([0.1, -0.2, 0.9])
# A block of 6 x 4 x 2.5 m on level ground at 10 m, corner at (20, 30).
_LOW, _HIGH, _GROUND = np.array([20.0, 30.0]), np.array([26.0, 34.0]), 10.0


class _Block:
  """Stands for a Renderer: vertical rays meet ground or block."""

  limits = schedule.Limits(8192, 2)

  def top(self, level):
    return 50.0

  def heights(self, camera, level, appearance):
    first, way = views.pixel_ray(camera, 0.0, 0.0)
    np.testing.assert_allclose(way, -level.rotation[2], atol=1e-9)
    first = level.to_level(first)
    assert first[2] == pytest.approx(50)
    # Parallel rays: their origins are even steps apart.
    step = lambda u, v: level.to_level(views.pixel_ray(camera, u, v)[0]) - first
    u = (np.arange(camera.width) + 0.5) / camera.width
    v = (np.arange(camera.height) + 0.5) / camera.height
    place = first + u[None, :, None] * step(1, 0)
    place = place + v[:, None, None] * step(0, 1)
    plan = place[..., :2]
    on_block = np.all((plan > _LOW) & (plan < _HIGH), axis=-1)
    return _GROUND + 2.5 * on_block


class _Now:
  """Stands for a RenderLoop: does everything at once."""

  def call(self, function, *args):
    future = concurrent.futures.Future()
    future.set_result(function(_Block(), *args))
    return future


def _world(points):
  return _LEVEL.to_world(points)


def test_profile_over_a_block():
  line = _world([[16, 32, _GROUND], [23, 32, 12.5], [23, 40, _GROUND]])
  found = jobs.profile(_Now(), _LEVEL, line, None)
  assert found.length == pytest.approx(15)
  assert found.climb == found.fall == pytest.approx(2.5)
  # 4 m of ground, then 3 + 2 m of block, then ground.
  high = found.along[found.heights > 11]
  np.testing.assert_allclose([high.min(), high.max()], [4, 9], atol=0.1)
  assert np.all(np.diff(found.along) > 0)


def test_a_line_of_one_place_has_no_profile():
  line = _world([[16, 32, _GROUND], [16, 32, 12]])
  assert np.isnan(jobs.profile(_Now(), _LEVEL, line, None).heights).all()


@pytest.mark.parametrize('base,height', [('lowest', 0.0), ('height', _GROUND)])
def test_volume_of_a_block(base, height):
  polygon = _world([[18, 29, 10], [28, 29, 10], [28, 36, 10], [18, 36, 10]])
  found = jobs.volume(
      _Now(), _LEVEL, polygon, None, base=base, base_height=height
  )
  assert found.area == pytest.approx(70)
  assert found.known == 1
  # Cells are 5 cm: the block's sides are hit to half of one.
  assert found.above == pytest.approx(6 * 4 * 2.5, rel=0.02)
  assert found.below == 0


def test_volume_below_a_raised_base():
  polygon = _world([[18, 29, 10], [28, 29, 10], [28, 36, 10], [18, 36, 10]])
  found = jobs.volume(
      _Now(), _LEVEL, polygon, None, base='height', base_height=12.5
  )
  assert found.above == pytest.approx(0, abs=1e-9)
  assert found.below == pytest.approx((70 - 24) * 2.5, rel=0.02)
