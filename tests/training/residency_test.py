"""Plans: what is resident when, and that rays are spread as without paging."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.models import node_field
from infnerf_jax.octree import tree
from infnerf_jax.scene import focus
from infnerf_jax.training import capacity, ray_shares, residency, visits

_SPEC = node_field.field_spec(
    num_grid_scales=2, table_size=64, num_features=2, base_resolution=4,
    finest_resolution=8, hidden_width=16, num_geometry=3, appearance_dim=0,
)  # fmt: skip


def _octree():
  """A flat city of four levels: 1, 4, 16 and 64 nodes."""
  cells = []
  for level in range(4):
    xy = np.array(list(np.ndindex(2**level, 2**level)))
    cells.append(np.concatenate([xy, np.zeros((len(xy), 1), int)], axis=1))
  return tree.from_coords(cells, center=np.zeros(3), side=8.0, grid_size=8)


def _plan(num_slots=20, num_steps=3000, **options):
  octree = _octree()
  mass = np.random.default_rng(0).uniform(0.2, 1.0, octree.num_nodes)
  mass /= mass.sum()
  held = capacity.of_slots(num_slots, _SPEC)
  return (
      residency.Plan(octree, held, mass, num_steps=num_steps, **options),
      mass,
  )


def _stages(plan, num_steps):
  step, stages = 0, []
  while step < num_steps:
    stages.append(plan.stage_at(step))
    step = stages[-1].last
  return stages


def test_slots_hold_one_node_each_and_the_exchange_is_out_of_the_way():
  plan, _ = _plan()
  stages = _stages(plan, 3000)
  assert len(stages) > 20 and stages[1].last - stages[1].first < 10
  seen = set()
  for stage, after in zip(stages, stages[1:]):
    resident = np.flatnonzero(stage.slot_of_node >= 0)
    assert stage.slot_of_node[0] == 0 and len(resident) <= 20
    slots = stage.slot_of_node[resident]
    assert len(set(slots)) == len(slots)
    np.testing.assert_array_equal(stage.node_of_slot[slots], resident)
    # What comes takes free slots, is not resident yet, and is so next.
    for slot, node in stage.coming:
      assert stage.node_of_slot[slot] < 0 and stage.slot_of_node[node] < 0
      assert after.slot_of_node[node] == slot
    seen |= set(resident)
  assert seen == set(range(85))


def test_steps_decide_alone():
  plan, _ = _plan()
  again, _ = _plan()
  for step in (2999, 0, 1234, 77):
    a, b = plan.stage_at(step), again.stage_at(step)
    assert a.index == b.index and a.first <= step < a.last
    np.testing.assert_array_equal(a.slot_of_node, b.slot_of_node)


@pytest.mark.parametrize('num_slots', [20, 40])
def test_over_a_run_rays_are_those_without_paging(num_slots):
  plan, mass = _plan(num_slots, num_steps=6000)
  got = np.zeros(85)
  for stage in _stages(plan, 6000):
    drawn = mass * stage.weight
    # The batch is full whatever its weights add up to.
    got += (min(stage.last, 6000) - stage.first) * drawn / drawn.sum()
    assert not drawn[stage.slot_of_node < 0].any()
  np.testing.assert_allclose(got / 6000, mass, rtol=0.1)


def test_nodes_join_with_their_level():
  # Levels of 1, 4 and 16 nodes fit: paging begins with the last.
  plan, _ = _plan(24, growth_steps=(100, 200, 300), rehearsal=50)
  early = plan.stage_at(120)
  assert early.weight is None and not early.coming
  np.testing.assert_array_equal(early.slot_of_node[:5], np.arange(5))
  assert (plan.stage_at(149).slot_of_node[5:] == -1).all()
  assert (plan.stage_at(150).slot_of_node[:21] >= 0).all()
  late = plan.stage_at(250)
  assert late.weight is not None
  assert (late.slot_of_node[21:] >= 0).any()


def test_all_that_fits_is_resident_in_the_trees_order():
  octree = _octree()
  held = capacity.Capacity(85, 1, 0)
  plan = residency.Plan(octree, held, np.full(85, 1 / 85), num_steps=10)
  stage = plan.stage_at(7)
  np.testing.assert_array_equal(stage.slot_of_node, np.arange(85))
  assert stage.weight is None
  among = np.array([0, 3, 4])
  rows = residency.prior_rows(octree, stage, np.arange(85), among)
  np.testing.assert_array_equal(rows, among)


def test_priors_look_at_pinned_nodes_no_more_than_before():
  plan, _ = _plan()
  stage, pinned = plan.stage_at(500), plan.laid(0).pinned
  among = np.arange(85)
  rows = residency.prior_rows(plan.octree, stage, pinned, among)
  assert len(rows) == 85 and (stage.slot_of_node[rows] >= 0).all()
  count = np.bincount(rows, minlength=85)
  assert (count[pinned] == 1).all()


def test_cap_decides_and_is_kept():
  row = capacity.slot_bytes(_SPEC)
  whole = 85 * row / 1e9
  assert capacity.of_run(_SPEC, 85) is None
  assert capacity.of_run(_SPEC, 85, max_memory_gb=whole) is None
  for share in (0.3, 0.5, 0.9):
    held = capacity.of_run(_SPEC, 85, max_memory_gb=share * whole)
    assert held.bytes <= share * whole * 1e9
    assert 3 <= held.num_slots < 85
    assert 1 <= held.num_pinned <= held.num_slots - 2


def test_too_small_a_cap_names_the_least():
  with pytest.raises(errors.InputError) as caught:
    capacity.of_run(_SPEC, 85, max_memory_gb=1e-6)
  message = str(caught.value)
  assert 'config.max_memory_gb: got 1e-06' in message and '\n' not in message
  least = float(message.split('at least ')[1].split(':')[0])
  assert capacity.of_run(_SPEC, 85, max_memory_gb=least).num_slots == 3
  with pytest.raises(errors.InputError, match='num_slots: got 2'):
    capacity.of_run(_SPEC, 85, num_slots=2)


def _spread_samples(octree, seed=0):
  """Pairs: half of a ray's samples lie where it ends, half in two others."""
  rng = np.random.default_rng(seed)
  num = octree.num_nodes
  mass = rng.uniform(0.2, 1.0, num)
  mass /= mass.sum()
  near = lambda n: np.clip(n + rng.integers(-1, 2, num), 0, num - 1)
  own = np.arange(num)
  # Some nodes have no rays of their own.
  mass[70:74] = 0
  planned = np.tile(own, 3)
  actual = np.concatenate([own, near(own), np.maximum(octree.parent, 0)])
  actual[67] = 71
  share = np.repeat([0.5, 0.3, 0.2], num) * np.tile(mass, 3)
  pairs = focus.NodePairs(planned, actual, 64 * share / mass.sum())
  return mass / mass.sum(), pairs


def _shares(plan, pairs, mass, num_steps):
  """[N] samples that train nodes, of all that lie there; None: none lie."""
  got = np.zeros(len(mass))
  for stage in _stages(plan, num_steps):
    drawn = mass * stage.weight
    rate = drawn / drawn.sum() / np.maximum(mass, 1e-12)
    held = stage.slot_of_node[pairs.actual] >= 0
    samples = pairs.share * rate[pairs.planned] * held
    steps = min(stage.last, num_steps) - stage.first
    got += steps * np.bincount(pairs.actual, samples, len(mass))
  wanted = num_steps * np.bincount(pairs.actual, pairs.share, len(mass))
  return got[wanted > 0] / wanted[wanted > 0]


def test_every_node_gets_its_part_of_the_samples():
  octree = _octree()
  mass, pairs = _spread_samples(octree)
  held = capacity.of_slots(40, _SPEC)
  plan = residency.Plan(
      octree, held, mass, num_steps=3000, pairs=pairs, num_rays=16
  )
  assert min(_shares(plan, pairs, mass, 3000)) > 0.8


def test_rounds_make_up_for_what_was_foretold_wrongly():
  octree = _octree()
  mass, pairs = _spread_samples(octree)
  _, other = _spread_samples(octree, seed=1)
  held = capacity.of_slots(40, _SPEC)
  blind = residency.Plan(
      octree, held, mass, num_steps=3000, pairs=other, num_rays=16
  )
  got, shown = np.zeros(85), {0: None}

  def seen(number):
    if number not in shown:
      first = learning.phases[number].first
      share = _shares(learning, pairs, mass, first)
      wanted = first * np.bincount(pairs.actual, pairs.share, 85)
      got[wanted > 0] = share * wanted[wanted > 0]
      shown[number] = ray_shares.Seen(
          first, got.copy(), 16 * first * mass, pairs.planned, pairs.actual,
          first * pairs.share,
      )  # fmt: skip
    return shown[number]

  learning = residency.Plan(
      octree, held, mass, num_steps=3000, pairs=other, num_rays=16, seen=seen
  )
  found = min(_shares(learning, pairs, mass, 3000))
  assert found > 0.8 and found > min(_shares(blind, pairs, mass, 3000)) + 0.1


def test_losses_weigh_what_is_drawn_more_often_less():
  octree = _octree()
  mass, pairs = _spread_samples(octree)
  held = capacity.of_slots(40, _SPEC)
  plan = residency.Plan(
      octree, held, mass, num_steps=3000, pairs=pairs, num_rays=16
  )
  for number, phase in enumerate(plan.phases):
    drawn = np.zeros(85)
    for stage in _stages(plan, 3000):
      if stage.index[0] == number:
        rays = mass * stage.weight
        rays *= stage.loss_weight * (stage.last - stage.first) / rays.sum()
        drawn += rays
    steps = phase.last - phase.first
    if number + 1 < len(plan.phases):
      np.testing.assert_allclose(drawn, steps * mass, rtol=1e-6)


def test_visits_are_the_stages_in_which_nodes_are_resident():
  plan, _ = _plan()
  phase = plan.laid(0)
  found = visits.of_round(phase.tracks, phase.pinned, 85)
  resident = np.zeros((phase.num_stages, 85), bool)
  resident[found.stage, found.node] = True
  for index in range(phase.num_stages):
    stage = plan._stage(0, index)
    np.testing.assert_array_equal(resident[index], stage.slot_of_node >= 0)
  rng = np.random.default_rng(0)
  planned, actual = rng.integers(0, 85, (2, 200))
  pairs = focus.NodePairs(planned, actual, np.ones(200))
  both = visits.overlaps(found, pairs)
  together = np.bincount(both.pair, both.end - both.begin, 200)
  expected = (resident[:, planned] & resident[:, actual]).sum(axis=0)
  np.testing.assert_array_equal(together, expected)
  for pair, begin, end in zip(*both, strict=True):
    assert (found.node[begin:end] == planned[pair]).all()
    assert resident[found.stage[begin:end], actual[pair]].all()
