"""Pruning: what goes, what stays, and that nothing shows."""

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import prune
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.training import pruning
from tests import tiny_model

_OPTIONS = render_rays.RenderOptions(num_samples=(24, 16))


def test_policy_goes_up_from_empty_leaves():
  octree = tiny_model.make_octree()
  parent = 8  # of the grandchildren 9 to 16
  assert (octree.parent[9:] == parent).all()
  own, above = np.ones(17), np.zeros(17)
  own[9:] = own[[parent, 3, 4, 5]] = 0.0
  above[4] = 1.0  # the root is not empty there
  seen = np.arange(17) != 5
  asked = []

  def measure(gone):
    asked.append(np.flatnonzero(gone).tolist())
    return prune.Shares(own, above, seen)

  found = prune.empty_nodes(octree, measure, max_share=0.1)
  assert np.flatnonzero(found.gone).tolist() == [3, *range(8, 17)]
  assert found.shares.own[4] == 0 and found.shares.stand_in[4] == 1
  assert np.isnan(found.shares.own[0])
  # Level 1 is looked at without what is gone of level 2.
  assert asked == [[], list(range(9, 17))]
  # An inner node with a child that stays is not even looked at.
  own[12] = 1.0
  found = prune.empty_nodes(octree, measure, max_share=0.1)
  assert np.flatnonzero(found.gone).tolist() == [3, 9, 10, 11, *range(13, 17)]
  assert np.isnan(found.shares.own[parent])
  # Nodes that have not joined yet keep no ancestor from going.
  found = prune.empty_nodes(
      octree, measure, max_share=0.1, candidates=np.arange(17) < 9
  )
  assert np.flatnonzero(found.gone).tolist() == [3, parent]


def _emptied(model, slots):
  """The model whose fields of some slots are next to nothing everywhere."""
  nodes, slots = model.nodes, jnp.asarray(slots)
  density = dict(nodes['density'])
  density['w0'] = density['w0'].at[slots].set(0.1)
  density['w1'] = density['w1'].at[slots, :, 0].set(-2.0)
  table = nodes['table'].at[slots].set(1.0)
  return model._replace(nodes={**nodes, 'table': table, 'density': density})


def _views(octree, num_rays=600):
  cameras = cameras_lib.stack(
      [tiny_model.make_camera(angle) for angle in (0.2, 1.8, 3.6, 5.0)]
  )
  return pruning.spread_views(
      scene_model.device_cameras(cameras, octree), cameras, [0, 1, 3],
      (0.25, 16.0), num_rays=num_rays,
  )  # fmt: skip


def test_views_are_spread_over_photos_areas_and_levels():
  views = _views(tiny_model.make_octree())
  assert np.bincount(views.photo).tolist() == [200, 200, 0, 200]
  assert (
      np.unique(views.pixel_size, return_counts=True)[1].tolist() == [300] * 2
  )
  pix = views.pix[(views.photo == 1) & (views.pixel_size < 1)]
  quarter = (pix[:, 0] < 24) & (pix[:, 1] < 18)
  assert 20 < quarter.sum() < 30 and pix.max() < 48


@pytest.fixture(scope='module')
def scene():
  model, spec, octree = tiny_model.make_model()
  return _emptied(model, [0, 2, 3, 8, 9, 10]), spec, octree


@pytest.fixture(scope='module')
def report(scene):
  model, spec, octree = scene
  return pruning.find_empty(
      octree, model, spec, _OPTIONS, _views(octree), max_share=0.02, step=7
  )


def test_report_names_what_is_empty_under_empty_parents(scene, report):
  _, _, octree = scene
  assert report['num_pruned'] == len(report['pruned']) == 4
  assert report['pruned_by_level'] == [0, 2, 2]
  assert report['bytes_saved'] > 0 and report['step'] == 7
  for node in report['pruned']:
    assert max(node['share'], node['parent_share']) < 0.02
  # Node 8 is empty but has children that are not: nobody asks for it.
  assert report['num_empty_but_parent_is_not'] == 0


@pytest.mark.slow
def test_shares_are_those_of_the_weights(scene):
  model, spec, octree = scene
  views = _views(octree, 60)
  gone = np.zeros(17, bool)
  found = pruning.measure_shares(octree, model, spec, _OPTIONS, views, gone)
  rays = cameras_lib.camera_rays(
      views.cameras, views.photo, views.pix, views.pixel_size,
      root_side=spec.root_side,
  )  # fmt: skip
  samples = render_rays.place_samples(None, model, spec, rays, _OPTIONS)
  colors = render_rays.shade_samples(
      model, spec, samples,
      render_rays.ray_inputs(rays, jnp.zeros((len(views.photo), 4))),
  )  # fmt: skip
  want = np.zeros(17)
  for node in range(17):
    mine = (np.asarray(samples.node_id) == node) & (samples.slot >= 0)
    assert found.seen[node] == mine.any()
    want[node] = (np.asarray(colors.weights) * mine).sum(axis=1).max()
  np.testing.assert_allclose(found.own, want, atol=1e-5)
  assert want.max() > 0.5


def test_pictures_are_the_same_without_them(scene, report, tmp_path):
  model, spec, octree = scene
  pruning.write(tmp_path, report)
  tree = pruning.without_pruned(tmp_path, model.tree, octree, 7)
  slots = np.asarray(tree.slot_of_node)
  assert np.flatnonzero(slots < 0).tolist() == [2, 3, 9, 10]
  draw = lambda tree: render_image.render_image(
      model._replace(tree=tree), spec, tiny_model.make_camera(0.8), octree,
      np.zeros(4, np.float32), _OPTIONS, pixel_size=0.25,
      outputs=('rgb', 'statistics'),
  )  # fmt: skip
  whole, part = draw(model.tree), draw(tree)
  np.testing.assert_allclose(part.rgb, whole.rgb, atol=0.004)
  assert np.ptp(whole.rgb) > 0.2
  # A report of another step says nothing; no report, nothing either.
  for step, folder in ((8, tmp_path), (7, tmp_path / 'none')):
    same = pruning.without_pruned(folder, model.tree, octree, step)
    assert same is model.tree
  pruning.forget(tmp_path)
  assert pruning.without_pruned(tmp_path, model.tree, octree, 7) is model.tree


def test_a_file_that_is_no_report_is_refused(scene, tmp_path):
  model, _, octree = scene
  json_files.write_json_atomic(tmp_path / pruning.REPORT, {'step': 7})
  with pytest.raises(errors.InputError, match='pruned.json'):
    pruning.without_pruned(tmp_path, model.tree, octree, 7)
