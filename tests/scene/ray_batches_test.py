"""Ray batches: pure in (seed, step), uniform over pixels, correct pixels."""

import dataclasses
import math
import threading
import time

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.scene import pyramid, ray_batches, readers
from tests.scene import builders

OPTIONS = ray_batches.BatchOptions(
    num_rays=512, pyramid_ray_share=(2, 1, 1), seed=7, window_steps=4,
    window_photos=2,
)  # fmt: skip


def _pyramid(tmp_path, *, cache_gb=1.0, downscale=1.0, edit=None):
  folder = builders.infnerf(tmp_path / 'scene', num_photos=6, edit=edit)
  builders.save_photo(folder / 'images' / '04.png', size=(96, 72), seed=4)
  scene = readers.load_scene(folder)
  result, _, _ = pyramid.build(
      scene,
      tmp_path / 'cache',
      cache_gb=cache_gb,
      downscale=downscale,
      num_levels=3,
      show_progress=False,
  )
  return result


@pytest.mark.parametrize('candidates', [1, 3])
@pytest.mark.parametrize('cache_gb', [1.0, 1.5e-5, 0.0])
@pytest.mark.parametrize('downscale', [1.0, 1.5])
def test_rays_carry_their_pixels(tmp_path, cache_gb, downscale, candidates):
  photos = _pyramid(tmp_path, cache_gb=cache_gb, downscale=downscale)
  options = dataclasses.replace(OPTIONS, detail_candidates=candidates)
  batch = ray_batches.sample_batch(photos, np.arange(6), options, 3)
  side = downscale * 2.0**batch.pyramid_level
  np.testing.assert_allclose(batch.pixel_size, side, rtol=1e-6)
  index = batch.pix / side[:, None] - 0.5
  np.testing.assert_allclose(index, np.round(index), atol=1e-4)
  x, y = np.round(index).astype(int).T
  for i in range(OPTIONS.num_rays):
    rgb, _ = pyramid.photo(photos, batch.photo_idx[i], batch.pyramid_level[i])
    np.testing.assert_allclose(batch.rgb[i] * 255, rgb[y[i], x[i]], atol=1e-4)
  assert batch.valid.all()
  kinds = [np.int32, np.float32, np.float32, np.int32, np.float32, np.bool_]
  kinds += [np.float32, np.int32]
  assert [field.dtype for field in batch] == kinds


@pytest.mark.parametrize('candidates', [1, 2])
@pytest.mark.parametrize('cache_gb', [1.0, 1.5e-5, 0.0])
def test_pure_function_of_seed_and_step(tmp_path, cache_gb, candidates):
  photos = _pyramid(tmp_path, cache_gb=cache_gb)
  here = dataclasses.replace(OPTIONS, detail_candidates=candidates)
  make = lambda step, options=here: ray_batches.sample_batch(
      photos, np.arange(6), options, step
  )
  first = [make(step) for step in range(6)]
  # Another order, and a decoder with another past.
  again = [make(step) for step in reversed(range(6))][::-1]
  for one, two in zip(first, again, strict=True):
    for a, b in zip(one, two, strict=True):
      np.testing.assert_array_equal(a, b)
  assert (first[0].pix != first[1].pix).any()
  other = make(0, ray_batches.BatchOptions(num_rays=512, seed=8))
  assert (other.pix != first[0].pix).any()


def _draw(photos, rows, *, steps, **options):
  options = ray_batches.BatchOptions(num_rays=20_000, **options)
  batches = [
      ray_batches.sample_batch(photos, rows, options, step)
      for step in range(steps)
  ]
  stack = lambda field: np.concatenate([getattr(b, field) for b in batches])
  return stack('photo_idx'), stack('pyramid_level'), stack('pix')


def test_uniform_over_pixels_of_a_level(tmp_path):
  photos = _pyramid(tmp_path)
  rows = np.array([0, 2, 4])
  photo, level, pix = _draw(
      photos, rows, steps=4, pyramid_ray_share=(0.5, 0.25, 0.25)
  )
  count = len(photo)
  share = np.bincount(level, minlength=3) / count
  np.testing.assert_allclose(share, [0.5, 0.25, 0.25], atol=0.01)
  for k in range(3):
    pixels = photos.sizes[rows, k].prod(axis=-1)
    got = np.bincount(photo[level == k], minlength=6)[rows]
    expected = pixels / pixels.sum()  # photo 4 has four times the pixels
    np.testing.assert_allclose(got / got.sum(), expected, atol=0.02)
  assert set(photo) == {0, 2, 4}
  fine = (level == 0) & (photo == 4)
  x, y = np.floor(pix[fine]).astype(int).T
  assert x.min() == 0 and x.max() == 95 and y.min() == 0 and y.max() == 71
  counts = np.histogram2d(y, x, bins=(6, 8), range=((0, 72), (0, 96)))[0]
  expected = fine.sum() / 48
  # Five standard deviations of a count.
  assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize('cache_gb', [1.5e-5, 0.0])
def test_photos_on_demand_get_their_share_in_turn(tmp_path, cache_gb):
  photos = _pyramid(tmp_path, cache_gb=cache_gb)
  on_demand = np.nonzero(photos.offsets < 0)[0]
  assert len(on_demand) in (4, 6)
  options = {'window_steps': 1, 'window_photos': 2}
  windows = [
      set(
          ray_batches.window_rows(
              photos, np.arange(6), ray_batches.BatchOptions(**options), window
          )
      )
      for window in range(12)
  ]
  assert all(1 <= len(rows) <= 2 for rows in windows)
  per_round = len(on_demand) // 2
  for start in range(0, 12, per_round):  # each round shows each photo once
    assert set.union(*windows[start : start + per_round]) == set(on_demand)
  photo, level, _ = _draw(photos, np.arange(6), steps=12, **options)
  pixels = photos.sizes[:, 0].prod(axis=-1)
  got = np.bincount(photo[level == 0], minlength=6)
  cached = photos.offsets >= 0
  np.testing.assert_allclose(
      got[cached] / got.sum(), pixels[cached] / pixels.sum(), atol=0.01
  )
  assert (got > 0).all()


@pytest.mark.parametrize('candidates', [2, 3])
def test_detail_wins_by_its_size(tmp_path, candidates):
  """Chances against the binomial sum over how many candidates have detail."""
  step = 20  # of 255

  folder = builders.infnerf(tmp_path / 'scene', num_photos=6)
  for path in (folder / 'images').iterdir():
    with PIL.Image.open(path) as photo:
      width, height = photo.size
    y, x = np.mgrid[:height, :width]
    board = 100 + step * (-1) ** (x + y) * (x < width // 2)
    rgb = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    PIL.Image.fromarray(rgb).save(path)
  scene = readers.load_scene(folder)
  photos, _, _ = pyramid.build(
      scene, tmp_path / 'cache', cache_gb=1.0, downscale=1.0, num_levels=2,
      show_progress=False,
  )  # fmt: skip
  idx, level, pix = _draw(
      photos, np.arange(6), steps=2, pyramid_ray_share=(1, 0.5),
      detail_candidates=candidates,
  )  # fmt: skip
  assert np.mean(level == 0) == pytest.approx(2 / 3, abs=0.01)
  assert set(idx) == set(range(6))
  left = pix[:, 0] < photos.sizes[0, 0, 0] // 2
  # The coarsest level has nothing to differ from.
  assert left[level == 1].mean() == pytest.approx(0.5, abs=0.02)
  smooth = 0.03
  detailed = smooth + step / 255
  chance = sum(
      math.comb(candidates, k) / 2**candidates
      * k * detailed / (k * detailed + (candidates - k) * smooth)
      for k in range(candidates + 1)
  )  # fmt: skip
  assert left[level == 0].mean() == pytest.approx(chance, abs=0.02)


def test_windows_fit_the_memory_for_decoded_photos(tmp_path):
  photos = _pyramid(tmp_path, cache_gb=0.0)
  photos.on_demand.max_bytes = 8 * 96 * 72 * 2 + 100
  options = ray_batches.BatchOptions(window_photos=16)
  rows = ray_batches.window_rows(photos, np.arange(6), options, 0)
  assert len(rows) == 1


def test_next_window_is_decoded_in_the_background(tmp_path):
  photos = _pyramid(tmp_path, cache_gb=0.0)
  for step in range(4):
    ray_batches.sample_batch(photos, np.arange(6), OPTIONS, step)
  due = ray_batches.window_rows(photos, np.arange(6), OPTIONS, 1)
  deadline = time.monotonic() + 20
  while not set(due) <= set(photos.on_demand._kept):
    assert time.monotonic() < deadline
    time.sleep(0.01)
  before = photos.on_demand.num_decoded
  ray_batches.sample_batch(photos, np.arange(6), OPTIONS, 4)
  now = set(photos.on_demand._kept)
  assert set(due) <= now and before >= len(due)


def test_masked_pixels_are_not_valid(tmp_path):
  def edit(entries):
    entries['01.png']['mask'] = 'm.png'

  mask = np.zeros((36, 48), np.uint8)
  mask[:, 20:] = 255
  (tmp_path / 'scene').mkdir()
  PIL.Image.fromarray(mask).save(tmp_path / 'scene' / 'm.png')
  photos = _pyramid(tmp_path, edit=edit)
  batch = ray_batches.sample_batch(photos, np.array([1, 2]), OPTIONS, 0)
  left = batch.pix[:, 0] - batch.pixel_size / 2
  expected = (batch.photo_idx == 2) | (left >= 20)
  np.testing.assert_array_equal(batch.valid, expected)
  assert 0.5 < expected.mean() < 1


@pytest.mark.parametrize(
    'share, message',
    [
        ((0, 0, 0), 'not all zero'),
        ((1, -1), 'not all zero'),
        ((float('nan'),), 'not all zero'),
        ((0, 0, 0, 1), 'not all zero'),
    ],
)
def test_bad_shares(tmp_path, share, message):
  photos = _pyramid(tmp_path)
  options = ray_batches.BatchOptions(pyramid_ray_share=share)
  with pytest.raises(errors.InputError, match=message):
    ray_batches.sample_batch(photos, np.arange(6), options, 0)


def test_level_without_pixels(tmp_path):
  photos = _pyramid(tmp_path)
  photos.sizes[:, 2] = 0
  with pytest.raises(errors.InputError, match='levels without pixels'):
    ray_batches.sample_batch(photos, np.arange(6), OPTIONS, 0)


def test_prefetcher_keeps_order_and_bounds():
  made = []

  def make(step):
    made.append(step)
    time.sleep(0.002 if step % 2 else 0.0)
    return step

  with ray_batches.Prefetcher(make, 5, num_ahead=3, num_threads=2) as batches:
    got = [next(batches) for _ in range(20)]
    time.sleep(0.05)
    assert len(made) == 23
  assert got == list(range(5, 25))
  assert threading.active_count() < 20


def test_prefetcher_counts_waiting():
  with ray_batches.Prefetcher(lambda step: step, 0) as batches:
    for _ in range(5):
      next(batches)
      time.sleep(0.02)
    assert batches.wait_share() < 0.5
  slow = lambda step: time.sleep(0.03)
  with ray_batches.Prefetcher(slow, 0, num_ahead=1) as batches:
    for _ in range(5):
      next(batches)
    assert batches.wait_share() > 0.5
    assert 0.05 < batches.seconds_waited < 5


def test_prefetcher_hands_on_exceptions():
  def make(step):
    if step == 2:
      raise ValueError('batch 2')
    return step

  batches = ray_batches.Prefetcher(make, 0)
  assert [next(batches), next(batches)] == [0, 1]
  with pytest.raises(ValueError, match='batch 2'):
    next(batches)
  with pytest.raises(StopIteration):
    next(batches)
