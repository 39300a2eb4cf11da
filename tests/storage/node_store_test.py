"""The node store: what is written comes back; what is damaged is found."""

import concurrent.futures
import dataclasses
import json
import pathlib
import threading

import jax
import ml_dtypes
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import (
  key_values,
  node_store,
  node_store_writer,
  row_codec,
  tree_pages,
)  # fmt: skip
from tests import tiny_model, tiny_store

GROUP = row_codec.RowGroup(
    'parameters',
    'float32',
    (
        row_codec.Field('table', (37, 2)),
        row_codec.Field('density/w0', (5, 3)),
        row_codec.Field('count', (11,), 'int32'),
    ),
)


def _row(seed=0):
  rng = np.random.default_rng(seed)
  return {
      'table': rng.normal(size=(37, 2)).astype(np.float32),
      'density/w0': (1e-6 * rng.normal(size=(5, 3))).astype(np.float32),
      'count': rng.integers(0, 9, 11).astype(np.int32),
  }


@pytest.mark.parametrize('precision', row_codec.PRECISIONS)
def test_rows_come_back(precision):
  group, row = GROUP._replace(precision=precision), _row()
  data = row_codec.encode_row(group, 0x123, row)
  found = row_codec.decode_row(group, 0x123, data)
  np.testing.assert_array_equal(found['count'], row['count'])
  for name in ('table', 'density/w0'):
    assert found[name].dtype == np.float32
    if precision == 'float32':
      expected = row[name]
      np.testing.assert_array_equal(found[name], expected)
    elif precision == 'bfloat16':
      expected = row[name].astype(ml_dtypes.bfloat16).astype(np.float32)
      np.testing.assert_array_equal(found[name], expected)
    else:
      # Half a step of a scale that is shared by 64 neighbours.
      flat, back = row[name].reshape(-1), found[name].reshape(-1)
      for first in range(0, flat.size, 64):
        part = slice(first, first + 64)
        step = np.abs(flat[part]).max() / 127 * (1 + 2.0**-6)
        assert np.abs(back[part] - flat[part]).max() <= 0.501 * step


@pytest.mark.parametrize('precision', row_codec.PRECISIONS)
def test_every_flipped_bit_is_found(precision):
  group = GROUP._replace(precision=precision)
  data = row_codec.encode_row(group, 7, _row(1))
  rng = np.random.default_rng(0)
  for bit in rng.choice(8 * len(data), 200, replace=False):
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(row_codec.DamagedError):
      row_codec.decode_row(group, 7, bytes(broken))
  for length in (0, 3, 20, len(data) - 1):
    with pytest.raises(row_codec.DamagedError):
      row_codec.decode_row(group, 7, data[:length])


def test_a_chunk_is_of_its_node_and_precision():
  data = row_codec.encode_row(GROUP, 7, _row())
  with pytest.raises(row_codec.DamagedError, match='node_key 7, expected 8'):
    row_codec.decode_row(GROUP, 8, data)
  with pytest.raises(row_codec.DamagedError, match='precision'):
    row_codec.decode_row(GROUP._replace(precision='int8'), 7, data)


def test_rows_that_cannot_be_stored_are_refused():
  row = _row()
  row['table'][3, 1] = np.nan
  assert row_codec.encode_row(GROUP, 1, row)
  with pytest.raises(ValueError, match='table of node 1: got values'):
    row_codec.encode_row(GROUP._replace(precision='int8'), 1, row)
  with pytest.raises(ValueError, match=r'table: got float32\(36, 2\)'):
    row_codec.encode_row(GROUP, 1, {**row, 'table': row['table'][1:]})


def test_a_payload_larger_than_its_row_is_refused():
  bomb = row_codec.frame(7, 0, bytes(50_000_000))
  assert len(bomb) < 10_000
  with pytest.raises(row_codec.DamagedError, match='payload|expected'):
    row_codec.decode_row(GROUP, 7, bomb)


def _random_tree(seed, max_level=9):
  """A tree of random nodes, some of whose pages are tiny."""
  rng = np.random.default_rng(seed)
  cells = [np.zeros((1, 3), np.int64)]
  for _ in range(max_level):
    parents = cells[-1][rng.uniform(size=len(cells[-1])) < 0.6][:40]
    if not len(parents):
      break
    octants = np.array(list(np.ndindex(2, 2, 2)))
    children = (2 * parents[:, None] + octants).reshape(-1, 3)
    kept = rng.uniform(size=len(children)) < 0.5
    if not kept.any():
      break
    cells.append(children[kept])
  return tree_lib.from_coords(cells, center=[0, 0, 0], side=8.0, grid_size=16)


@pytest.mark.parametrize('seed', range(4))
def test_pages_hold_the_tree(seed):
  octree = _random_tree(seed)
  keys, masks = tree_pages.octree_masks(octree)
  versions = np.arange(len(keys)).astype(np.uint32)
  pages = tree_pages.make_pages(keys, masks, versions, 5)
  assert max(len(p.keys) for p in pages) <= 585
  found = np.concatenate([p.keys for p in pages])
  np.testing.assert_array_equal(np.sort(found), keys)
  for page in pages:
    root = int(page.keys[0])
    back = tree_pages.decode_page(root, tree_pages.encode_page(page))
    for name, value in page._asdict().items():
      np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
    rows = np.searchsorted(keys, back.keys)
    np.testing.assert_array_equal(back.masks, masks[rows])
    np.testing.assert_array_equal(back.versions, versions[rows])


def test_a_store_gives_back_the_model(tmp_path):
  model, spec, octree = tiny_store.make_store(tmp_path)
  store = node_store.open_store(tmp_path)
  assert store.header.num_nodes == octree.num_nodes
  assert store.header.model_spec() == spec
  keys, masks = tree_pages.octree_masks(octree)
  np.testing.assert_array_equal(store.tree.child_masks(keys), masks)
  for slot, key in enumerate(keys):
    params = node_store.row_to_params(store.read_row(key))
    expected = jax.tree.map(lambda x: np.asarray(x[slot]), model.nodes)  # noqa: B023
    jax.tree.map(np.testing.assert_array_equal, params, expected)
  assert not node_store.verify(store)
  views = store.read_views()
  np.testing.assert_array_equal(views['appearance'], model.appearance)
  focus = store.header.focus_octree()
  assert focus.num_nodes == 3 and focus.side == octree.side


def test_opening_reads_one_value(tmp_path):
  tiny_store.make_store(tmp_path)

  class Counting(key_values.TensorStoreKeyValues):
    reads = []

    def read(self, key):
      self.reads.append(key)
      return super().read(key)

  store = node_store.NodeStore(Counting(tmp_path))
  assert Counting.reads == [node_store.HEADER]
  store.tree.child_masks([1])
  assert len(Counting.reads) == 2


def _files(folder, pattern):
  return sorted(p for p in pathlib.Path(folder).rglob(pattern) if p.is_file())


def test_damage_is_listed(tmp_path):
  tiny_store.make_store(tmp_path)
  chunks = _files(tmp_path / 'nodes', '*')
  flipped, short, gone = chunks[2], chunks[5], chunks[9]
  data = bytearray(flipped.read_bytes())
  data[len(data) // 2] ^= 16
  flipped.write_bytes(data)
  short.write_bytes(short.read_bytes()[:100])
  gone.unlink()
  views = tmp_path / 'views.1'
  views.write_bytes(views.read_bytes()[:-5] + b'12345')
  damage = node_store.verify(node_store.open_store(tmp_path))
  listed = {d['chunk']: d['reason'] for d in damage}
  names = {str(p.relative_to(tmp_path)) for p in (flipped, short, gone, views)}
  assert set(listed) == names
  assert listed[str(gone.relative_to(tmp_path))] == 'missing'
  assert 'crc32c' in listed[str(flipped.relative_to(tmp_path))]


def test_a_damaged_page_hides_its_subtree_and_is_listed(tmp_path):
  tiny_store.make_store(tmp_path)
  (page,) = _files(tmp_path / 'tree', '1.*')
  page.write_bytes(b'nonsense' * 10)
  store = node_store.open_store(tmp_path)
  assert store.tree.child_masks([1]).tolist() == [0]
  assert [d['chunk'] for d in node_store.verify(store)] == ['tree/1']


@pytest.mark.parametrize(
    'change,match',
    [
        (lambda d: d.update(format_version=5), 'version 5, expected .* 1'),
        (lambda d: d.update(format='x'), 'found x version 1'),
        (lambda d: d['header'].update(side=3.5), 'checksum does not hold'),
        (lambda d: d.pop('header'), 'damaged'),
        (lambda d: d.pop('format'), 'cannot be read'),
    ],
)
def test_foreign_headers_are_one_line(tmp_path, change, match):
  tiny_store.make_store(tmp_path)
  path = tmp_path / node_store.HEADER
  stored = json.loads(path.read_text())
  change(stored)
  path.write_text(json.dumps(stored))
  with pytest.raises(errors.InputError, match=match) as caught:
    node_store.open_store(tmp_path)
  assert '\n' not in str(caught.value)


def test_what_is_no_store(tmp_path):
  with pytest.raises(errors.InputError, match='found no store.json'):
    node_store.open_store(tmp_path / 'absent')
  with pytest.raises(errors.InputError, match='expected a folder or a http'):
    node_store.open_store('nonsense://x')
  (tmp_path / 'photo.png').write_bytes(b'x')
  with pytest.raises(errors.InputError, match='found photo.png, expected'):
    tiny_store.make_store(tmp_path)
  assert not node_store.is_store(tmp_path)


def test_a_second_export_replaces_the_first(tmp_path):
  tiny_store.make_store(tmp_path, seed=0)
  before = node_store.open_store(tmp_path)
  model, _, _ = tiny_store.make_store(tmp_path, seed=1)
  store = node_store.open_store(tmp_path)
  assert store.header.generation == before.header.generation + 1
  row = store.read_row(1)
  np.testing.assert_array_equal(row['table'], model.nodes['table'][0])
  # Nothing of the first is left.
  assert len(_files(tmp_path / 'nodes', '*')) == store.header.num_nodes


def test_an_export_killed_before_its_commit_changes_nothing(tmp_path):
  tiny_store.make_store(tmp_path, seed=0)
  old = {p: p.read_bytes() for p in _files(tmp_path, '*')}
  header = dataclasses.replace(node_store.open_store(tmp_path).header)
  octree = tiny_model.make_octree()

  def rows_of(node_id):
    if node_id == 9:
      raise KeyboardInterrupt
    group = header.group()
    row = {f.name: np.zeros(f.shape, np.float32) for f in group.fields}
    return {group.name: row}

  with pytest.raises(KeyboardInterrupt):
    node_store_writer.create_store(tmp_path, header, octree, rows_of)
  assert not node_store.verify(node_store.open_store(tmp_path))
  assert {p: p.read_bytes() for p in old} == old


def _zero_rows(header, value):
  return {
      g.name: {f.name: np.full(f.shape, value, f.dtype) for f in g.fields}
      for g in header.groups
  }


def test_new_versions_are_seen_at_the_commit(tmp_path):
  _, _, octree = tiny_store.make_store(tmp_path, moments=True)
  keys, _ = tree_pages.octree_masks(octree)
  writer = node_store_writer.StoreWriter(
      key_values.TensorStoreKeyValues(tmp_path)
  )
  header, key = writer.store.header, int(keys[12])
  before = node_store.open_store(tmp_path).read_row(key)
  writer.write_row(key, _zero_rows(header, 3.0))
  # The writer pages its own rows back in; others see the last commit.
  assert writer.read_row(key, 'moments')['table'].max() == 3
  other = node_store.open_store(tmp_path)
  np.testing.assert_array_equal(other.read_row(key)['table'], before['table'])
  assert not node_store.verify(other)
  assert writer.commit() == 2
  after = node_store.open_store(tmp_path)
  assert after.read_row(key)['table'].min() == 3
  assert not node_store.verify(after)
  # One whose pages name what was deleted since goes on with the new.
  assert other.read_row(key)['table'].min() == 3
  assert other.header.generation == 2
  writer.write_row(key, _zero_rows(header, 4.0))
  assert writer.commit() == 3
  assert other.read_row(key)['table'].min() == 4
  assert other.header.generation == 3 and not node_store.verify(other)
  # Two old pages are left over.
  assert node_store_writer.sweep(key_values.TensorStoreKeyValues(tmp_path)) == 2
  assert not node_store.verify(node_store.open_store(tmp_path))


def test_readers_follow_commits_and_not_another_store(tmp_path):
  """Threads that read while commits delete what their pages name."""
  _, _, octree = tiny_store.make_store(tmp_path)
  keys = [int(key) for key in tree_pages.octree_masks(octree)[0]]
  values = key_values.TensorStoreKeyValues(tmp_path)
  writer = node_store_writer.StoreWriter(values)
  readers = [node_store.open_store(tmp_path) for _ in range(2)]
  assert not readers[0].follow()
  going, found = threading.Event(), []

  def read(store):
    while not going.is_set():
      rows = [store.read_row(key)['table'].min() for key in keys]
      found.append(rows)

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    # Two threads share a reader.
    tasks = [pool.submit(read, readers[i % 2]) for i in range(4)]
    for value in range(8):
      for key in keys:
        writer.write_row(key, _zero_rows(writer.store.header, value))
      writer.commit()
    going.set()
    for task in tasks:
      task.result()
  assert found
  for store in readers:
    store.follow()
    assert store.read_row(keys[5])['table'].min() == 7
  # Another model there is not mixed with this one.
  tiny_store.make_store(tmp_path, seed=1)
  assert not readers[0].follow()
  with pytest.raises(key_values.MissingError):
    readers[0].read_row(keys[5])


def test_commits_rewrite_the_pages_above(tmp_path):
  octree = _random_tree(1)
  assert octree.num_levels > 5
  group = GROUP
  header = node_store.Header(
      0, 0, 0, (), (0, 0, 0), 0.0, 0, ((0, 0, 0), (1, 1, 1)), 0, {}, (group,)
  )
  node_store_writer.create_store(
      tmp_path, header, octree, lambda i: {group.name: _row(i)}
  )
  keys, _ = tree_pages.octree_masks(octree)
  writer = node_store_writer.StoreWriter(
      key_values.TensorStoreKeyValues(tmp_path)
  )
  deepest = int(keys[-1])
  writer.write_row(deepest, {group.name: _row(999)})
  writer.commit()
  store = node_store.open_store(tmp_path)
  versions = store.tree.versions(keys)
  assert versions[-1] == 2 and set(versions[:-1].tolist()) == {1}
  expected = _row(999)['table']
  np.testing.assert_array_equal(store.read_row(deepest)['table'], expected)
  assert not node_store.verify(store)


def test_pages_leave_the_memory(tmp_path):
  octree = _random_tree(2)
  header = node_store.Header(
      0, 0, 0, (), (0, 0, 0), 0.0, 0, ((0, 0, 0), (1, 1, 1)), 0, {}, (GROUP,)
  )
  node_store_writer.create_store(
      tmp_path, header, octree, lambda i: {GROUP.name: _row(i)}
  )
  keys, masks = tree_pages.octree_masks(octree)
  store = node_store.open_store(tmp_path, tree_bytes=500)
  for _ in range(2):
    np.testing.assert_array_equal(store.tree.child_masks(keys), masks)
    assert store.tree.nbytes <= 2 * 585 * 13
  assert not store.tree.damage
