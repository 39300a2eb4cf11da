"""Bytes by level against the arrays themselves; pictures exist."""

import jax
import numpy as np
from PIL import Image

from infnerf_jax.products import octree_report
from tests import tiny_model


def test_bytes_are_those_of_the_parameters():
  model, spec, octree = tiny_model.make_model()
  report = octree_report.analyze_octree_memory(octree, spec)
  taken = sum(x.nbytes for x in jax.tree.leaves(model.nodes))
  assert report['total_bytes'] == taken
  assert report['training_bytes'] > 3 * taken
  assert report['nodes_by_level'] == [1, 8, 8]
  assert report['num_leaves'] == 15
  rows = report['by_level']
  assert sum(row['bytes'] for row in rows) == taken
  assert [row['node_side'] for row in rows] == [4.0, 2.0, 1.0]
  assert rows[2]['node_gsd'] == octree.node_gsd(2)


def test_picture_shows_the_boxes(tmp_path):
  octree = tiny_model.make_octree()
  points = tiny_model.ROOT_MIN + np.random.default_rng(0).uniform(
      0, 4, (70_000, 3)
  )
  plain = octree_report.visualize_octree(octree, None, tmp_path / 'all.png')
  root = octree_report.visualize_octree(octree, 0, tmp_path / 'root.png')
  both = octree_report.visualize_octree(octree, 9, tmp_path / 'p.png', points)
  ink = {}
  for path in (plain, root, both):
    with Image.open(path) as image:
      assert image.width > 1000
      ink[path] = np.sum(np.asarray(image.convert('L')) < 250)
  assert ink[root] < ink[plain] < ink[both]
