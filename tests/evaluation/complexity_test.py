"""The made-up store is a real one; the suite's figures are counted rightly."""

import numpy as np
import pytest

from infnerf_jax.evaluation.complexity import (
  extents,
  latency,
  node_counts,
  plots,
  suite,
  views,
  virtual_store,
)  # fmt: skip
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import node_store, row_codec, tree_pages
from infnerf_jax.streaming import store_scene, working_set


def _values(reach=2, max_level=6):
  header = virtual_store.make_header(
      side=64.0, height=2.0, grid_size=16, log2_table_size=8
  )
  tree = virtual_store.VirtualTree(reach, max_level)
  return virtual_store.VirtualStore(tree, header)


def test_a_virtual_tree_has_the_nodes_it_says():
  store = node_store.NodeStore(_values())
  pages = list(store.walk())
  keys = np.concatenate([page.keys for page in pages])
  assert len(np.unique(keys)) == len(keys) == store.header.num_nodes
  levels = tree_pages.key_level(keys)
  assert np.bincount(levels).tolist() == list(store.header.nodes_by_level)
  # Parents exist; the nodes lie on the ground about the middle.
  parents = keys[keys > 1] >> 3
  assert np.isin(parents, keys).all()
  level, coord = tree_lib.key_level_coord(keys)
  half = np.where(level > 0, 2.0 ** (level - 1), 0)[:, None]
  assert np.all(np.abs(coord[:, :2] + 0.5 - half)[level > 0] < 2)
  assert np.all(coord[:, 2] == half[:, 0])


@pytest.mark.parametrize('wanted', [1e5, 1e6, 1e7])
def test_ten_million_nodes_open_like_ten(wanted):
  values = node_counts.make_values(wanted)
  assert wanted <= values.header.num_nodes < 1.1 * wanted
  store = node_store.NodeStore(values)
  assert values.num_reads == 1 and values.bytes_read < 20_000
  scene = store_scene.StoreScene(store, options=node_counts.OPTIONS)
  camera = views.camera_above([1.0, 1.0, 0.0], 40.0, tilt=30.0)
  found = working_set.of_camera(store.tree, scene.frame(), camera)
  assert tree_pages.key_level(found.keys).max() >= 18
  assert len(found.keys) < 300 and values.num_reads < 100


def test_made_up_chunks_pass_the_real_checks():
  values = _values()
  store = node_store.NodeStore(values)
  assert not node_store.verify(store)
  data = bytearray(store.read_chunk(1))
  data[-9] ^= 1
  with pytest.raises(row_codec.DamagedError, match='crc32c'):
    row_codec.decode_row(store.header.group(), 1, bytes(data))


def test_flat_cells_are_the_leaves_in_view():
  octree = extents.city_octree(0, spacing=6.0)
  scene = extents.make_scene(octree)
  tree = tree_pages.ResidentTree(octree)
  whole = views.camera_above([0.0, 0.0, 0.0], 400.0, width=3200, fov=60.0)
  leaves = int(np.sum(octree.level == octree.num_levels - 1))
  assert views.flat_cells(tree, scene.frame(), whole) == leaves
  # Nothing but the root at a distance where it resolves enough.
  far = views.camera_above([0.0, 0.0, 0.0], 1e6)
  assert views.measure(tree, scene.frame(), far, 10)['nodes'] == 1


def test_rows_and_plot_of_a_tiny_run(tmp_path):
  series = suite.measure(tiny=True)
  rows = suite.rows(series)
  names = [row.name for row in rows]
  assert len(set(names)) == len(names)
  assert any('doubling' in name for name in names)
  small, large = series['city']
  name = 'city 1500 m'
  slope = extents.slope_per_doubling(series['city'], name)[0]
  added = large['views'][name]['nodes'] - small['views'][name]['nodes']
  doublings = np.log2(large['num_nodes'] / small['num_nodes'])
  assert slope == pytest.approx(added / doublings)
  plots.plot(series, tmp_path / 'plot.png')
  assert 10_000 < (tmp_path / 'plot.png').stat().st_size < 300_000


def test_latencies_of_a_folder_and_of_a_server(monkeypatch, tmp_path):
  """A real store on disk, cold; a server that fails is asked again."""
  monkeypatch.setattr(latency, 'LATENCY', 0.002)
  monkeypatch.setattr(latency, 'FAILURES', {'error': 0.2, 'short': 0.1})
  found = latency.measure(60)
  assert list(found) == [
      'folder',
      'http, 2 ms late',
      'http, 2 ms late, failing',
  ]
  for result in found.values():
    assert 0 < result['first_s'] < result['final_s']
    assert result['pictures'] > 1 and not result['unreachable']
  rows_read = {result['rows_read'] for result in found.values()}
  assert len(rows_read) == 1 and rows_read.pop() > 10
  repeats = [r.get('repeated_requests', 0) for r in found.values()]
  assert repeats[:2] == [0, 0] and repeats[2] > 0
  # Every value of the store verifies.
  assert latency.write_store(tmp_path, 60) >= 60
  assert not node_store.verify(node_store.open_store(tmp_path))


def test_headers_are_those_of_the_tree():
  octree = extents.city_octree(0, spacing=6.0)
  scene = extents.make_scene(octree)
  assert scene.num_nodes == octree.num_nodes
  np.testing.assert_allclose(scene.octree.root_min, octree.root_min)
  assert scene.spec.field.grid.finest_resolution == 1024
