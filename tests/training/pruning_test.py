"""Pruning: what goes, what stays, and that nothing shows."""

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import errors, json_files
from infnerf_jax.octree import prune
from infnerf_jax.render import render_image, render_rays
from infnerf_jax.training import pruning
from tests import tiny_model

_OPTIONS = render_rays.RenderOptions(num_samples=(24, 16))


def test_policy_goes_up_from_empty_leaves():
  octree = tiny_model.make_octree()
  parent = 8  # of the grandchildren 9 to 16
  assert (octree.parent[9:] == parent).all()
  own = np.ones(17)
  own[9:] = own[[parent, 3, 4]] = 0.0
  asked = []

  def measure(box, field):
    asked.append((box.tolist(), field.tolist()))
    # The root is empty but where node 4 is.
    by_root = np.where(box == 4, 1.0, 0.0)
    return np.where(field == 0, by_root, own[field])

  found = prune.empty_nodes(octree, measure, max_opacity=0.1)
  assert np.flatnonzero(found.gone).tolist() == [3, *range(8, 17)]
  assert found.opacity[4] == 0 and found.stand_in_opacity[4] == 1
  assert np.isnan(found.opacity[0]) and found.opacity[1] == 1
  assert (list(range(9, 17)), [parent] * 8) in asked
  # An inner node with a child that stays is not even looked at.
  own[12] = 1.0
  found = prune.empty_nodes(octree, measure, max_opacity=0.1)
  assert np.flatnonzero(found.gone).tolist() == [3, 9, 10, 11, *range(13, 17)]
  assert np.isnan(found.opacity[parent])
  # Nodes that have not joined yet keep no ancestor from going.
  some = np.arange(17) < 9
  found = prune.empty_nodes(octree, measure, max_opacity=0.1, candidates=some)
  assert np.flatnonzero(found.gone).tolist() == [3, parent]


def _emptied(model, slots):
  """The model whose fields of some slots are next to nothing everywhere."""
  nodes, slots = model.nodes, jnp.asarray(slots)
  density = dict(nodes['density'])
  density['w0'] = density['w0'].at[slots].set(0.1)
  density['w1'] = density['w1'].at[slots, :, 0].set(-2.0)
  table = nodes['table'].at[slots].set(1.0)
  return model._replace(nodes={**nodes, 'table': table, 'density': density})


@pytest.fixture(scope='module')
def scene():
  model, spec, octree = tiny_model.make_model()
  return _emptied(model, [0, 2, 3, 8, 9, 10]), spec, octree


@pytest.fixture(scope='module')
def report(scene):
  model, spec, octree = scene
  return pruning.find_empty(octree, model, spec, max_opacity=0.004, step=7)


def test_measured_opacity_is_that_of_the_densest_column(scene):
  model, spec, octree = scene
  opacity = lambda box, field: pruning.measure_opacity(
      octree, model, spec, np.array([box]), np.array([field])
  )[0]
  assert opacity(9, 9) < 1e-4 and opacity(9, 0) < 1e-4
  # Density exp(0) / h where the field says nothing, over a side of h / 2.
  blank = model._replace(
      nodes={**model.nodes, 'table': jnp.zeros_like(model.nodes['table'])}
  )
  found = pruning.measure_opacity(
      octree, blank, spec, np.array([12]), np.array([12])
  )
  np.testing.assert_allclose(found, 1 - np.exp(-0.5), rtol=1e-5)


def test_report_names_what_is_empty_under_empty_parents(scene, report):
  _, _, octree = scene
  levels = [node['level'] for node in report['pruned']]
  assert report['num_pruned'] == len(levels) == 4
  assert report['pruned_by_level'] == [0, 2, 2]
  assert report['bytes_saved'] > 0 and report['step'] == 7
  assert all(node['opacity'] < 0.004 for node in report['pruned'])
  # Node 8 is empty but has children that are not.
  assert report['num_empty_but_parent_is_not'] == 0


def test_pictures_are_the_same_without_them(scene, report, tmp_path):
  model, spec, octree = scene
  pruning.write(tmp_path, report)
  tree = pruning.without_pruned(tmp_path, model.tree, octree, 7)
  slots = np.asarray(tree.slot_of_node)
  assert np.flatnonzero(slots < 0).tolist() == [2, 3, 9, 10]
  draw = lambda tree: render_image.render_image(
      model._replace(tree=tree), spec, tiny_model.make_camera(0.8), octree,
      np.zeros(4, np.float32), _OPTIONS, outputs=('rgb', 'statistics'),
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
