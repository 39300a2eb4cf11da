"""Growth: who takes part when, warm starts, equality with no growth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import growth
from infnerf_jax.training import step as step_lib
from tests.training import tiny

GROWING = dataclasses.replace(
    tiny.STEP, growth_steps=(3, 6), growth_rehearsal=2, lambda_regularization=0
)


def test_shares_and_steps_of_a_schedule():
  assert growth.steps_of_schedule((0.1, 0.5), 200) == (20, 100)
  assert growth.steps_of_schedule((1000, 5000), 10) == (1000, 5000)
  assert growth.steps_of_schedule((), 10) == ()
  for bad in ((0.5, 0.1), (-1, 3), (100, 20)):
    with pytest.raises(errors.InputError, match='octree_growth_schedule'):
      growth.steps_of_schedule(bad, 1000)


def test_levels_join_at_their_steps_and_the_last_entry_frees_all():
  tree, levels = tiny.surroundings().tree, tiny.octree().level
  resident = lambda step: levels[
      np.asarray(
          growth.active_tree(
              tree, jnp.asarray(levels), step, (3, 6)
          ).slot_of_node
      )
      >= 0
  ].tolist()
  for step in range(9):
    deepest = 0 if step < 3 else 1 if step < 6 else 2
    assert resident(step) == levels[levels <= deepest].tolist()
  only = growth.active_tree(tree, jnp.asarray(levels), 3, (3,))
  np.testing.assert_array_equal(only.slot_of_node, tree.slot_of_node)
  none = growth.active_tree(tree, jnp.asarray(levels), 0, ())
  np.testing.assert_array_equal(none.slot_of_node, tree.slot_of_node)


def _changed_slots(before, after):
  same = np.isclose(before['table'], after['table'], rtol=0, atol=0)
  return np.flatnonzero(~same.all(axis=(1, 2))).tolist()


def test_nodes_learn_only_when_they_rehearse_or_take_part():
  state = tiny.state(GROWING)
  levels = tiny.octree().level
  table = lambda s: {'table': np.array(s.params['nodes']['table'])}
  # Level 1 joins at step 3, level 2 at 6; each rehearses for two steps.
  allowed, deepest, rehearsed = [0, 1, 1, 1, 2, 2, 2, 2], [], []
  for k in range(8):
    before = table(state)
    state, metrics = tiny.run_steps(
        state, 1, options=GROWING, first=k, size=2048
    )
    changed = _changed_slots(before, table(state))
    deepest.append(int(levels[changed].max()))
    rehearsed.append(float(metrics.rehearsal) > 0)
  assert deepest == allowed
  assert rehearsed == [k in (1, 2, 4, 5) for k in range(8)]


def test_after_the_schedule_a_step_is_that_of_no_growth():
  grown = dataclasses.replace(GROWING, growth_steps=(1,), growth_rehearsal=1)
  plain = dataclasses.replace(GROWING, growth_steps=())
  # Same rates: the decay of one begins a step later.
  grown = dataclasses.replace(grown, lr_final=grown.lr_initial)
  plain = dataclasses.replace(plain, lr_final=plain.lr_initial)
  states = [
      tiny.run_steps(
          tiny.state(o)._replace(step=jnp.int32(50)), 1, options=o, first=50
      )[0]
      for o in (grown, plain)
  ]
  one, two = (s.params['nodes'] for s in states)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_run_of_growth_compiles_once():
  step = step_lib.make_train_step(tiny.spec(), tiny.RENDER, GROWING)
  state, surroundings = tiny.state(GROWING), tiny.surroundings()
  for k in range(8):
    state, _ = step(state, tiny.batch(seed=k), surroundings, jax.random.key(0))
  assert step._cache_size() == 1


def test_exceeding_capacity_costs_one_compilation():
  step = step_lib.make_train_step(tiny.spec(), tiny.RENDER, GROWING)
  num_nodes = tiny.octree().num_nodes
  run = lambda state, k, slots: step(
      state, tiny.batch(seed=k), tiny.surroundings(slots), jax.random.key(0)
  )[0]
  state = run(run(tiny.state(GROWING), 0, num_nodes), 1, num_nodes)
  larger = tiny.state(GROWING, num_slots=num_nodes + 3)
  fill = lambda new, old: (new.at[: old.shape[0]].set(old) if old.ndim else old)
  state = jax.tree.map(fill, larger, state)
  for k in range(2, 5):
    state = run(state, k, num_nodes + 3)
  assert step._cache_size() == 2 and int(state.skipped) == 0


@pytest.mark.parametrize('killed_at', [2, 3, 4])
def test_killed_about_a_step_of_growth_it_goes_on_alike(tmp_path, killed_at):
  run = lambda state, first, last: tiny.run_steps(
      state, last - first, options=GROWING, first=first
  )[0]
  manager = checkpoint.CheckpointManager(tmp_path)
  with manager:
    manager.save(killed_at, run(tiny.state(GROWING), 0, killed_at))
  step, stored = manager.restore(tiny.state(GROWING))
  assert step == killed_at
  state = jax.tree.map(lambda x: jnp.array(x, copy=True), stored)
  resumed, unbroken = run(state, step, 5), run(tiny.state(GROWING), 0, 5)
  for a, b in zip(
      jax.tree.leaves(resumed), jax.tree.leaves(unbroken), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_rehearsal_brings_children_to_their_parents_answers():
  options = dataclasses.replace(
      GROWING,
      growth_steps=(0, 1000),
      growth_rehearsal=1000,
      lambda_rgb=0.0,
      lambda_distortion=0.0,
      lambda_transparency=0.0,
      lr_initial=1e-2,
      lr_final=1e-2,
  )
  state = tiny.state(options)
  losses = []
  for k in range(120):
    state, metrics = tiny.run_steps(
        state, 1, options=options, first=k, size=512
    )
    losses.append(float(metrics.rehearsal))
  # The parents of this scene are noise, which only memory reproduces.
  assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
