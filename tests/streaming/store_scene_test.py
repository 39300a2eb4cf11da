"""Rendering from a store: the same pictures, under a cap, despite damage."""

import dataclasses

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import levels
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_image, render_rays, shared_proposals
from infnerf_jax.storage import node_store, tree_pages
from infnerf_jax.streaming import budget as budget_lib
from infnerf_jax.streaming import pager as pager_lib
from infnerf_jax.streaming import store_scene, view_tiles, working_set
from tests import tiny_model, tiny_store

OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))
BLOCK = 432  # a quarter of the tiny camera's picture


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  folder = tmp_path_factory.mktemp('store')
  model, spec, octree = tiny_store.make_store(folder)
  return folder, model, spec, octree


VARIANTS = {
    'plain': OPTIONS,
    # As trained runs are filmed: a bias, and levels that fade.
    'biased, blended': dataclasses.replace(
        OPTIONS, level_policy=levels.BlendedPolicy(0.4, -1.0)
    ),
    'fast': shared_proposals.fast(OPTIONS),
}


def _open(folder, options=OPTIONS, **more):
  return store_scene.StoreScene(
      node_store.open_store(folder), options=options, **more
  )


def _camera(distance, angle=0.3):
  return tiny_model.make_camera(angle, distance=distance)


def _whole(stored, camera, options=OPTIONS):
  _, model, spec, octree = stored
  return render_image.render_image(
      model, spec, camera, octree, np.zeros(4), options, ray_block=BLOCK,
      outputs=('rgb', 'level', 'statistics'),
  )  # fmt: skip


def _render(scene, camera, **options):
  return scene.render(
      camera, appearance=np.zeros(4), ray_block=BLOCK,
      outputs=('rgb', 'level', 'statistics'), **options,
  )  # fmt: skip


@pytest.mark.parametrize('name', VARIANTS)
def test_the_same_picture_as_with_all_resident(stored, name):
  """All that any sampling round touches is in the working set."""
  _, _, _, octree = stored
  keys = tree_lib.node_key(octree.level, octree.coord)
  scene = _open(stored[0], VARIANTS[name])
  for distance in (1.0, 3.0, 12.0):
    camera = _camera(distance)
    expected = _whole(stored, camera, VARIANTS[name])
    found = _render(scene, camera)
    np.testing.assert_allclose(found.rgb, expected.rgb, atol=1e-6)
    np.testing.assert_array_equal(found.level, expected.level)
    assert scene.frame_report['level_bias'] == 0
    tiles = view_tiles.view_tiles(
        camera, proposal_stride=VARIANTS[name].largest_stride
    )
    wanted = working_set.find(scene.store.tree, scene.frame(), tiles).keys
    touched = keys[expected.statistics.touched_slots]
    assert set(touched.tolist()) <= set(wanted.tolist())
    # Again: nothing is read.
    _render(scene, camera)
    assert scene.frame_report['rows_read'] == 0


def test_corners_of_proposals_beyond_the_picture():
  """Tiles of shared proposals may end up to a stride less one outside."""
  camera = tiny_model.make_camera(width=45, height=33)
  tiles = view_tiles.view_tiles(camera, proposal_stride=4)
  pix = np.array([[48.0, 0.0], [48.0, 36.0], [0.0, 36.0]], np.float32)
  shape = (len(pix),)
  directions, _ = cameras_lib.pixels_to_directions(
      pix, np.zeros(shape, np.int32), np.tile(camera.intrinsics, shape + (1,)),
      np.zeros(shape + (8,), np.float32),
  )  # fmt: skip
  rays = np.asarray(directions, float) @ camera.cam_to_world[:, :3].T
  inside = lambda tiles: np.all(
      np.einsum('tpc,rc->rtp', tiles.normals, rays) >= 0, axis=-1
  ).any(axis=-1)
  assert inside(tiles).all()
  assert not inside(view_tiles.view_tiles(camera)).any()


def _pager(scene, num_slots, **changes):
  budget = budget_lib.plan(scene.store.header, scene.spec, OPTIONS, None)
  budget = budget._replace(num_slots=num_slots, **changes)
  return pager_lib.Pager(scene.store, scene.frame(), budget)


def test_few_slots_coarsen_the_view_and_nothing_else(stored):
  scene, camera = _open(stored[0]), _camera(1.0)
  tiles = view_tiles.view_tiles(camera)
  whole = _pager(scene, 17).prepare(tiles)
  assert whole.bias == 0 and whole.num_nodes > 5
  previous = 0.0
  for num_slots in (whole.num_nodes, 5, 2, 1):
    pager = _pager(scene, num_slots)
    view = pager.prepare(tiles)
    assert view.num_resident == view.num_nodes <= num_slots
    assert view.bias >= previous
    previous = view.bias
    held = np.sort(np.asarray(view.tree.slot_of_node))
    assert len(np.unique(held[held >= 0])) == view.num_nodes
    pager.close()
  assert previous > 0


def test_rows_come_and_go_and_stay_right(stored):
  """Many views through few slots: every resident row is its node's own."""
  scene = _open(stored[0])
  pager = _pager(scene, 9)
  rng = np.random.default_rng(0)
  _, model, _, octree = stored
  keys = tree_lib.node_key(octree.level, octree.coord).tolist()
  for _ in range(25):
    camera = _camera(2.0 ** rng.uniform(-1, 3), rng.uniform(0, 6))
    view = pager.prepare(view_tiles.view_tiles(camera))
    for key, slot in pager._slot_of.items():
      np.testing.assert_array_equal(
          view.nodes['table'][slot], model.nodes['table'][keys.index(key)]
      )
    assert view.nodes['table'].shape[0] == 9
    assert pager._slot_of[1] == 0
  assert pager.num_evicted > 0


def test_eviction_from_a_share_of_the_slots(stored):
  scene = _open(stored[0])
  budget = budget_lib.plan(scene.store.header, scene.spec, OPTIONS, None)
  pager = pager_lib.Pager(scene.store, scene.frame(), budget, evict_above=0.3)
  pager.prepare(view_tiles.view_tiles(_camera(1.0)))
  far = pager.prepare(view_tiles.view_tiles(_camera(30.0)))
  assert len(pager._slot_of) <= max(far.num_nodes, 0.3 * budget.num_slots)


def test_the_picture_does_not_depend_on_what_came_before(stored):
  """Cached finer rows must not sharpen a view that was coarsened."""
  tiles = view_tiles.view_tiles(_camera(1.0))
  one, other = _pager(_open(stored[0]), 5), _pager(_open(stored[0]), 5)
  for distance in (0.5, 2.0):
    other.prepare(view_tiles.view_tiles(_camera(distance, 2.0)))
  a, b = one.prepare(tiles), other.prepare(tiles)
  for first, second in ((a, b), (b, a)):
    np.testing.assert_array_equal(first.tree.children, second.tree.children)
  resident = lambda view: np.asarray(view.tree.slot_of_node) >= 0
  np.testing.assert_array_equal(resident(a), resident(b))


def _break(folder, key, how):
  (path,) = folder.glob(f'nodes/parameters/*/{key:x}.1')
  if how == 'gone':
    path.unlink()
  else:
    data = bytearray(path.read_bytes())
    data[30] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize('how', ['gone', 'flipped'])
def test_a_damaged_node_is_shown_by_its_parent(tmp_path, how):
  model, spec, octree = tiny_store.make_store(tmp_path)
  keys = tree_lib.node_key(octree.level, octree.coord)
  scene, camera = _open(tmp_path), _camera(1.0)
  touched = _whole((None, model, spec, octree), camera).statistics.touched_slots
  row = int(np.flatnonzero(touched & (octree.level == 2))[0])
  _break(tmp_path, int(keys[row]), how)
  found = _render(scene, camera)
  assert list(scene.frame_report['damaged']) == [f'{keys[row]:x}']
  # The same picture as of a tree without that node.
  pruned = np.where(octree.children == row, -1, octree.children)
  tree = model.tree._replace(children=pruned)
  expected = render_image.render_image(
      model._replace(tree=tree), spec, camera, octree, np.zeros(4), OPTIONS,
      ray_block=BLOCK, outputs=('rgb', 'level', 'statistics'),
  )  # fmt: skip
  np.testing.assert_allclose(found.rgb, expected.rgb, atol=1e-6)


@pytest.mark.parametrize('how', ['gone', 'flipped'])
def test_nothing_stands_in_for_a_damaged_root(tmp_path, how):
  """The other nodes still show; where only the root is, nothing does."""
  model, spec, octree = tiny_store.make_store(tmp_path)
  _break(tmp_path, 1, how)
  scene, slots = _open(tmp_path), np.array(model.tree.slot_of_node)
  slots[0] = -1
  model = model._replace(tree=model.tree._replace(slot_of_node=slots))
  for distance in (1.0, 60.0):
    camera = _camera(distance)
    found = _render(scene, camera)
    expected = _whole((None, model, spec, octree), camera)
    np.testing.assert_allclose(found.rgb, expected.rgb, atol=1e-6)
    assert list(scene.frame_report['damaged']) == ['1']
  assert not found.rgb.any()  # so far away all else is too fine
  assert scene.memory_report()['rows']['resident'] > 0


def test_a_store_without_a_single_good_value_renders(tmp_path):
  tiny_store.make_store(tmp_path)
  for path in [*tmp_path.glob('nodes/*/*/*'), *tmp_path.glob('tree/*')]:
    path.write_bytes(b'nonsense')
  scene = _open(tmp_path)
  found = _render(scene, _camera(1.0))
  assert not found.rgb.any()
  assert list(scene.frame_report['damaged']) == ['1']
  assert list(scene.frame_report['damaged_pages']) == ['1']


def test_a_cap_below_the_root_is_refused_with_the_least(stored):
  scene = _open(stored[0])
  with pytest.raises(errors.InputError, match='expected at least') as caught:
    _render(scene, _camera(1.0), max_memory_gb=1e-4)
  assert '\n' not in str(caught.value)
  least = float(str(caught.value).split('at least ')[1].split()[0])
  image = _render(scene, _camera(1.0), max_memory_gb=1.01 * least / 1e3)
  assert np.isfinite(image.rgb).all()
  with pytest.raises(errors.InputError):
    _render(scene, _camera(1.0), max_memory_gb=0.9 * least / 1e3)


@pytest.mark.parametrize('cap', [4e8, 1e9, 2e10])
def test_a_budget_never_exceeds_its_cap(stored, cap):
  header = node_store.open_store(stored[0]).header
  header = dataclasses.replace(header, num_nodes=10**7)
  budget = budget_lib.plan(
      header, header.model_spec(), OPTIONS, cap, picture_bytes=10**7
  )
  assert 0.8 * cap < budget.total <= cap
  assert budget.num_slots > 40


def test_progressive_pictures_end_at_the_final_one(stored):
  scene, camera = _open(stored[0]), _camera(1.0)
  steps = list(
      scene.render_progressively(
          camera, appearance=np.zeros(4), ray_block=BLOCK, step=3,
          outputs=('rgb', 'level', 'statistics'),
      )
  )  # fmt: skip
  assert len(steps) > 2
  assert steps[0].report['nodes_resident'] <= 1  # the root alone
  missing = [s.report['nodes_missing'] for s in steps]
  assert missing == sorted(missing, reverse=True) and missing[-1] == 0
  assert [s.is_final for s in steps] == [False] * (len(steps) - 1) + [True]
  expected = _whole(stored, camera).rgb
  np.testing.assert_allclose(steps[-1].image.rgb, expected, atol=1e-6)
  errors_of = [np.abs(s.image.rgb - expected).mean() for s in steps]
  assert errors_of[0] > 1e-3 and np.isfinite(steps[0].image.rgb).all()


def test_prefetched_rows_are_not_read_again(stored):
  scene = _open(stored[0])
  _render(scene, _camera(12.0))
  pager = scene._pager
  tiles = view_tiles.view_tiles(_camera(1.0))
  pager.prefetch(tiles)
  pager._prediction.result()
  for future in list(pager._staged.values()):
    future.result()
  staged = len(pager._staged)
  assert staged > 3
  reads = []
  original = scene.store.read_row
  scene.store.read_row = lambda *a: reads.append(a) or original(*a)
  view = pager.prepare(tiles)
  assert len(reads) == view.num_read - staged
  assert not pager._staged


def test_memory_report_adds_up(stored):
  scene = _open(stored[0], max_memory_gb=0.5)
  _render(scene, _camera(1.0))
  _render(scene, _camera(12.0))
  report = scene.memory_report()
  for part in ('device', 'host'):
    numbers = report[part]
    assert 0 < numbers['used'] + numbers['cached'] <= numbers['total']
    assert 0 < numbers['utilisation'] <= 1
  assert report['device']['total'] + report['host']['total'] <= 0.5e9
  assert report['device']['cached'] > 0
  assert report['rows']['resident'] <= report['rows']['slots']


def test_local_trees_hold_what_is_asked_for():
  rng = np.random.default_rng(3)
  octree = tiny_model.make_octree()
  keys, _ = tree_pages.octree_masks(octree)
  chosen = np.unique(np.append(rng.choice(keys, 6, replace=False), 1))
  slots = rng.permutation(len(chosen))
  tree, capacity = pager_lib.local_tree(chosen, slots, 2)
  assert capacity >= len(chosen)
  for key, slot in zip(chosen, slots):
    level, _ = tree_lib.key_level_coord(key)
    node = 0
    for step in range(int(level) - 1, -1, -1):
      node = int(tree.children[node, int(key) >> 3 * step & 7])
      assert node > 0
    assert int(tree.slot_of_node[node]) == slot
  assert (np.asarray(tree.slot_of_node) >= 0).sum() == len(chosen)


def test_orthographic_views_too(stored):
  scene = _open(stored[0])
  center = tiny_model.ROOT_MIN + tiny_model.SIDE / 2
  camera = cameras_lib.make_camera(
      focal=20.0, width=48, height=36, projection=cameras_lib.ORTHOGRAPHIC,
      cam_to_world=cameras_lib.look_at(center + [0, 0, 9], center),
  )  # fmt: skip
  expected = _whole(stored, camera)
  np.testing.assert_allclose(
      _render(scene, camera).rgb, expected.rgb, atol=1e-6
  )
