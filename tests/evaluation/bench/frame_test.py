"""The frame of the GPU's rows: contestants agree, rows hold what was timed."""

import dataclasses

import numpy as np
import pytest

from infnerf_jax.evaluation.bench import (
    contests,
    frame,
    frame_rows,
    frame_steps,
)

_FAKES = 'tests.evaluation.bench.contestants'
SHAPE = dataclasses.asdict(frame.TINY)


def test_the_default_frame_reaches_every_level():
  octree = frame.make_tree(frame.FRAME.max_level)
  assert octree.num_levels == 9
  assert 100 < octree.num_nodes < 300
  data = frame.make_frame(dataclasses.replace(frame.FRAME, width=16))
  assert np.all(data.far > data.near)
  np.testing.assert_allclose(np.linalg.norm(data.directions, axis=-1), 1, 1e-6)
  # Distances to the plane of rays that look down, and their levels.
  down = data.directions[:, 2] < -0.01
  t = frame._HEIGHT / -data.directions[down, 2]
  full = dataclasses.replace(frame.FRAME).width
  footprint = t * 0.564 / full
  level = np.sum(footprint[:, None] < data.level_footprints, axis=-1)
  assert level.max() == 8 and level.min() <= 4


def test_occupied_cells_hold_the_plane():
  octree = frame.make_tree(3)
  flags = frame._occupied(octree)
  for n in range(octree.num_nodes):
    side = 1 / 2.0 ** octree.level[n]
    low = octree.coord[n, 2] * side + np.arange(4) * side / 4
    holds = (low <= frame._PLANE) & (frame._PLANE < low + side / 4)
    assert np.all(flags[n][:, :, holds])
    assert flags[n].sum() <= 32


@pytest.fixture(scope='module')
def prepared():
  return frame_steps.prepare(SHAPE, 'xla')


@pytest.fixture(scope='module')
def parts(prepared):
  return frame_steps.parts(prepared)


def test_our_parts_return_the_number_of_samples(parts):
  assert set(parts) == set(frame_rows.TARGETS)
  counts = {part() for part in parts.values()}
  assert len(counts) == 1 and counts.pop() > 100


def test_torch_renders_the_same_frame(prepared, parts):
  torch = pytest.importorskip('torch')
  torch.set_num_threads(1)
  from infnerf_jax.evaluation.bench import torch_frame

  ours = np.asarray(prepared.picture())
  theirs = torch_frame.picture(SHAPE)
  assert ours.std() > 0.01
  # Intervals whose middle lies on a face may fall to either side of it.
  same = np.abs(ours - theirs).max(axis=-1) < 1e-4
  assert same.mean() > 0.9
  peer = torch_frame.frame_parts(SHAPE, platform='cpu')
  assert set(peer) == set(parts)
  counts = {part() for part in peer.values()}
  assert len(counts) == 1
  np.testing.assert_allclose(counts.pop(), parts['frame'](), rtol=0.01)


def test_where_there_is_no_gpu_nothing_runs():
  if frame_steps.jax.default_backend() == 'gpu':
    pytest.skip('there is one')
  with pytest.raises(RuntimeError, match='no GPU'):
    frame_steps.frame_parts(SHAPE, implementation='xla', platform='gpu')
  with pytest.raises(RuntimeError, match='no GPU'):
    frame_steps.train_rate({}, implementation='xla', platform='gpu')


def _context(ours, *peers, trainer):
  peer = lambda name: contests.Peer(name, f'{_FAKES}:{name}', {})
  return frame_rows.GpuContext(
      shape=frame.TINY,
      effort=contests.Effort(rounds=1, warmup=1, turn_seconds=0.0),
      platform='cpu',
      ours=peer(ours),
      peers=tuple(peer(p) for p in peers),
      trainer=peer(trainer),
  )


def test_rows_hold_what_was_timed():
  context = _context('frame_fast', 'frame_slow', 'no_gpu', trainer='trains')
  rows = {r.name: r for r in frame_rows.rows('x', context)}
  row = rows['x/composite/frame_fast vs frame_slow']
  assert row.target == frame_rows.TARGETS['composite']
  assert row.ratio > 2 and row.passed is (row.ratio >= row.target)
  work = frame.works(frame.TINY, 64, 500)['composite']
  rate = row.detail['bytes_per_second']
  np.testing.assert_allclose(
      rate, work.num_bytes / (row.value / 1e3), rtol=1e-6
  )
  assert row.detail['samples_of_reference'] == 400
  other = rows['x/composite/frame_fast vs no_gpu']
  assert other.value is None and 'no GPU' in other.note
  time = rows['x/frame/time']
  assert time.value > 0 and time.passed is (time.value <= time.target)
  assert rows['x/train/trains'].value > 0


def test_without_a_gpu_every_row_says_so():
  context = _context('no_gpu', 'frame_slow', 'no_gpu', trainer='no_gpu')
  rows = frame_rows.rows('x', context)
  assert len(rows) == 2 * len(frame_rows.TARGETS) + 2
  for row in rows:
    assert row.value is None and row.passed is None
    assert row.note == 'not run: no GPU'
  assert all(r.target for r in rows if 'slow' in r.name)


def test_peaks_are_found_by_the_device_name():
  context = frame_rows.GpuContext(shape=frame.TINY)
  timing = frame_rows.harness.Timing([[1e-3]], [[1e-3]], [500.0])
  found = frame_rows._achieved(context, 'frame', timing, 'NVIDIA H200')
  assert found['share_of_peak_bytes'] == found['bytes_per_second'] / 4.8e12
  other = frame_rows._achieved(context, 'frame', timing, 'something else')
  assert 'share_of_peak_bytes' not in other


def test_work_grows_with_samples():
  few, many = (frame.works(frame.FRAME, 100, n) for n in (10, 1000))
  assert set(few) == set(frame_rows.TARGETS)
  for op in few:
    assert many[op].num_bytes > few[op].num_bytes
  macs = 64 * (16 + 16 + 63 + 64 + 3)  # of the MLPs, 8 scales of 2 features
  lookup = many['hash_lookup'].flops
  assert many['node_field'].flops == lookup + 1000 * 2 * macs
