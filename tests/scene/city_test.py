"""The procedural city against slow oracles and its own promises."""

import functools

import jax
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from infnerf_jax.scene.city import (
    layout,
    native,
    rendering,
    surveying,
    tracing,
)

LOT = layout.LOT


def _camera(position, target, size=(40, 30), focal=28.0, **kwargs):
  return cameras_lib.make_camera(
      focal=focal,
      width=size[0],
      height=size[1],
      cam_to_world=cameras_lib.look_at(position, target),
      **kwargs,
  )


def _map(x, y, side, num, height=60.0):
  """Orthographic view from above, `num` pixels across `side` metres."""
  return _camera(
      (x, y, height),
      (x, y, 0.0),
      size=(num, num),
      focal=num / side,
      projection=cameras_lib.ORTHOGRAPHIC,
  )


def _random_rays(num, seed, height=40.0):
  rng = np.random.default_rng(seed)
  origins = np.column_stack(
      [rng.uniform(-50, 50, (num, 2)), np.full(num, height)]
  )
  directions = rng.normal(size=(num, 3)) + [0, 0, -1.2]
  directions[:, 2] = -np.abs(directions[:, 2]) - 0.2
  return origins, directions / np.linalg.norm(directions, axis=1)[:, None]


_contents = jax.jit(layout.lot_contents)


def _lots(city, x, y):
  """Contents of up to 4096 lots; one size, so that one is compiled."""
  x, y = np.asarray(x, np.int32), np.asarray(y, np.int32)
  pad = (0, 4096 - len(x))
  lot = _contents(np.pad(x, pad), np.pad(y, pad), layout.seed_word(city))
  return layout.Lot(
      *(np.asarray(field, np.float64)[..., : len(x)] for field in lot)
  )


@functools.cache
def _table(city, radius=20):
  """Contents of the lots around the centre, [2 * radius + 1]**2 in a row."""
  side = np.arange(-radius, radius + 1)
  x, y = (a.ravel() for a in np.meshgrid(side, side, indexing='ij'))
  return _lots(city, x, y)


def _lots_near(city, index, radius=20):
  index = np.clip(index, -radius, radius) + radius
  row = index[:, 0] * (2 * radius + 1) + index[:, 1]
  return layout.Lot(*(field[..., row] for field in _table(city)))


def _is_solid(city, p):
  """[N] bool, whether points [N, 3] are inside a shape, from definitions."""
  index = np.floor(p[:, :2] / LOT + 0.5).astype(int)
  x, y = (p[:, :2] - (index - 0.5) * LOT).T
  z = p[:, 2]
  lot = _lots_near(city, index)
  dx, dy = np.abs(x - lot.center_x), np.abs(y - lot.center_y)
  solid = (dx < lot.half_x) & (dy < lot.half_y)
  solid &= (z < lot.top_x - lot.slope_x * dx) & (
      z < lot.top_y - lot.slope_y * dy
  )
  solid |= (
      (np.abs(x - lot.box_x) < lot.box_half_x)
      & (np.abs(y - lot.box_y) < lot.box_half_y)
      & (z < lot.box_top)
  )
  for i in range(2):
    tx, ty = x - lot.tree_x[i], y - lot.tree_y[i]
    exists = lot.tree_radius[i] > 0
    crown = (tx**2 + ty**2) / lot.tree_radius[i] ** 2 + (
        (z - lot.tree_z[i]) / lot.tree_half_height[i]
    ) ** 2 < 1
    trunk = (np.maximum(np.abs(tx), np.abs(ty)) < 0.14) & (z < lot.tree_z[i])
    solid |= exists & (crown | trunk)
  inside = np.abs(index).max(axis=1) <= layout.radius_in_lots(city)
  return (solid & inside) | (z <= 0)


def _march(city, origins, directions, step=0.02, far=240.0):
  """Distances by marching until inside, then bisection."""
  t = np.arange(step, far, step)
  found = np.full(len(origins), np.inf)
  for i, (o, d) in enumerate(zip(origins, directions, strict=True)):
    inside = _is_solid(city, o + t[:, None] * d)
    if not inside.any():
      continue
    high = t[np.argmax(inside)]
    low = high - step
    for _ in range(20):
      middle = (low + high) / 2
      if _is_solid(city, (o + middle * d)[None])[0]:
        high = middle
      else:
        low = middle
    found[i] = high
  return found


def test_depth_agrees_with_a_marcher():
  city = city_lib.make_city(seed=3)
  origins, directions = _random_rays(60, 0)
  depth = rendering.cast_rays(city, origins, directions)
  marched = _march(city, origins, directions)
  # A marcher may step over a corner, never see something too early.
  assert np.all(depth <= marched + 1e-3)
  close = np.abs(depth - marched) < 1e-3
  assert close.mean() > 0.95
  assert np.isfinite(depth).all() and depth.min() < 0.9 * depth.max()


def test_orthographic_height_is_the_layouts():
  city = city_lib.make_city(seed=1, extent=1000.0)
  x, y = np.meshgrid(np.arange(-20, 20), np.arange(-20, 20))
  x, y = x.ravel(), y.ravel()
  lot = _lots(city, x, y)
  flat = (lot.kind == layout.BUILDING) & (lot.slope_x + lot.slope_y == 0)
  assert flat.sum() > 50
  # A corner of the roof, clear of the storey set back and of trees.
  px = (x - 0.5) * LOT + lot.center_x + 0.97 * lot.half_x
  py = (y - 0.5) * LOT + lot.center_y - 0.97 * lot.half_y
  origins = np.stack([px, py, np.full(len(x), 100.0)], axis=-1)[flat]
  depth = rendering.cast_rays(city, origins, [0.0, 0.0, -1.0])
  higher = (100 - depth) - lot.eave[flat]
  assert np.all(higher > -1e-4)
  assert np.mean(np.abs(higher) < 1e-4) > 0.9  # the others are under a crown
  assert (100 - depth).max() < city_lib.MAX_HEIGHT


def test_render_is_deterministic_and_seeded():
  camera = _camera((-40, -50, 45), (0, 0, 5))
  first = city_lib.render(city_lib.make_city(seed=5), camera)
  second = city_lib.render(city_lib.make_city(seed=5), camera)
  other = city_lib.render(city_lib.make_city(seed=6), camera)
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)
  assert np.abs(first.rgb - other.rgb).mean() > 0.03
  assert first.rgb.dtype == np.float32
  assert 0 <= first.rgb.min() and first.rgb.max() <= 1
  assert first.valid.any() and np.isfinite(first.depth[first.valid]).all()


@pytest.mark.skipif(not native.available(), reason='no C++ compiler')
@pytest.mark.parametrize('extent', [132.0, 1e5])
def test_native_and_jax_cast_the_same(extent):
  city = city_lib.make_city(seed=2, extent=extent)
  origins, directions = _random_rays(3000, 1)
  directions[::7, 2] *= -0.3  # some into the sky
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  origins[::3, 2] = 1.7  # street level
  slope = np.exp(np.random.default_rng(0).uniform(-9, -2, len(origins)))
  views = [
      city_lib.render_rays(city, origins, directions, slope, implementation=i)
      for i in ('native', 'jax')
  ]
  np.testing.assert_array_equal(views[0].valid, views[1].valid)
  valid = views[0].valid
  gap = np.abs(views[0].depth[valid] - views[1].depth[valid])
  assert np.mean(gap < 1e-3) > 0.999
  apart = np.abs(views[0].rgb - views[1].rgb).max(axis=-1)
  assert np.mean(apart < 2e-3) > 0.998


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'distortion': (-0.1, 0.02)},
        {'projection': cameras_lib.FISHEYE, 'distortion': (0.05,)},
        {'projection': cameras_lib.ORTHOGRAPHIC, 'focal': 0.5},
    ],
    ids=['pinhole', 'opencv', 'fisheye', 'orthographic'],
)
def test_pixel_rays_project_back(options):
  options = {'focal': 28.0, **options}
  camera = _camera((10, -60, 50), (0, 0, 0), **options)
  pix = np.random.default_rng(0).uniform(0, 30, (50, 2))
  origins, directions, base, slope = rendering.pixel_rays(pix, camera)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-12)
  back, _ = cameras_lib.project(camera, origins + 17.0 * directions)
  np.testing.assert_allclose(back, pix, atol=1e-6)
  assert np.all(base + slope > 0)
  view = city_lib.render(city_lib.make_city(), camera, supersampling=2)
  assert view.valid.all() and view.rgb.std() > 0.05
  middle = pix * 0 + [15.5, 20.5]
  o, d, _, _ = rendering.pixel_rays(middle[:1], camera)
  depth = rendering.cast_rays(city_lib.make_city(), o, d)
  assert view.depth[20, 15] == pytest.approx(depth[0], abs=1e-9)


def _box_mean(image, factor):
  height, width = (n // factor for n in image.shape[:2])
  image = image[: height * factor, : width * factor]
  image = image.reshape(height, factor, width, factor, 3)
  return image.mean(axis=(1, 3), dtype=np.float64)


@pytest.mark.parametrize('pyramid_level', [1, 2, 3])
def test_pyramid_level_is_the_mean_of_the_photo(pyramid_level):
  city = city_lib.make_city()
  camera = _camera((-40, -50, 45), (0, 0, 5), size=(160, 120), focal=110.0)
  exact = city_lib.render(city, camera, supersampling=8, with_depth=False)
  expected = _box_mean(exact.rgb, 2**pyramid_level)
  view = city_lib.render(
      city, camera, pyramid_level=pyramid_level, supersampling=8
  )
  assert view.rgb.shape == expected.shape
  error = np.sqrt(np.mean((view.rgb - expected) ** 2))
  assert error < 0.008  # 42 dB; edges are sampled, textures filtered
  few = city_lib.render(
      city, camera, pyramid_level=pyramid_level, supersampling=4
  )
  assert np.sqrt(np.mean((few.rgb - expected) ** 2)) < 0.02


def test_one_wide_sample_sees_the_mean_of_many():
  """Patterns that fade keep the mean: roofs, walls, streets, lawns, fields."""
  city = city_lib.make_city(seed=4)
  for x, y, side in ((0.0, 20.0, 1.6), (90.0, 0.0, 24.0), (0.0, 9.0, 0.8)):
    fine = city_lib.render(city, _map(x, y, side, 256), supersampling=1)
    same = np.ptp(fine.depth) < 1e-6
    coarse = city_lib.render(city, _map(x, y, side, 4), supersampling=4)
    expected = _box_mean(fine.rgb, 64)
    assert same or side > 2
    np.testing.assert_allclose(coarse.rgb, expected, atol=0.03)


@pytest.mark.parametrize('place', ['road', 'lawn', 'roof', 'wall', 'field'])
def test_every_octave_carries_energy(place):
  """Variation between neighbours is there from 1 cm to tens of metres."""
  city = city_lib.make_city(seed=0, extent=1320.0)
  num = 64
  for size in 0.0075 * 2.0 ** np.arange(0, 10 if place == 'field' else 6):
    side = num * size
    camera = {
        'road': _map(0.0, 20.0, side, num),
        'lawn': _map(-30.0 + 3, -30.0, side, num),
        'field': _map(900.0, 900.0, side, num),
    }.get(place)
    if camera is None:
      camera = _building_view(city, place, side, num)
    rgb = city_lib.render(city, camera, supersampling=4, with_depth=False).rgb
    pairs = _box_mean(rgb, 2)
    detail = rgb - np.repeat(np.repeat(pairs, 2, axis=0), 2, axis=1)
    assert detail.std() > 8e-4, (place, size, detail.std())


def _building_view(city, place, side, num):
  """Orthographic view of a sunlit building's roof or south wall."""
  x, y = np.meshgrid(np.arange(-30, 30), np.arange(-30, 30))
  x, y = x.ravel(), y.ravel()
  lot = _lots(city, x, y)
  good = (lot.kind == layout.BUILDING) & (y % 5 == 1) & (lot.eave > 9)
  row = np.flatnonzero(good)[0]
  center = np.array(
      [
          (x[row] - 0.5) * LOT + lot.center_x[row],
          (y[row] - 0.5) * LOT + lot.center_y[row],
      ]
  )
  if place == 'roof':
    return _map(*center, side, num)
  south = center[1] - lot.half_y[row]
  return _camera(
      (center[0], south - 8.0, 5.0),
      (center[0], south, 5.0),
      size=(num, num),
      focal=num / side,
      projection=cameras_lib.ORTHOGRAPHIC,
  )


@pytest.mark.parametrize('place', [(900.0, 900.0), (0.0, 0.0)])
def test_nothing_repeats_within_fifty_metres(place):
  """The largest autocorrelation beyond a metre stays far from one."""
  city = city_lib.make_city(seed=0, extent=300.0)
  num, side = 640, 64.0
  view = city_lib.render(
      city, _map(*place, side, num), supersampling=2, with_depth=False
  )
  rgb = view.rgb.mean(axis=-1).astype(np.float64)
  rgb -= _blur(rgb)
  # Zero padding: only true overlaps count.
  spectrum = np.fft.rfft2(rgb, (2 * num, 2 * num))
  product = np.fft.irfft2(np.abs(spectrum) ** 2)
  ones = np.fft.rfft2(np.ones((num, num)), (2 * num, 2 * num))
  overlap = np.fft.irfft2(np.abs(ones) ** 2)
  correlation = product / np.maximum(overlap, 1.0) / np.mean(rgb**2)
  shift = np.minimum(np.arange(2 * num), 2 * num - np.arange(2 * num)) / 10.0
  distance = np.hypot(shift[:, None], shift[None])
  correlation = np.where(
      (distance > 1.0) & (distance < 50.0) & (overlap > num**2 / 16),
      correlation,
      0,
  )
  assert np.abs(correlation).max() < 0.5


def _blur(image, width=16):
  """Mean over a box of `width` pixels, periodic."""
  kernel = np.zeros(image.shape)
  kernel[:width, :width] = 1 / width**2
  kernel = np.roll(kernel, (-width // 2, -width // 2), (0, 1))
  return np.fft.irfft2(np.fft.rfft2(image) * np.fft.rfft2(kernel))


@pytest.mark.parametrize('far', [0.0, 49_980.0, 3e6])
def test_centimetre_texture_is_stable_anywhere(far):
  """A camera moved by whole pixels sees the same texture moved."""
  city = city_lib.make_city(seed=0, extent=1e7)
  far = np.round(far / 60) * 60  # a crossing of streets
  num, size = 64, 2.0**-7
  views = [
      city_lib.render(
          city, _map(far + shift, far + 3.0, num * size, num), supersampling=1
      )
      for shift in (0.0, 10 * size)
  ]
  first, second = views[0].rgb[:, 10:], views[1].rgb[:, :-10]
  assert np.abs(first - second).max() < 2e-3
  assert first.std() > 5e-3


@pytest.mark.parametrize('altitude', [1e3, 1e6])
def test_views_from_orbit_hit_where_they_should(altitude):
  city = city_lib.make_city(seed=0, extent=1e5)
  rng = np.random.default_rng(0)
  spots = np.column_stack([rng.uniform(-4e4, 4e4, (500, 2)), np.zeros(500)])
  direction = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
  low = rendering.cast_rays(city, spots - 60 * direction, direction)
  reach = altitude / -direction[2]
  high = rendering.cast_rays(city, spots - reach * direction, direction)
  np.testing.assert_allclose(high - reach, low - 60, atol=2e-3)
  view = city_lib.render(
      city, _camera((0, 0, altitude), (0, 0, 0)), supersampling=2
  )
  assert np.isfinite(view.rgb).all() and view.valid.all()


def test_cost_does_not_depend_on_the_extent():
  origins, directions = _random_rays(2000, 5)
  origins[:, :2] *= 0.1  # nothing leaves the smaller city
  lots = []
  for extent in (250.0, 1e6):
    city = city_lib.make_city(seed=0, extent=extent)
    zero = np.zeros(len(origins))
    result = tracing.cast_rays(city, origins, directions, zero, zero)
    lots.append(result[2])
  assert lots[0] <= lots[1] <= 1.1 * lots[0]


def test_larger_city_holds_the_smaller():
  camera = _map(0.0, 0.0, 50.0, 40)
  views = [
      city_lib.render(city_lib.make_city(extent=e), camera)
      for e in (132.0, 1320.0)
  ]
  np.testing.assert_array_equal(views[0].depth, views[1].depth)


def test_survey_covers_the_city():
  city = city_lib.make_city()
  cameras = city_lib.survey(city)
  assert 40 <= len(cameras.width) <= 110
  side = np.linspace(-60, 60, 13)
  spots = np.stack(np.meshgrid(side, side, [0.0]), axis=-1).reshape(-1, 3)
  pix, depth = cameras_lib.project(
      cameras_lib.Cameras(*(x[:, None] for x in cameras)), spots
  )
  size = np.stack([cameras.width, cameras.height], axis=-1)[:, None]
  seen = np.all((pix > 0) & (pix < size), axis=-1) & (depth > 0)
  assert seen.sum(axis=0).min() >= 5
  # Ground sampling distances span at least a factor of four.
  gsd = cameras.cam_to_world[:, 2, 3] / cameras.intrinsics[:, 0]
  assert gsd.max() >= 4 * gsd.min() * 0.99
  for num in (6, 33, 72):
    assert len(city_lib.survey(city, num_photos=num).width) == num
  large = city_lib.survey(city_lib.make_city(extent=660.0))
  assert 15 < len(large.width) / len(cameras.width) < 35


def test_visibility_is_exact():
  city = city_lib.make_city()
  cameras = city_lib.survey(city, num_photos=12)
  points, visibility = city_lib.sparse_points(
      city, cameras, num_points=800, seed=1
  )
  num = len(points.positions)
  assert 500 < num <= 800
  counts = np.diff(visibility.offsets)
  assert counts.min() >= 3 and visibility.offsets[-1] == len(
      visibility.photo_idx
  )
  listed = np.zeros((num, 12), bool)
  listed[np.repeat(np.arange(num), counts), visibility.photo_idx] = True
  # The other way round: from just before the point towards each camera,
  # unless that is inside the shape that the point lies on.
  expected = np.zeros_like(listed)
  for row in range(12):
    camera = cameras_lib.take(cameras, row)
    pix, depth = cameras_lib.project(camera, points.positions)
    inside = np.all((pix >= 0) & (pix < [400, 300]), axis=1) & (depth > 0)
    back = camera.cam_to_world[:, 3] - points.positions
    distance = np.linalg.norm(back, axis=1, keepdims=True)
    start = points.positions + back / distance * 0.02
    blocked = rendering.cast_rays(city, start, back / distance)
    outside = ~_is_solid(city, start)
    expected[:, row] = inside & outside & (blocked > distance[:, 0] - 0.02)
  assert np.mean(listed == expected) > 0.998
  again = city_lib.sparse_points(city, cameras, num_points=800, seed=1)
  np.testing.assert_array_equal(again[0].positions, points.positions)


def test_bad_options_are_refused():
  city = city_lib.make_city()
  for call in (
      lambda: city_lib.make_city(extent=float('nan')),
      lambda: city_lib.make_city(extent=1.0),
      lambda: city_lib.make_city(seed=-1),
      lambda: surveying.survey(city, num_photos=3),
      lambda: surveying.survey(city, altitudes=(3.0,)),
      lambda: surveying.survey(city, overlap=1.0),
      lambda: surveying.survey(city, photo_size=(4, 4)),
  ):
    with pytest.raises(errors.InputError) as caught:
      call()
    assert '\n' not in str(caught.value)
  with pytest.raises(ValueError, match='implementation'):
    city_lib.render_rays(city, [[0, 0, 50]], [[0, 0, -1]], implementation='x')
