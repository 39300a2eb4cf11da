"""Paging over meshes; `eight_devices_test` runs it on eight devices."""

import functools
import json

import jax
import numpy as np
import pytest

from configs import city
from infnerf_jax.octree import io as octree_io
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.storage import leaves, row_store
from infnerf_jax.training import (
    capacity,
    loop,
    mesh_route,
    out_of_core,
    paging,
    setup,
    sharded_step,
    slot_rows,
    tracks,
)
from tests.scene import builders
from tests.sharding import devices, quad_scene
from tests.training import loop_test, tiny

pytestmark = devices.NEEDS_EIGHT

_TOLERANCE = 1e-5
_GROWING = dict(octree_growth_schedule=(2, 5), growth_rehearsal=0.2)


# ------------------------------------------------------------------ one step


def _resident(tree):
  """The root and every third of the other nodes, coarse and fine."""
  return np.concatenate([[0], np.arange(1, tree.num_nodes, 3)])


def _slots(tree, held: capacity.Capacity):
  """[N] rows of the resident nodes, each on the shard that it belongs to."""
  nodes, owner = _resident(tree), tracks.owners(tree, held.num_shards)
  slot_of_node = np.full(tree.num_nodes, -1, np.int32)
  slot_of_node[0] = 0
  for shard in range(held.num_shards):
    own = nodes[1:][owner[nodes[1:]] == shard]
    first = shard * held.num_slots + held.num_pinned
    assert len(own) and len(own) <= held.num_slots - held.num_pinned
    slot_of_node[own] = first + np.arange(len(own))
  return slot_of_node


def _step(num_data, num_node):
  """(rows of the resident nodes, dense state, loss) after a paged step."""
  tree, mesh = quad_scene.uneven_octree(), devices.mesh(num_data, num_node)
  nodes = _resident(tree)
  held = capacity.Capacity(30, 1, 0, num_node)
  slot_of_node = _slots(tree, held)
  around, state = quad_scene.surroundings(tree), quad_scene.state(tree)
  placed = sharded_step.place_everywhere(
      around._replace(
          tree=around.tree._replace(
              slot_of_node=slot_of_node, active=np.ones(tree.num_nodes, bool)
          )
      ),
      mesh,
  )
  shard = sharded_step.place_shard(
      held.local_slots(), np.arange(held.num_pinned), mesh
  )
  rows = jax.tree.map(np.asarray, paging.rows_of(state))
  slots = slot_rows.SlotRows(mesh, held, jax.tree.map(lambda x: x[0], rows))
  blank = jax.tree.map(
      lambda x: sharded_step.place(
          np.zeros((held.num_rows,) + x.shape[1:], x.dtype),
          mesh,
          jax.sharding.PartitionSpec(mesh_lib.NODE),
      ),
      rows,
  )
  parts = slots.take_apart(blank)
  for node in nodes:
    row = jax.tree.map(lambda x: x[node], rows)  # noqa: B023
    slots.put(parts, int(slot_of_node[node]), row)
  dense = sharded_step.place_everywhere(out_of_core._without_rows(state), mesh)
  step = sharded_step.make_sharded_train_step(
      mesh, quad_scene.spec(), quad_scene.RENDER, quad_scene.STEP
  )
  state, metrics = step(
      paging.with_rows(dense, slots.put_together(parts, blank)),
      sharded_step.shard_batch(tiny.batch(32), mesh),
      placed._replace(tree=placed.tree._replace(shard=shard)),
      sharded_step.place_everywhere(jax.random.key(7, impl='rbg'), mesh),
  )
  parts = slots.take_apart(paging.rows_of(state))
  found = [slots.get(parts, int(slot_of_node[node])) for node in nodes]
  return (
      jax.tree.map(lambda *x: np.stack(x), *found),
      jax.tree.map(np.asarray, state.opt_state['dense']),
      metrics,
  )


@functools.lru_cache
def _single():
  return _step(1, 1)


@pytest.mark.slow
@pytest.mark.parametrize('num_data, num_node', [(1, 2), (2, 2)])
def test_a_step_of_the_same_resident_nodes_is_that_of_one_device(
    num_data, num_node
):
  rows, dense, metrics = _step(num_data, num_node)
  want_rows, want_dense, want = _single()
  counts = np.asarray(want.samples_of_node)
  assert 0 < counts[1].sum() < counts[0].sum()
  np.testing.assert_array_equal(metrics.samples_of_node, counts)
  np.testing.assert_allclose(metrics.loss, want.loss, rtol=_TOLERANCE)
  # Adam's moments are sums of gradients.
  names = jax.tree_util.tree_flatten_with_path
  got = jax.tree.leaves((rows['moments'], dense))
  for (path, w), g in zip(
      names((want_rows['moments'], want_dense))[0], got, strict=True
  ):
    error = np.abs(np.asarray(g, np.float64) - w).max(initial=0)
    limit = _TOLERANCE * np.abs(w).max(initial=0)
    assert error <= limit, jax.tree_util.keystr(path)


# ------------------------------------------------------------------ the loop


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scene')
  builders.infnerf(folder, num_photos=10)
  points = folder / 'sparse_points.ply'
  builders.save_ply(points, builders.points(32), dtype='f8')
  return folder


@pytest.fixture(scope='module', autouse=True)
def one_program():
  """Runs of equal options share their compiled step."""
  with pytest.MonkeyPatch.context() as patch:
    make = functools.lru_cache(sharded_step.make_sharded_train_step)
    patch.setattr(sharded_step, 'make_sharded_train_step', make)
    yield


def _config(scene, data, node, **changes):
  config = loop_test._config(
      scene, devices={'data': data, 'node': node}, **changes
  )
  config.grid_size, config.max_depth = 4, 3
  config.sampling.num_samples = (12,)
  config.lambda_regularization = config.lambda_depth = 0.0
  config.field.log2_table_size, config.field.num_grid_scales = 6, 2
  config.checkpoint_every, config.logging.log_every = 5, 1
  return config


def _stored(workdir):
  octree, _ = octree_io.load_octree(workdir / 'octree.npz')
  store = row_store.RowStore(workdir / out_of_core.STORE)
  keys = tree_lib.node_key(octree.level, octree.coord)
  return {int(key): store.read(key) for key in keys}, store.read_state()


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_sharded_growing_and_paged_resumes_to_the_same_bits(scene, tmp_path):
  config = _config(scene, 1, 2, num_slots=6, **_GROWING)
  trained = loop.train(config, tmp_path / 'unbroken')
  num_nodes = trained.run.plan.built.octree.num_nodes
  assert num_nodes > 2 * 2 * config.num_slots and trained.state is None
  config.num_steps = 7
  loop.train(config, tmp_path / 'broken')
  config.num_steps = 12
  loop.train(config, tmp_path / 'broken')
  rows, state = _stored(tmp_path / 'broken')
  _assert_same((rows, state), _stored(tmp_path / 'unbroken'))
  lines = loop_test._metrics(tmp_path / 'unbroken')
  assert np.shape(lines[-1]['samples_by_device']) == (1, 2)
  assert min(lines[-1]['samples_by_device'][0]) > 0
  assert sum(line['bytes_read_per_step'] for line in lines) > 0
  assert all(line['resident_nodes'] <= 2 * 6 for line in lines)
  # Levels joined one by one, by the nodes that the samples were in.
  deepest = [np.flatnonzero(line['samples_by_level'])[-1] for line in lines]
  assert deepest[0] == 0 and deepest[-1] > 1
  # On one device it goes on from there.
  config.devices.node, config.num_steps = 1, 14
  loop.train(config, tmp_path / 'broken')
  assert int(_stored(tmp_path / 'broken')[1]['step']) == 14


@pytest.mark.slow
def test_all_resident_equals_the_mesh_without_paging(scene, tmp_path):
  config = _config(scene, 2, 2, **_GROWING)
  run = setup.prepare_run(config, tmp_path, 2)
  ordinary = mesh_route.MeshRoute(config, run, (2, 2))
  state = ordinary.start(None)
  for k in range(7):
    state, metrics = ordinary.step(state, ordinary.draw(k), k)
  want = ordinary.whole(state)
  with out_of_core.PagedRoute(config, tmp_path, run, (2, 2)) as paged:
    state = paged.start(None)
    for k in range(7):
      state, again = paged.step(state, paged.draw(k), k)
    paged.save(7, state)
  np.testing.assert_array_equal(again.loss, metrics.loss)
  octree = run.plan.built.octree
  store = row_store.RowStore(tmp_path / out_of_core.STORE)
  reference = {
      name: leaves.named_leaves(part)
      for name, part in paging.rows_of(want).items()
  }
  written = 0
  for node, key in enumerate(tree_lib.node_key(octree.level, octree.coord)):
    row = store.read(key)
    if row is not None:
      written += 1
      _assert_same(row, jax.tree.map(lambda x: x[node], reference))  # noqa: B023
  assert written > 10
  np.testing.assert_array_equal(
      store.read_state()['params/appearance'], want.params['appearance']
  )


@pytest.mark.slow
def test_the_city_is_sharded_grows_and_is_paged(tmp_path):
  config = city.get_config('quicktest')
  config.devices.node, config.num_slots = 4, 4
  config.grid_size, config.max_depth = 4, 4  # small nodes, many of them
  config.num_steps = config.optimizer.lr_decay_steps = 24
  config.checkpoint_every = 12
  trained = loop.train(config, tmp_path)
  report = json.loads((tmp_path / out_of_core.REPORT).read_text())
  assert report['num_shards'] == 4 and report['now']['tracks']
  held = report['num_pinned'] + 4 * (4 - report['num_pinned'])
  assert held < trained.run.plan.built.octree.num_nodes
  lines = loop_test._metrics(tmp_path)
  assert len(lines[-1]['samples_by_device'][0]) == 4
  assert (
      lines[0]['samples_by_level'][-1] == 0 < lines[-1]['samples_by_level'][-1]
  )
