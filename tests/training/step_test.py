"""One training step: gradients, microbatches, skipped steps, touched rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.training import losses
from tests.training import tiny


def _leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def _copy(tree):
  return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def test_loss_falls():
  # A scene of one colour before black: the least that a field must learn.
  options = tiny.replace(
      tiny.STEP, random_background=False, background=(0.0, 0.0, 0.0)
  )
  rgb = jnp.broadcast_to(jnp.asarray([0.8, 0.3, 0.5]), (32, 3))
  state, step, errors = tiny.state(options), tiny.train_step(None, options), []
  for k in range(60):
    state, metrics = step(
        state,
        tiny.batch(32, k)._replace(rgb=rgb),
        tiny.surroundings(),
        jax.random.key(7, impl='rbg'),
    )
    errors.append(float(metrics.mse))
  # Rays that miss the box keep their error.
  assert np.mean(errors[-10:]) < 0.8 * np.mean(errors[:3])
  assert all(bool(x) for x in metrics.finite.values())
  assert (
      int(np.sum(metrics.samples_by_level)) <= 32 * tiny.RENDER.num_samples[-1]
  )


def test_microbatches_give_the_same_step():
  whole, _ = tiny.run_steps(tiny.state(), 1)
  options = tiny.replace(tiny.STEP, ray_microbatch=8)
  parts, _ = tiny.run_steps(tiny.state(), 1, options=options)
  # Adam's first step has the size of the rate whatever the gradient, so its
  # moments, which hold the gradients themselves, are compared.
  for a, b in zip(
      _leaves(whole.opt_state), _leaves(parts.opt_state), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)


def test_microbatch_must_divide():
  options = tiny.replace(tiny.STEP, ray_microbatch=5)
  with pytest.raises(ValueError, match='divisor of 32'):
    tiny.run_steps(tiny.state(), 1, options=options)


def test_a_non_finite_step_changes_only_the_counters():
  state, _ = tiny.run_steps(tiny.state(), 2)
  before = [x.copy() for x in _leaves((state.params, state.opt_state))]
  step = tiny.train_step()
  bad = tiny.batch(32, 5)._replace(rgb=jnp.full((32, 3), jnp.nan, jnp.float32))
  state, metrics = step(
      state, bad, tiny.surroundings(), jax.random.key(7, impl='rbg')
  )
  assert not bool(metrics.finite['loss'])
  assert int(state.skipped) == 1 and int(state.skipped_in_row) == 1
  assert int(state.step) == 3
  after = _leaves((state.params, state.opt_state))
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a, b)
  state, _ = step(
      state,
      tiny.batch(32, 6),
      tiny.surroundings(),
      jax.random.key(7, impl='rbg'),
  )
  assert int(state.skipped) == 1 and int(state.skipped_in_row) == 0


def test_spare_slots_are_never_touched():
  num_nodes = tiny.octree().num_nodes
  start = tiny.state(num_slots=num_nodes + 3)
  spare = [x[num_nodes:].copy() for x in _leaves(start.params['nodes'])]
  end, _ = tiny.run_steps(start, 3)
  for a, b in zip(spare, _leaves(end.params['nodes']), strict=True):
    np.testing.assert_array_equal(a, b[num_nodes:])
  moments = [x[num_nodes:] for x in _leaves(end.opt_state['nodes'])]
  assert all(np.all(x == 0) for x in moments)


def test_spare_slots_do_not_change_the_others():
  num_nodes = tiny.octree().num_nodes
  exact, _ = tiny.run_steps(tiny.state(), 3)
  spare, _ = tiny.run_steps(tiny.state(num_slots=num_nodes + 3), 3)
  for a, b in zip(
      _leaves(exact.params['nodes']),
      _leaves(spare.params['nodes']),
      strict=True,
  ):
    np.testing.assert_array_equal(a, b[:num_nodes])


def test_repeats_to_the_bit():
  first, _ = tiny.run_steps(tiny.state(), 4)
  second, _ = tiny.run_steps(tiny.state(), 4)
  for a, b in zip(_leaves(first), _leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)


def test_backends_agree_on_the_gradient():
  reference = tiny.run_steps(tiny.state(), 1, model=tiny.spec('reference'))[0]
  xla = tiny.run_steps(tiny.state(), 1, model=tiny.spec('xla'))[0]
  best = tiny.run_steps(tiny.state(), 1)[0]
  for other in (xla, best):
    for a, b in zip(
        _leaves(reference.opt_state), _leaves(other.opt_state), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-7)


def test_appearance_learns_only_for_photos_in_the_batch():
  state = tiny.state()
  step = tiny.train_step()
  batch = tiny.batch()._replace(photo_idx=jnp.full(32, 2, jnp.int32))
  state, _ = step(
      state, batch, tiny.surroundings(), jax.random.key(0, impl='rbg')
  )
  moved = np.any(np.asarray(state.params['appearance']) != 0, axis=-1)
  assert moved.tolist() == [False, False, True, False]


@pytest.mark.parametrize('name', ['regularization', 'transparency'])
def test_losses_can_be_switched_off(name):
  options = tiny.replace(tiny.STEP, **{f'lambda_{name}': 0.0})
  _, metrics = tiny.run_steps(tiny.state(), 1, options=options)
  off = {
      'regularization': metrics.consistency,
      'transparency': metrics.transparency,
  }
  assert float(off.pop(name)) == 0
  assert all(float(x) > 0 for x in off.values())


def test_expected_background_is_the_mean_over_drawn_ones():
  # E[(c + (1 - o) b - t)^2] over b ~ U(0, 1), by a fine midpoint rule.
  rng = np.random.default_rng(0)
  color, target = rng.uniform(size=(2, 50, 3))
  clear = rng.uniform(size=(50, 1))
  drawn = (np.arange(1000) + 0.5) / 1000
  shown = color[None] + clear[None] * drawn[:, None, None]
  expected = np.mean((shown - target) ** 2)
  valid = np.ones(50, bool)
  mean = losses.photometric_loss(color + clear * 0.5, target, valid)
  spread = 3 * losses.photometric_loss(clear * 0.5 / 3**0.5, 0.0, valid)
  np.testing.assert_allclose(mean + spread, expected, rtol=1e-4)


def test_random_background_asks_for_opacity():
  options = tiny.replace(
      tiny.STEP,
      lambda_transparency=0.0,
      lambda_regularization=0.0,
      background=(0.0, 0.0, 0.0),
      random_background=False,
  )
  black = jnp.zeros((32, 3))
  batch = tiny.batch()._replace(rgb=black)
  key = jax.random.key(0, impl='rbg')
  loss = {}
  for name, change in (
      ('black', {}),
      ('all', {'random_background': True}),
  ):
    step = tiny.train_step(None, tiny.replace(options, **change))
    _, metrics = step(tiny.state(options), batch, tiny.surroundings(), key)
    loss[name] = float(metrics.mse)
  # A clear ray passes for black before black alone, not before all colours.
  assert loss['all'] > loss['black']


def test_the_depth_loss_fades():
  options = tiny.replace(
      tiny.STEP,
      random_background=False,
      lambda_distortion=0.0,
      lambda_regularization=0.0,
      lambda_transparency=0.0,
      lambda_depth=0.5,
      depth_final=0.01,
      depth_width_steps=10,
  )
  step = tiny.train_step(None, options)
  batch = tiny.batch(32, 0)
  batch = batch._replace(distance=jnp.full_like(batch.distance, 3.0))
  for at, weight in ((0, 0.5), (5, 0.05), (10, 0.005), (30, 0.005)):
    state = tiny.state(options)._replace(step=jnp.int32(at))
    key = jax.random.key(7, impl='rbg')
    _, metrics = step(state, batch, tiny.surroundings(), key)
    assert metrics.depth > 0
    want = options.lambda_rgb * metrics.mse + weight * metrics.depth
    np.testing.assert_allclose(metrics.loss, want, rtol=1e-5)
