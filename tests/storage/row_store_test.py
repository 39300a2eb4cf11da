"""Rows of a training: uncommitted ones do not count, damage is named."""

import jax
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import (
  leaves,
  node_store,
  row_codec,
  row_store,
  store_digest,
)  # fmt: skip
from tests import tiny_model, tiny_store

_MOMENTS = {
    'm': np.zeros((3, 2), np.float32),
    'steps': np.zeros((), np.int32),
}


def _make(folder):
  """A store of the tiny tree without chunks, and its keys."""
  _, _, octree = tiny_store.make_store(folder / 'other')
  header = node_store.open_store(folder / 'other').header
  group = node_store.parameter_group(
      tiny_model.make_model()[1].field, 'float32'
  )
  header = header.__class__(
      **{**header.__dict__, 'groups': (group, row_store.moment_group(_MOMENTS))}
  )
  store = row_store.create(folder / 'rows', header, octree)
  return store, tree_lib.node_key(octree.level, octree.coord)


def _row(store, seed):
  rng = np.random.default_rng(seed)
  return {
      group.name: {
          f.name: np.asarray(rng.integers(-9, 9, f.shape), f.dtype)
          for f in group.fields
      }
      for group in store.header.groups
  }


def _assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_rows_come_back_and_only_commits_count(tmp_path):
  store, keys = _make(tmp_path)
  assert not row_store.is_row_store(tmp_path / 'rows')
  assert store.read(keys[3]) is None
  first, second = _row(store, 1), _row(store, 2)
  store.write(keys[3], first)
  _assert_same(store.read(keys[3]), first)
  state = {'params/x': np.arange(3.0), 'step': np.int32(5)}
  store.commit(views={'names': np.array(['a'])}, state=state)
  assert row_store.is_row_store(tmp_path / 'rows')
  store.write(keys[3], second)
  store.write(keys[5], second)
  _assert_same(store.read(keys[3]), second)
  # Killed here: what was written since the commit is gone.
  again = row_store.RowStore(tmp_path / 'rows')
  _assert_same(again.read(keys[3]), first)
  assert again.read(keys[5]) is None
  _assert_same(again.read_state(), state)
  again.write(keys[3], second)
  again.commit(views=None, state=state)
  # What no commit names is gone.
  assert len(list((tmp_path / 'rows' / 'nodes').rglob('*.*'))) == 2
  assert again.bytes_written > 0 < again.bytes_read
  _assert_same(row_store.RowStore(tmp_path / 'rows').read(keys[3]), second)


def test_damage_is_one_line(tmp_path):
  store, keys = _make(tmp_path)
  store.write(keys[2], _row(store, 1))
  store.commit(views=None, state={'step': np.int32(1)})
  (chunk,) = (tmp_path / 'rows' / 'nodes' / 'moments').rglob('*.*')
  data = bytearray(chunk.read_bytes())
  data[40] ^= 1
  chunk.write_bytes(data)
  with pytest.raises(errors.InputError) as caught:
    row_store.RowStore(tmp_path / 'rows').read(keys[2])
  message = str(caught.value)
  assert f'node {keys[2]:x}: found crc32c' in message and '\n' not in message
  chunk.unlink()
  with pytest.raises(errors.InputError, match='missing, expected'):
    row_store.RowStore(tmp_path / 'rows').read(keys[2])


def test_digest_is_that_of_stacked_parameters(tmp_path):
  model, _, _ = tiny_store.make_store(tmp_path)
  appearance = np.asarray(model.appearance)
  assert store_digest.params_sha256(
      node_store.open_store(tmp_path), {'appearance': appearance}
  ) == leaves.params_sha256({'nodes': model.nodes, 'appearance': appearance})


def test_scalars_and_integers_are_rows_too():
  group = row_store.moment_group(_MOMENTS)
  row = {'m': np.full((3, 2), 0.5, np.float32), 'steps': np.int32(7)}
  data = row_codec.encode_row(group, 9, row, zstd_level=-1)
  back = row_codec.decode_row(group, 9, data)
  _assert_same(back, row)
  assert back['steps'].dtype == np.int32 and back['steps'].shape == ()
