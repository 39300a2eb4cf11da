"""Plans: what is resident when, and that rays are spread as without paging."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.models import node_field
from infnerf_jax.octree import tree
from infnerf_jax.training import capacity, residency

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
  stage, pinned = plan.stage_at(500), plan.phases[0].pinned
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
