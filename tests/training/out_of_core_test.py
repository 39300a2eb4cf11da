"""Runs that page: the same bits, whatever interrupts them."""

import functools
import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import infnerf_jax
from infnerf_jax import errors
from infnerf_jax.evaluation import train_and_evaluate
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import io as octree_io
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_image, render_rays, stand_ins
from infnerf_jax.storage import leaves, node_store, row_store
from infnerf_jax.training import capacity, loop, out_of_core, sharded_step
from infnerf_jax.training import step as step_lib
from tests.scene import builders
from tests.training import loop_test, tiny

_NUM_SLOTS = 12
_STEPS = 30


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scene')
  builders.infnerf(folder, num_photos=10)
  points = folder / 'sparse_points.ply'
  builders.save_ply(points, builders.points(32), dtype='f8')
  return folder


@pytest.fixture(scope='module', autouse=True)
def one_program():
  """Runs of equal options share their compiled step, which may be slow."""
  jax.config.update('jax_disable_most_optimizations', True)
  with pytest.MonkeyPatch.context() as patch:
    make = functools.lru_cache(sharded_step.make_sharded_train_step)
    patch.setattr(sharded_step, 'make_sharded_train_step', make)
    yield
  jax.config.update('jax_disable_most_optimizations', False)


def _config(scene, **changes):
  config = loop_test._config(scene)
  config.grid_size = 4
  config.max_depth = 3
  config.num_steps = config.optimizer.lr_decay_steps = _STEPS
  config.checkpoint_every = 10
  config.num_slots = _NUM_SLOTS
  config.field.log2_table_size = 6
  config.field.num_grid_scales = 2
  with config.unlocked():
    for name, value in changes.items():
      config[name] = value
  return config


def _stored(workdir):
  """All that a run's store holds, by name."""
  octree, _ = octree_io.load_octree(workdir / 'octree.npz')
  store = row_store.RowStore(workdir / out_of_core.STORE)
  keys = tree_lib.node_key(octree.level, octree.coord)
  rows = {int(key): store.read(key) for key in keys}
  return rows, store.read_state()


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def unbroken(scene, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('paged') / 'run'
  trained = loop.train(_config(scene), workdir)
  assert trained.run.plan.built.octree.num_nodes > 2 * _NUM_SLOTS
  assert trained.state is None and trained.run.plan.num_slots == _NUM_SLOTS
  return workdir


def test_paged_run_counts_bytes_and_samples(unbroken):
  rows = [
      json.loads(line)
      for line in (unbroken / 'metrics.jsonl').read_text().splitlines()
  ]
  assert sum(row['bytes_read_per_step'] for row in rows) > 0
  assert sum(row['bytes_written_per_step'] for row in rows) > 0
  assert all(row['resident_nodes'] <= _NUM_SLOTS for row in rows)
  report = json.loads((unbroken / out_of_core.REPORT).read_text())
  _, state = _stored(unbroken)
  total, got = state['samples_of_node']
  assert (got <= total).all() and got[0] == total[0] > 0
  # 64 rays of 6 samples, those apart that miss the box.
  assert 0.3 < total.sum() / (_STEPS * 64 * 6) <= 1
  np.testing.assert_allclose(report['samples_share'], got.sum() / total.sum())
  assert not list((unbroken / 'checkpoints').glob('*'))


def test_resumed_equals_unbroken(scene, unbroken, tmp_path):
  # 14 is within a stage, between two commits of the unbroken run.
  loop.train(_config(scene, num_steps=14), tmp_path / 'run')
  loop.train(_config(scene), tmp_path / 'run')
  _assert_same(_stored(tmp_path / 'run'), _stored(unbroken))


@pytest.mark.slow
def test_all_resident_equals_an_ordinary_run(scene, tmp_path, monkeypatch):
  options = dict(num_slots=0, num_steps=12)
  loop.train(_config(scene, **options), tmp_path / 'ordinary')
  monkeypatch.setattr(
      capacity, 'of_run', lambda spec, n, **_: capacity.Capacity(n, 1, 0)
  )
  loop.train(_config(scene, **options), tmp_path / 'paged')
  rows, state = _stored(tmp_path / 'paged')
  _, ordinary = loop_test._stored(tmp_path / 'ordinary')
  reference = {
      node_store.PARAMETERS: leaves.named_leaves(ordinary['params']['nodes']),
      node_store.MOMENTS: leaves.named_leaves(ordinary['opt_state']['nodes']),
  }
  for node, row in enumerate(rows.values()):
    _assert_same(row, jax.tree.map(lambda x: x[node], reference))  # noqa: B023
  counts = state.pop(out_of_core._COUNTS)
  np.testing.assert_array_equal(*counts)
  planned = out_of_core._PAIRS + '/'
  state = {k: x for k, x in state.items() if not k.startswith(planned)}
  del ordinary['params']['nodes'], ordinary['opt_state']['nodes']
  _assert_same(state, leaves.named_leaves(ordinary))
  losses = lambda w: [row['loss'] for row in loop_test._metrics(tmp_path / w)]
  assert losses('paged') == losses('ordinary')


_CHILD = """
import os, signal, sys
sys.path.insert(0, {root!r})
import jax
jax.config.update('jax_disable_most_optimizations', True)
from infnerf_jax.storage import key_values
from infnerf_jax.training import loop
from tests.training import out_of_core_test

kind = key_values.TensorStoreKeyValues
write, count = kind.write, 0

def killing(self, key, value):
  global count
  count += {match!r} in key
  if count == {nth}:
    if {before}:
      os.kill(os.getpid(), signal.SIGKILL)
    write(self, key, value)
    os.kill(os.getpid(), signal.SIGKILL)
  write(self, key, value)

kind.write = killing
loop.train(
    out_of_core_test._config({scene!r}),
    __import__('pathlib').Path({out!r}),
)
"""


# A row that leaves between two commits; half of a node's two chunks; the last
# moment before a commit counts; the first moment after.
@pytest.mark.parametrize(
    'match, nth, before',
    [
        ('nodes/moments/', 21, True),
        pytest.param('nodes/', 8, True, marks=pytest.mark.slow),
        pytest.param('store.json', 3, True, marks=pytest.mark.slow),
        pytest.param('store.json', 3, False, marks=pytest.mark.slow),
        pytest.param('state.', 2, False, marks=pytest.mark.slow),
    ],
)
def test_killed_run_resumes_to_the_same_bits(
    scene, unbroken, tmp_path, match, nth, before
):
  out = tmp_path / 'run'
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  code = _CHILD.format(
      root=root, scene=str(scene), out=str(out), match=match, nth=nth,
      before=before,
  )  # fmt: skip
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=root, capture_output=True, timeout=240
  )
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:].decode()
  loop.train(_config(scene), out)
  _assert_same(_stored(out), _stored(unbroken))


@pytest.mark.slow
def test_renders_and_scores_from_its_store(scene, unbroken):
  loaded = infnerf_jax.load(unbroken)
  name = loaded.photo_names[0]
  image = loaded.render(name)
  rows, _ = _stored(unbroken)
  params = [
      node_store.row_to_params(row[node_store.PARAMETERS])
      for row in rows.values()
  ]
  octree, aabb = octree_io.load_octree(unbroken / 'octree.npz')
  model = scene_model.SceneModel(
      scene_model.tree_arrays(octree, np.arange(octree.num_nodes)),
      jax.tree.map(lambda *x: jnp.stack(x), *params),
      jnp.asarray(loaded.views['appearance']),
      jnp.asarray(scene_model.sample_aabb_in_root_units(octree, aabb)),
  )
  whole = render_image.render_image(
      model, loaded.spec, cameras_lib.take(loaded.cameras, 0), octree,
      loaded.appearance(), loaded.options,
  )  # fmt: skip
  np.testing.assert_allclose(image.rgb, whole.rgb, atol=1e-6)
  scores = loaded.evaluate(show_progress=False)
  assert scores['num_steps'] == _STEPS and scores['psnr'] > 0
  assert scores['params_sha256'] == leaves.params_sha256(
      {'nodes': model.nodes, 'appearance': model.appearance}
  )
  # The command's way: nothing is left to train, the scores are the same.
  again = train_and_evaluate.train_and_evaluate(_config(scene), unbroken)
  assert again['params_sha256'] == scores['params_sha256']
  assert again['psnr'] == pytest.approx(scores['psnr'], abs=1e-6)


def test_a_run_with_checkpoints_is_not_paged(scene, tmp_path):
  loop.train(_config(scene, num_slots=0, num_steps=2), tmp_path)
  with pytest.raises(errors.InputError, match='found checkpoints') as caught:
    loop.train(_config(scene, num_slots=0, max_memory_gb=4e-4), tmp_path)
  assert '\n' not in str(caught.value)


# One sampling round: places do not depend on densities.
_ONE_ROUND = render_rays.RenderOptions(num_samples=(12,))
_NO_PRIORS = tiny.replace(
    tiny.STEP, lambda_regularization=0.0, lambda_transparency=0.0
)


def _step_of(slots, *, counts=True):
  """(state on the host, metrics) after a step with some nodes resident."""
  step = step_lib.make_train_step(tiny.spec(), _ONE_ROUND, _NO_PRIORS)
  around, batch = tiny.surroundings(), tiny.batch(128)
  tree = around.tree._replace(
      slot_of_node=jnp.asarray(slots, jnp.int32),
      active=jnp.ones(9, bool) if counts else None,
  )
  state, metrics = step(
      tiny.state(_NO_PRIORS),
      batch._replace(pixel_size=0.2 * batch.pixel_size),
      around._replace(tree=tree),
      jax.random.key(7, impl='rbg'),
  )
  return jax.tree.map(np.asarray, state), metrics


def test_a_step_with_all_resident_is_an_ordinary_step():
  counted, metrics = _step_of(np.arange(9))
  ordinary, none = _step_of(np.arange(9), counts=False)
  assert none.samples_of_node is None and metrics.samples_of_node.any()
  _assert_same(counted, ordinary)


def test_ancestors_learn_only_what_is_their_own():
  # All resident; and only the root and its second child.
  found = [_step_of(slots) for slots in (np.arange(9), [0, -1, 2] + [-1] * 6)]
  states = [state for state, _ in found]
  counts = [np.asarray(metrics.samples_of_node) for _, metrics in found]
  whole, part = (s.opt_state['nodes'] for s in states)
  resident, absent = [0, 2], [1, 3, 4, 5, 6, 7, 8]
  # Samples of absent nodes do show: the picture is another.
  assert counts[0][0][absent].sum() > 20 and counts[0][1].sum() > 0
  np.testing.assert_array_equal(counts[0][0], counts[0][1])
  np.testing.assert_array_equal(counts[1][0], counts[0][0])
  np.testing.assert_array_equal(counts[1][1][resident], counts[0][0][resident])
  assert not counts[1][1][absent].any()
  # A resident node's rows are touched exactly where its own samples lie.
  for slot in resident:
    np.testing.assert_array_equal(
        part.table.steps[slot], whole.table.steps[slot]
    )
  start = jax.tree.map(np.asarray, tiny.state(_NO_PRIORS))
  untouched = part.table.steps[0] == 0
  assert untouched.any() and not untouched.all()
  np.testing.assert_array_equal(
      states[1].params['nodes']['table'][0][untouched],
      start.params['nodes']['table'][0][untouched],
  )
  for slot in absent:
    assert not part.table.steps[slot].any() and not part.mlp_steps[slot]


@pytest.mark.slow
def test_stand_ins_show_what_they_know():
  around, model = tiny.surroundings(), tiny.spec()
  nodes = tiny.state().params['nodes']
  rays = cameras_lib.camera_rays(
      around.cameras, tiny.batch().photo_idx, tiny.batch().pix,
      tiny.batch().pixel_size, root_side=model.root_side,
  )  # fmt: skip
  slots = jnp.full(9, -1, jnp.int32).at[0].set(0)
  appearance = jnp.zeros((32, model.appearance_dim))
  colors = []
  # A tree of the root alone shows what the root shows for all nodes.
  for active in (None, jnp.ones(9, bool)):
    tree = around.tree._replace(slot_of_node=slots, active=active)
    scene = scene_model.SceneModel(tree, nodes, None, around.sample_aabb)
    render = jax.jit(render_rays.render_rays, static_argnums=(1, 4))
    colors.append(render(scene, model, rays, appearance, tiny.RENDER))
  assert stand_ins.is_stand_in(colors[1].samples).any()
  np.testing.assert_allclose(colors[0].rgb, colors[1].rgb, atol=1e-6)
