"""The step over a mesh is the single device's step; needs eight devices.

`eight_devices_test` runs this module in a process of its own, since the number
of CPU devices is fixed when JAX starts.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.sharding import partition as partition_lib
from infnerf_jax.sharding import traffic
from infnerf_jax.training import gradients, optimizer, sharded_step
from infnerf_jax.training import step as step_lib
from tests.sharding import devices, quad_scene
from tests.training import tiny

pytestmark = devices.NEEDS_EIGHT

# (data, node, split level or None for the best, seed of the sample counts).
_MESHES = ((2, 2, 2, 1), (1, 4, 1, 2), (2, 4, 2, 4))
# Ten seconds each to compile: see eight_devices_test.
_MORE_MESHES = (
    (1, 1, None, 0),
    (2, 1, None, 0),
    (1, 2, 1, 0),
    (4, 2, 3, 3),
    # More shards than subtrees: four devices own nothing at all.
    (1, 8, 1, 0),
)
_GROWING = dataclasses.replace(
    quad_scene.STEP, growth_steps=(1, 3, 6), growth_rehearsal=2
)
_TOLERANCE = 1e-5
_P = jax.sharding.PartitionSpec


def _key():
  return jax.random.key(7, impl='rbg')


def _both_halves(options, state, batch, surroundings, key):
  """A step that shows its gradients too."""
  spec = quad_scene.spec()
  key = jax.random.fold_in(key, state.step)
  grads, metrics = step_lib.compute_gradients(
      key, state, batch, surroundings, spec, quad_scene.RENDER, options
  )
  state, metrics = step_lib.apply_gradients(
      state, grads, metrics, surroundings, spec, options
  )
  return state, metrics, grads


@functools.lru_cache
def _single_step(options):
  return jax.jit(functools.partial(_both_halves, options))


@functools.lru_cache
def _sharded_step(num_data, num_node, options):
  """The same over a mesh; features get a leading axis of node shards."""

  def step(*args):
    state, metrics, grads = _both_halves(options, *args)
    features = jax.tree.map(lambda x: x[None], grads.features)
    return state, metrics, grads._replace(features=features)

  specs = sharded_step.state_specs(options)
  rows = _P(mesh_lib.NODE)
  return jax.jit(
      jax.shard_map(
          step,
          mesh=devices.mesh(num_data, num_node),
          in_specs=(
              specs,
              _P(mesh_lib.DATA),
              sharded_step.surroundings_specs(),
              _P(),
          ),
          out_specs=(specs, _P(), step_lib.StepGradients(rows, rows, _P())),
          check_vma=False,
      )
  )


def _run_single(options, batch, step, learners=None):
  tree = quad_scene.uneven_octree()
  return _single_step(options)(
      quad_scene.state(tree, options, step),
      batch,
      quad_scene.surroundings(tree)._replace(learners=learners),
      _key(),
  )


def _run_sharded(mesh_case, options, batch, step, learners=None):
  num_data, num_node, split_level, seed = mesh_case
  tree, mesh = quad_scene.uneven_octree(), devices.mesh(num_data, num_node)
  partition = quad_scene.partition(
      tree, num_node, split_level=split_level, seed=seed
  )
  results = _sharded_step(num_data, num_node, options)(
      sharded_step.shard_state(
          quad_scene.state(tree, options, step), partition, mesh
      ),
      sharded_step.shard_batch(batch, mesh),
      sharded_step.shard_surroundings(
          quad_scene.surroundings(tree)._replace(learners=learners),
          partition,
          mesh,
      ),
      sharded_step.place_everywhere(_key(), mesh),
  )
  return partition, results


def _assert_close(got, want, name):
  """Within 1e-5 of the array's size, as a whole and at its worst."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape, name
  error = np.abs(got - want)
  assert np.linalg.norm(error) <= _TOLERANCE * np.linalg.norm(want), name
  assert error.max() <= _TOLERANCE * np.abs(want).max(), name


def _assert_tree_close(got, want, name):
  flat = jax.tree_util.tree_flatten_with_path(want)[0]
  for (path, w), g in zip(flat, jax.tree.leaves(got), strict=True):
    _assert_close(g, w, f'{name}{jax.tree_util.keystr(path)}')


def _assert_features_close(
    partition: partition_lib.Partition,
    got: optimizer.FeatureGradient,
    want: optimizer.FeatureGradient,
):
  """Every shard has the gradients of all samples in its own nodes."""
  slot = np.asarray(want.slot)
  seen = np.zeros(slot.shape, int)
  largest = np.abs(want.gradient).max()
  for shard in range(partition.num_shards):
    rows = np.where(slot >= 0, partition.local_slot[shard][slot], -1)
    np.testing.assert_array_equal(got.slot[shard], rows)
    mine = rows >= 0
    seen += mine
    error = np.asarray(got.gradient)[shard][:, mine]
    error = error - np.asarray(want.gradient)[:, mine]
    assert np.abs(error).max(initial=0) <= _TOLERANCE * largest
    np.testing.assert_allclose(
        np.asarray(got.position)[shard][mine],
        np.asarray(want.position)[mine],
        rtol=0,
        atol=1e-6,
    )
  replicated = slot >= 0
  replicated[replicated] = partition.shard_of_node[slot[slot >= 0]] < 0
  np.testing.assert_array_equal(
      seen, np.where(replicated, partition.num_shards, slot >= 0)
  )


def _assert_same_step(partition, got, want):
  """State, losses and all three kinds of gradients."""
  (state, metrics, grads), (state1, metrics1, grads1) = got, want
  for name in ('loss', 'mse', 'distortion', 'depth', 'rehearsal',
               'consistency', 'transparency'):  # fmt: skip
    np.testing.assert_allclose(
        getattr(metrics, name), getattr(metrics1, name), rtol=_TOLERANCE
    )
  np.testing.assert_array_equal(
      metrics.samples_by_level, metrics1.samples_by_level
  )
  assert all(bool(x) for x in jax.tree.leaves(metrics.finite))
  owners = partition_lib.owner_rows(partition)
  mlp = jax.tree.map(lambda x: np.asarray(x)[owners], grads.mlp)
  _assert_tree_close(mlp, grads1.mlp, 'mlp')
  _assert_tree_close(grads.dense, grads1.dense, 'dense')
  assert np.abs(np.asarray(grads1.dense['poses'])).max() > 0
  for a, b in zip(grads.features, grads1.features, strict=True):
    _assert_features_close(partition, a, b)
  # Adam's moments: after one step from zero the gradients of rows, summed.
  whole = sharded_step.gather_state(state, partition)
  _assert_tree_close(
      whole.opt_state['nodes'], state1.opt_state['nodes'], 'moments'
  )
  # Replicas did the same, to the bit.
  top = partition.num_replicated
  for x in jax.tree.leaves((state.params['nodes'], state.opt_state['nodes'])):
    x = np.asarray(x).reshape((partition.num_shards, -1) + x.shape[1:])[:, :top]
    np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))


@pytest.mark.parametrize(
    'case',
    [
        *_MESHES,
        *(pytest.param(case, marks=pytest.mark.slow) for case in _MORE_MESHES),
    ],
    ids=lambda c: f'{c[0]}x{c[1]}',
)
def test_equals_the_single_device(case):
  batch = tiny.batch(32)
  want = _run_single(quad_scene.STEP, batch, 0)
  partition, got = _run_sharded(case, quad_scene.STEP, batch, 0)
  _assert_same_step(partition, got, want)
  # Each sample is evaluated once; what is not routed to a device is not.
  evaluated = np.asarray(got[1].samples_evaluated)
  assert evaluated.shape == case[:2]
  assert evaluated.sum() == np.asarray(want[1].samples_evaluated).sum()


@pytest.mark.slow
def test_growth_with_rehearsal_and_microbatches():
  options = dataclasses.replace(_GROWING, ray_microbatch=8)
  batch = tiny.batch(32, 1)
  # Level 2 takes part, level 3 rehearses.
  want = _run_single(options, batch, 5)
  assert float(want[1].rehearsal) > 0
  partition, got = _run_sharded((2, 2, 1, 0), options, batch, 5)
  _assert_same_step(partition, got, want)


@pytest.mark.slow
def test_what_does_not_learn_stays_to_the_bit():
  tree, batch = quad_scene.uneven_octree(), tiny.batch(32)
  nodes = np.arange(tree.num_nodes) % 3 == 0
  learners = gradients.Learners(
      jnp.asarray(nodes), jnp.arange(tiny.NUM_PHOTOS) >= 2
  )
  case = (2, 2, 1, 0)
  want = _run_single(quad_scene.STEP, batch, 0, learners)
  partition, got = _run_sharded(case, quad_scene.STEP, batch, 0, learners)
  _assert_same_step(partition, got, want)
  before = quad_scene.state(tree)
  after = sharded_step.gather_state(got[0], partition)
  for part in (lambda s: s.params['nodes'], lambda s: s.opt_state['nodes']):
    for a, b in zip(
        jax.tree.leaves(part(after)), jax.tree.leaves(part(before)), strict=True
    ):
      np.testing.assert_array_equal(a[~nodes], b[~nodes])
  assert (after.opt_state['nodes'].mlp_steps[nodes] > 0).sum() > 5
  for name in ('appearance', 'poses'):
    a, b = (s.params[name] for s in (after, before))
    np.testing.assert_array_equal(a[:2], b[:2])
    assert (a[2:] != b[2:]).any()


def test_devices_that_own_nothing_that_the_batch_needs():
  # One pixel: its ray crosses a few nodes only.
  one = jax.tree.map(lambda x: jnp.repeat(x[:1], 32, axis=0), tiny.batch(32))
  case = (1, 4, 1, 2)
  want = _run_single(quad_scene.STEP, one, 0)
  partition, got = _run_sharded(case, quad_scene.STEP, one, 0)
  slot = np.asarray(want[2].features[0].slot)
  owners = partition.shard_of_node[slot[slot >= 0]]
  assert len(set(owners[owners >= 0])) < 4
  _assert_same_step(partition, got, want)


@functools.lru_cache
def _compiled():
  """(step compiled ahead, its arguments but batch and state, partition)."""
  tree, mesh = quad_scene.uneven_octree(), devices.mesh(2, 2)
  partition = quad_scene.partition(tree, 2)
  step = sharded_step.make_sharded_train_step(
      mesh, quad_scene.spec(), quad_scene.RENDER, quad_scene.STEP
  )
  around = sharded_step.shard_surroundings(
      quad_scene.surroundings(tree), partition, mesh
  )
  key = sharded_step.place_everywhere(_key(), mesh)
  state = sharded_step.shard_state(quad_scene.state(tree), partition, mesh)
  batch = sharded_step.shard_batch(tiny.batch(32), mesh)
  return (
      step.lower(state, batch, around, key).compile(),
      (around, key),
      (partition),
  )


def _some_steps(num_steps=3):
  """Final state of some sharded steps, in the tree's order."""
  step, others, partition = _compiled()
  mesh = devices.mesh(2, 2)
  state = sharded_step.shard_state(
      quad_scene.state(quad_scene.uneven_octree()), partition, mesh
  )
  for k in range(num_steps):
    given, batch = state, sharded_step.shard_batch(tiny.batch(32, k), mesh)
    state, _ = step(given, batch, *others)
    assert given.params['nodes']['table'].is_deleted()
  return sharded_step.gather_state(state, partition)


def test_several_donated_steps_repeat_to_the_bit():
  first, second = _some_steps(), _some_steps()
  assert int(first.step) == 3 and int(first.skipped) == 0
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)


def test_bytes_are_those_of_the_formulas():
  step, _, partition = _compiled()
  options, nodes = quad_scene.STEP, quad_scene.state(quad_scene.octree())
  mlp = (nodes.params['nodes'][part] for part in ('density', 'color'))
  sizes = traffic.StepSizes(
      num_data=2,
      num_node=2,
      num_rays=32,
      num_samples=quad_scene.RENDER.num_samples,
      num_prior_points=traffic.num_prior_points(options),
      encoded_dim=quad_scene.spec().field.grid.encoded_dim,
      capacity=partition.capacity,
      num_replicated=partition.num_replicated,
      mlp_size=sum(x[0].size for x in jax.tree.leaves(list(mlp))),
      dense_size=sum(
          x.size
          for name, x in nodes.params.items()
          if name in ('appearance', 'poses')
      ),
  )
  want = traffic.buffer_bytes(sizes)
  for kind, found in traffic.collective_bytes(step.as_text()).items():
    # Losses, flags and counts are scalars.
    assert want[kind] <= found <= want[kind] + 256, kind


def test_a_non_finite_step_changes_nothing_on_any_device():
  case, batch = (1, 4, 1, 2), tiny.batch(32)
  bad = batch._replace(rgb=batch.rgb.at[5].set(jnp.nan))
  partition, (state, metrics, _) = _run_sharded(case, quad_scene.STEP, bad, 0)
  assert not bool(metrics.finite['loss']) and int(state.skipped) == 1
  before = quad_scene.state(quad_scene.uneven_octree())
  after = sharded_step.gather_state(state, partition)
  for a, b in zip(
      jax.tree.leaves((before.params, before.opt_state)),
      jax.tree.leaves((after.params, after.opt_state)),
      strict=True,
  ):
    np.testing.assert_array_equal(a, b)
