"""Lazy Adam: untouched rows keep everything, sums precede the one step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import sparse_adam
from tests.kernels import common, suite
from tests.kernels.common import two_threads  # noqa: F401

SPEC = common.TINY
NUM_SLOTS = 3


def _state(seed=0):
  rng = np.random.default_rng(seed)
  shape = (NUM_SLOTS, SPEC.num_rows, SPEC.num_features)
  table = rng.normal(size=shape)
  moments = rng.uniform(0, 0.1, shape[:2] + (2 * shape[2],))
  steps = rng.integers(0, 9, shape[:2])
  steps[1] = 5000  # where the bias correction has become 1
  return (
      jnp.asarray(table, jnp.float32),
      jnp.asarray(moments, jnp.float32),
      jnp.asarray(steps, jnp.int32),
  )


def _call(num_samples, seed):
  _, position, slot = common.samples(SPEC, num_samples, NUM_SLOTS, seed)
  shape = (SPEC.num_grid_scales, num_samples, SPEC.num_features)
  grad = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  grad[:, ::4] = 0  # addressed all the same
  return tuple(jnp.asarray(a) for a in (position, slot, grad))


@functools.cache
def _step(implementation):
  return jax.jit(
      lambda state, calls, apply: sparse_adam.sparse_adam(
          *state,
          calls,
          spec=SPEC,
          learning_rate=0.01,
          apply=apply,
          implementation=implementation,
      )
  )


def _oracle(state, calls):
  """NumPy, float64, row by row."""
  table, moments, steps = (np.asarray(a).copy() for a in state)
  sums = {}
  for position, slot, grad in calls:
    for s in range(slot.shape[0]):
      n = int(slot[s])
      if not 0 <= n < NUM_SLOTS:
        continue
      for scale in range(SPEC.num_grid_scales):
        at = np.asarray(position[s])
        for row, w in common.oracle_rows(SPEC, at, n, scale):
          add = w * np.asarray(grad[scale, s], np.float64)
          sums[n, row] = sums.get((n, row), 0) + add
  for (n, row), g in sums.items():
    t = steps[n, row] = steps[n, row] + 1
    m, v = np.split(moments[n, row].astype(np.float64), 2)
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
    moments[n, row] = np.concatenate([m, v])
    hat = m / (1 - 0.9**t), v / (1 - 0.99**t)
    table[n, row] -= 0.01 * hat[0] / (np.sqrt(hat[1]) + 1e-15)
  return (table, moments, steps), sums


@pytest.mark.parametrize("implementation", common.ALL)
def test_step_equals_numpy(implementation):
  state, calls = _state(), [_call(30, 1), _call(7, 2)]
  got = _step(implementation)(state, calls, True)
  want, touched = _oracle(state, calls)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
  keep = np.ones((NUM_SLOTS, SPEC.num_rows), bool)
  for n, row in touched:
    keep[n, row] = False
  assert keep.any() and not keep.all()
  for a, b in zip(got, state):
    np.testing.assert_array_equal(np.asarray(a)[keep], np.asarray(b)[keep])


@pytest.mark.parametrize("implementation", common.ALL)
def test_apply_false_leaves_bits(implementation):
  got = _step(implementation)(_state(), [_call(30, 1)], False)
  for a, b in zip(got, _state()):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_duplicates_are_summed_before_the_step(implementation):
  position, slot, grad = _call(30, 3)
  twice = [
      tuple(
          jnp.concatenate([a, a], i)
          for a, i in ((position, 0), (slot, 0), (grad, 1))
      )
  ]
  apart = [(position, slot, grad)] * 2
  double = [(position, slot, 2 * grad)]
  run = _step(implementation)
  want = run(_state(), double, True)
  # Each form compiles for seconds in XLA.
  for calls in (twice, apart) if implementation == "native" else (apart,):
    got = run(_state(), calls, True)
    np.testing.assert_array_equal(got[2], want[2])
    np.testing.assert_allclose(got[0], want[0], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_negative_zero_gradients_still_count_as_touched(seed):
  position, slot, grad = _call(20, seed)
  zero = jnp.full_like(grad, -0.0)
  got = _step("native")(_state(), [(position, slot, zero)], True)
  want = _step("reference")(_state(), [(position, slot, zero)], True)
  np.testing.assert_array_equal(got[2], want[2])
  assert np.any(np.asarray(got[2]) != np.asarray(_state()[2]))


@pytest.mark.parametrize("implementation", suite.KERNELS)
def test_order_of_samples_does_not_change_touched_rows(implementation):
  """Triton sums in fixed point: the order does not change a bit there."""
  position, slot, grad = _call(400, 5)
  order = np.random.default_rng(0).permutation(400)
  run = _step(implementation)
  one = run(_state(), [(position, slot, grad)], True)
  two = run(_state(), [(position[order], slot[order], grad[:, order])], True)
  np.testing.assert_array_equal(one[2], two[2])
  if implementation == "triton":
    for a, b in zip(one, two):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "implementation", [b for b in common.BACKENDS if b == "triton"]
)
@pytest.mark.parametrize("largest", [1e-30, 1e15, np.inf, np.nan])
def test_fixed_point_follows_the_largest_gradient(implementation, largest):
  position, slot, grad = _call(60, 7)
  grad = grad * np.float32(min(largest, 1e15))
  run = _step(implementation)
  if not np.isfinite(largest):
    grad = grad.at[0, 1].set(largest)
    got = run(_state(), [(position, slot, grad)], True)
    assert np.all(np.isnan(np.asarray(got[0])[got[2] != _state()[2]][0]))
    kept = run(_state(), [(position, slot, grad)], False)
    np.testing.assert_array_equal(kept[0], _state()[0])
    return
  state = (_state()[0], jnp.zeros_like(_state()[1]), _state()[2])
  got = run(state, [(position, slot, grad)], True)
  want = _step("reference")(state, [(position, slot, grad)], True)
  scale = np.max(np.abs(np.asarray(want[1])[..., :2]))
  error = np.abs(np.asarray(got[1]) - np.asarray(want[1]))[..., :2]
  assert error.max() < 1e-6 * scale


@pytest.mark.parametrize(
    "implementation", [b for b in common.BACKENDS if b == "triton"]
)
def test_sums_in_any_order(implementation):
  state, calls = _state(), [_call(30, 1), _call(7, 2)]
  got = sparse_adam.sparse_adam(
      *state,
      calls,
      spec=SPEC,
      learning_rate=0.01,
      deterministic=False,
      implementation=implementation,
  )
  want, _ = _oracle(state, calls)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_donated_state_changes_in_place():
  run = jax.jit(
      lambda state, calls: sparse_adam.sparse_adam(
          *state,
          calls,
          spec=SPEC,
          learning_rate=0.01,
          implementation="native",
      ),
      donate_argnums=0,
  )
  state = _state()
  before = [a.unsafe_buffer_pointer() for a in state]
  after = run(state, [_call(30, 1)])
  assert [a.unsafe_buffer_pointer() for a in after] == before


def test_bits_do_not_depend_on_threads(two_threads):  # noqa: F811
  calls = [_call(4000, 1), _call(300, 2)]
  one, two = two_threads(lambda: _step("native")(_state(), calls, True))
  for a, b in zip(one, two):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("implementation", common.ALL)
@pytest.mark.parametrize("apply", [True, False])
def test_slot_adam(implementation, apply):
  rng = np.random.default_rng(6)
  weights = rng.normal(size=(5, 3, 7)).astype(np.float32)
  grad = rng.normal(size=(5, 3, 7)).astype(np.float32)
  moments = rng.uniform(size=(5, 2, 3, 7)).astype(np.float32)
  steps = np.array([0, 1, 2, 50, 9000], np.int32)
  slots = [np.array([0, 3, -1], np.int32), np.array([4, 3, 5], np.int32)]
  touched = sparse_adam.touched_slots(
      [jnp.asarray(s) for s in slots], 5, implementation=implementation
  )
  np.testing.assert_array_equal(touched, [True, False, False, True, True])
  got = sparse_adam.slot_adam(
      jnp.asarray(weights),
      jnp.asarray(grad),
      jnp.asarray(moments),
      jnp.asarray(steps),
      touched,
      learning_rate=0.01,
      apply=apply,
      implementation=implementation,
  )
  want = [weights.copy(), moments.copy(), steps.copy()]
  for n in (0, 3, 4) if apply else ():
    t = want[2][n] = steps[n] + 1
    m = want[1][n, 0] = 0.9 * moments[n, 0] + 0.1 * grad[n]
    v = want[1][n, 1] = 0.99 * moments[n, 1] + 0.01 * grad[n] ** 2
    step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-15)
    want[0][n] -= 0.01 * step
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
  np.testing.assert_array_equal(np.asarray(got[0])[1:3], weights[1:3])


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_slot_adam_of_pools_at_once(implementation):
  rng = np.random.default_rng(8)
  draw = lambda *shape: jnp.asarray(rng.uniform(size=(2, *shape)), jnp.float32)
  touched = jnp.array([[True, False, True], [False, True, True]])
  steps = jnp.array([[0, 3, 7], [1, 2, 9]], jnp.int32)
  arrays = (draw(3, 4, 5), draw(3, 4, 5), draw(3, 2, 4, 5), steps, touched)
  run = functools.partial(
      sparse_adam.slot_adam, learning_rate=0.01, implementation=implementation
  )
  both = jax.vmap(run)(*arrays)
  for i in range(2):
    for a, b in zip(both, run(*(x[i] for x in arrays))):
      np.testing.assert_allclose(a[i], b, rtol=1e-6)


def test_touched_slots_of_pools_at_once():
  slots = jnp.array([[0, 3, -1, 2], [1, 1, 9, -5]], jnp.int32)
  run = functools.partial(
      sparse_adam.touched_slots, num_slots=3, implementation="native"
  )
  shared = jnp.array([1], jnp.int32)
  got = jax.vmap(lambda s: run([s, shared]))(slots)
  np.testing.assert_array_equal(got, [[True, True, True], [False, True, False]])


def test_pools_with_rules_of_their_own():
  """A rate for each: what a batch cannot share goes one by one."""
  states = [_state(seed) for seed in (0, 1)]
  calls = [_call(30, 1 + seed) for seed in (0, 1)]
  rates = jnp.array([0.01, 0.1])
  run = lambda state, call, rate: sparse_adam.sparse_adam(
      *state, [call], spec=SPEC, learning_rate=rate, implementation="native"
  )
  stack = lambda *a: jnp.stack(a)
  both = jax.vmap(run)(
      jax.tree.map(stack, *states), jax.tree.map(stack, *calls), rates
  )
  for i in range(2):
    for a, b in zip(both, run(states[i], calls[i], rates[i])):
      np.testing.assert_allclose(a[i], b, rtol=1e-6)
