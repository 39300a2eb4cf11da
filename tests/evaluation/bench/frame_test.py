"""The frame of the GPU's rows: contestants agree, rows hold what was timed."""

import dataclasses

import numpy as np
import pytest

from infnerf_jax.evaluation.bench import (
    batch,
    batch_steps,
    contests,
    frame,
    frame_rows,
    frame_steps,
    shapes,
    suites,
    train_rate,
)
from tests.evaluation.bench import contestants

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
    holds = (low <= frame.PLANE) & (frame.PLANE < low + side / 4)
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
  counts = {op: part() for op, part in parts.items()}
  assert counts.pop('locate') == 64 * frame.TINY.num_located
  counts = set(counts.values())
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
  scene = torch_frame._Frame(frame.TINY)
  for block, t, (ray, distance) in zip(
      prepared.blocks, prepared.distances, scene.distances()
  ):
    nodes = prepared.ops.locate(prepared.scene, block, t).node_id
    other = scene.walk.descend(ray, distance, skip=False)[0]
    assert np.mean(np.ravel(nodes) == other.numpy()) > 0.98
    assert len(np.unique(other)) > 3
  peer = torch_frame.frame_parts(SHAPE, platform='cpu')
  assert set(peer) == set(parts)
  counts = {op: part() for op, part in peer.items()}
  assert counts.pop('locate') == parts['locate']()
  counts = set(counts.values())
  assert len(counts) == 1
  np.testing.assert_allclose(counts.pop(), parts['frame'](), rtol=0.01)


def test_where_there_is_no_gpu_nothing_runs():
  if frame_steps.jax.default_backend() == 'gpu':
    pytest.skip('there is one')
  with pytest.raises(RuntimeError, match='no GPU'):
    frame_steps.frame_parts(SHAPE, implementation='xla', platform='gpu')
  for module in (batch_steps.batch_parts, train_rate.field_rate):
    with pytest.raises(RuntimeError, match='no GPU'):
      module({}, implementation='xla', platform='gpu')


def _context(*sides, trainer):
  peer = lambda name: contests.Peer(name, f'{_FAKES}:{name}', {})
  sides = tuple(peer(name) for name in sides)
  return frame_rows.DeviceContext(
      shape=frame.TINY,
      train=shapes.SHAPES['tiny'],
      effort=contests.Effort(rounds=1, warmup=1, turn_seconds=0.0),
      platform='cpu',
      frame_sides=sides,
      batch_sides=sides,
      trainer=peer(trainer),
      field_trainer=peer(trainer),
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
  assert row.detail['counted_by_reference'] == 400
  other = rows['x/composite/frame_fast vs no_gpu']
  assert other.value is None and 'no GPU' in other.note
  time = rows['x/frame/time']
  assert time.value > 0 and time.passed is (time.value <= time.target)
  adam = rows['x/sparse_adam/frame_fast vs frame_slow']
  assert adam.ratio > 2 and '500 rows updated' in adam.note
  whole = rows['x/train, 64 density + 8 field samples a ray/trains']
  assert whole.value > 0 and whole.target == 300e3
  field = rows['x/train, 0 density + 8 field samples a ray/trains']
  assert field.value > 0 and field.target is None


def test_without_a_gpu_every_row_says_so():
  context = _context('no_gpu', 'frame_slow', 'no_gpu', trainer='no_gpu')
  rows = frame_rows.rows('x', context)
  ops = set(contestants.OPS)
  assert ops == {*frame_rows.TARGETS, *frame_rows.BATCH_OPS}
  assert len(rows) == 2 * len(ops) + 3
  for row in rows:
    assert row.value is None and row.passed is None
    assert row.note == 'not run: no GPU'
  promised = [op for op, goal in frame_rows.TARGETS.items() if goal]
  assert sum(bool(r.target) for r in rows) == len(promised) + 2


def test_a_peer_that_dies_costs_its_own_rows_only():
  context = _context('frame_fast', 'frame_dies', 'frame_fast', trainer='trains')
  rows = {r.name: r for r in frame_rows.rows('x', context)}
  dead = rows['x/composite/frame_fast vs frame_dies']
  assert dead.value is None and 'ended with status 3' in dead.note
  assert rows['x/composite/frame_fast vs frame_fast'].value > 0


def test_peaks_are_found_by_the_device_name():
  timing = frame_rows.harness.Timing([[1e-3]], [[1e-3]], [500.0])
  work = frame.works(frame.TINY, 64, 500)['frame']
  found = frame_rows._achieved(work, timing, 'NVIDIA H200')
  assert found['share_of_peak_bytes'] == found['bytes_per_second'] / 4.8e12
  other = frame_rows._achieved(work, timing, 'something else')
  assert 'share_of_peak_bytes' not in other
  printed = suites._achieved(found)
  assert 'GB/s (' in printed and 'GFLOP/s (' in printed
  assert suites._achieved(other).count('peak') == 0
  assert suites._achieved({}) == ''


def test_a_card_has_its_own_training_rate():
  goal = lambda device: next(
      g for d, g in frame_rows._RAYS_PER_SECOND.items() if d in device
  )
  assert goal('NVIDIA H200') == goal('NVIDIA H100 80GB HBM3') == 500e3
  assert goal('NVIDIA A100-SXM4-80GB') == goal('RTX 4090') == 300e3


def test_work_grows_with_samples():
  few, many = (frame.works(frame.FRAME, 100, n) for n in (10, 1000))
  assert set(few) == set(frame_rows.TARGETS)
  assert few.pop('locate') == many['locate']  # its samples are its own
  for op in few:
    assert many[op].num_bytes > few[op].num_bytes
  macs = 64 * (16 + 16 + 63 + 64 + 3)  # of the MLPs, 8 scales of 2 features
  lookup = many['hash_lookup'].flops
  assert many['node_field'].flops == lookup + 1000 * 2 * macs
  shape = shapes.StepShape(num_rays=100)
  found = batch.works(shape, 1000, 50)
  assert set(found) == set(frame_rows.BATCH_OPS)
  flops = found['node_field gradient'].flops
  assert flops == lookup + 3 * 1000 * 2 * macs
  more = batch.works(shape, 1000, 51)['sparse_adam']
  # Two features: value, two moments, steps, each read and written.
  assert more.num_bytes - found['sparse_adam'].num_bytes == 2 * 4 * 7


@pytest.fixture(scope='module')
def batch_ops():
  tiny = dataclasses.asdict(shapes.SHAPES['tiny'])
  return batch_steps.batch_parts(tiny, implementation=None, platform='cpu')


def test_our_batch_counts_samples_and_rows(batch_ops):
  counts = {op: part() for op, part in batch_ops.items()}
  assert set(counts) == set(frame_rows.BATCH_OPS)
  shape = shapes.SHAPES['tiny']
  rows = counts.pop('sparse_adam')
  assert set(counts.values()) == {shape.num_rays * shape.num_samples}
  assert 0 < rows <= 8 * shape.num_grid_scales * 256


def test_torch_does_the_same_batch(batch_ops):
  torch = pytest.importorskip('torch')
  torch.set_num_threads(1)
  from infnerf_jax.evaluation.bench import jax_steps, torch_batch

  tiny = dataclasses.asdict(shapes.SHAPES['tiny'])
  peer = torch_batch.batch_parts(tiny, platform='cpu')
  for op, part in batch_ops.items():
    assert peer[op]() == part()
  # The gradient of positions, ours by autodiff of the reference.
  shape, spec, data, params = jax_steps.setup(tiny, 0)
  _, seed = batch.seeds(shape, spec.grid.encoded_dim)
  by_scale = seed.reshape(-1, shape.num_grid_scales, shape.num_features)
  want = batch_steps._gradients(spec, 'reference')['hash_lookup'](
      params['table'], data, np.moveaxis(by_scale, 1, 0)
  )
  tensors = torch_batch.torch_peer.tensors(shapes.make_data(shape, 0))
  rows = {'table': np.asarray(params['table'])}
  lookup = torch_batch._Lookup(shape, rows, tensors)
  got = lookup.gradient(tensors.position, lookup.sorted(torch.tensor(seed)))
  want = lookup.sorted(torch.tensor(np.array(want)))
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_a_whole_training_step_runs():
  shape = dataclasses.asdict(
      dataclasses.replace(shapes.SHAPES['tiny'], num_rays=8)
  )
  step = train_rate.train_rate(
      shape, max_level=2, implementation=None, platform='cpu'
  )
  assert np.isfinite([step(), step()]).all()
