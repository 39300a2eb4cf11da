"""A store that is slow, fails or is damaged: coarser pictures that say so."""

import numpy as np
import pytest

from infnerf_jax.evaluation.complexity import stumbling_server
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.storage import key_values, node_store, tree_pages
from infnerf_jax.streaming import pager as pager_lib
from infnerf_jax.streaming import store_scene
from tests import tiny_model, tiny_store

OPTIONS = render_rays.RenderOptions(num_samples=(16, 12))
BLOCK = 432
QUICK = key_values.ReadPolicy(
    attempts=3, first_delay=0.01, max_delay=0.02, timeout=0.3
)
CAMERA = tiny_model.make_camera(0.3, distance=1.0)
_DRAW = dict(appearance=np.zeros(4), ray_block=BLOCK, outputs=('rgb',))


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  folder = tmp_path_factory.mktemp('faults')
  model, spec, octree = tiny_store.make_store(folder)
  draw = lambda model: render_image.render_image(
      model, spec, CAMERA, octree, options=OPTIONS, **_DRAW
  ).rgb
  return folder, model, octree, draw


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(pager_lib, '_COOL_DOWN', 0.0)
  monkeypatch.setattr(tree_pages, '_COOL_DOWN', 0.0)


def _open(location):
  return store_scene.StoreScene(
      node_store.open_store(location, QUICK), options=OPTIONS
  )


def _without(model, octree, key):
  """The model without a node: its parent stands in."""
  row = np.flatnonzero(tree_lib.node_key(octree.level, octree.coord) == key)
  children = np.where(octree.children == row[0], -1, octree.children)
  return model._replace(tree=model.tree._replace(children=children))


@pytest.mark.parametrize('trouble', ['error', 'hang', 'short', 'wrong'])
def test_a_node_that_stays_out_of_reach(stored, trouble):
  """Its parent is shown and named; once the server recovers, the node is."""
  folder, model, octree, draw = stored
  scene = _open(folder)
  scene.render(CAMERA, **_DRAW)
  key = max(scene._pager._in_use)  # a leaf in view
  scene.close()
  fails = lambda path, count: trouble if f'/{key:x}.' in path else None
  with stumbling_server.serve(folder, fails) as (address, server):
    scene = _open(address)
    image = scene.render(CAMERA, **_DRAW)
    expected = draw(_without(model, octree, key))
    np.testing.assert_allclose(image.rgb, expected, atol=1e-6)
    report = scene.frame_report
    assert report['nodes_resident'] == report['nodes_needed'] - 1
    if trouble == 'wrong':  # bytes that do not verify are never asked for again
      assert list(report['damaged']) == [f'{key:x}']
      assert not report['unreachable']
      return
    assert report['unreachable'] == [f'{key:x}'] and not report['damaged']
    asked = max(n for path, n in server.counts.items() if f'/{key:x}.' in path)
    # TensorStore asks once more by itself where an answer is an error.
    assert QUICK.attempts <= asked <= 2 * QUICK.attempts
    server.trouble = lambda path, count: None
    image = scene.render(CAMERA, **_DRAW)
    np.testing.assert_allclose(image.rgb, draw(model), atol=1e-6)
    assert not scene.frame_report['unreachable']


def test_a_page_that_is_out_of_reach_for_a_while(stored):
  """The root is shown meanwhile."""
  folder, model, _, draw = stored
  fails = lambda path, count: 'error' if path.startswith('tree') else None
  with stumbling_server.serve(folder, fails) as (address, server):
    scene = _open(address)
    # The page names the root's chunk: there is nothing to show yet.
    assert not scene.render(CAMERA, **_DRAW).rgb.any()
    assert scene.frame_report['unreachable'] == ['1']
    server.trouble = lambda path, count: None
    scene.render(CAMERA, **_DRAW)
    assert not scene.frame_report['unreachable']
    scene.store.tree._pages.clear()
    server.trouble = fails
    image = scene.render(CAMERA, **_DRAW)
    children = np.full_like(model.tree.children, -1)
    root = model._replace(tree=model.tree._replace(children=children))
    np.testing.assert_allclose(image.rgb, draw(root), atol=1e-6)
    assert scene.frame_report['unreachable_pages'] == ['1']
    server.trouble = lambda path, count: None
    image = scene.render(CAMERA, **_DRAW)
    np.testing.assert_allclose(image.rgb, draw(model), atol=1e-6)
    assert not scene.frame_report['unreachable_pages']


def test_a_damaged_page_is_reported(stored):
  scene = _open(stored[0])
  scene.render(CAMERA, **_DRAW)
  scene.store.tree._pages.clear()
  scene.store.tree.damage[1] = 'crc32c'
  image = scene.render(CAMERA, **_DRAW)
  assert scene.frame_report['damaged_pages'] == {'1': 'crc32c'}
  assert scene.frame_report['nodes_needed'] == 1
  assert np.isfinite(image.rgb).all()


def test_pictures_become_final_over_a_server_that_is_late_and_fails(stored):
  """A first picture before the nodes are there; the last is exact."""
  folder, model, _, draw = stored
  fails = lambda path, count: 'error' if count <= 2 else None
  passes = lambda path, count: None
  with stumbling_server.serve(folder, passes, 0.01) as (address, server):
    scene = _open(address)
    steps = scene.render_progressively(CAMERA, step=2, preview_level=1, **_DRAW)
    first = next(steps)
    server.trouble, server.counts = fails, {}
    steps = [first, *steps]
    assert [step.is_final for step in steps] == [False] * (len(steps) - 1) + [
        True
    ]
    assert len(steps) > 2 and first.image.rgb.shape == (18, 24, 3)
    assert first.report['nodes_resident'] <= 1
    seconds = [step.seconds for step in steps]
    assert seconds == sorted(seconds) and seconds[0] > 0
    np.testing.assert_allclose(steps[-1].image.rgb, draw(model), atol=1e-6)
    # TensorStore repeats once by itself; the rest is ours.
    assert scene.store.values.num_retries > 0
