"""Round trip and refusals of octree.npz."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.octree import io, tree


def _octree():
  return tree.from_coords(
      [np.zeros((1, 3), int), np.array([[0, 0, 0], [1, 0, 1]])],
      center=[1.0, 2e6, -3.0],
      side=12.5,
      grid_size=96,
  )


def test_round_trip_keeps_every_bit(tmp_path):
  octree, aabb = _octree(), np.array([[-1.0, 0, 0.1], [2, 3, 1 / 3]])
  path = tmp_path / 'octree.npz'
  io.save_octree(path, octree, aabb)
  loaded, loaded_aabb = io.load_octree(path)
  for name, value in octree._asdict().items():
    stored = getattr(loaded, name)
    np.testing.assert_array_equal(stored, value, err_msg=name)
    assert np.asarray(stored).dtype == np.asarray(value).dtype
  np.testing.assert_array_equal(loaded_aabb, aabb)
  assert type(loaded.side) is float and type(loaded.grid_size) is int
  assert list(tmp_path.iterdir()) == [path]  # no temporary file stays


def test_same_tree_same_bytes(tmp_path):
  for name in ('a.npz', 'b.npz'):
    io.save_octree(tmp_path / name, _octree(), np.zeros((2, 3)))
  assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_refusals_name_the_file(tmp_path):
  with pytest.raises(errors.InputError, match='octree.npz: no such file'):
    io.load_octree(tmp_path / 'octree.npz')
  (tmp_path / 'text.npz').write_text('not an archive')
  with pytest.raises(errors.InputError, match='text.npz: cannot be read'):
    io.load_octree(tmp_path / 'text.npz')
  io.save_octree(tmp_path / 'short.npz', _octree(), np.zeros((2, 3)))
  cut = (tmp_path / 'short.npz').read_bytes()[:300]
  (tmp_path / 'short.npz').write_bytes(cut)
  with pytest.raises(errors.InputError, match='short.npz: cannot be read'):
    io.load_octree(tmp_path / 'short.npz')
  io.save_octree(
      tmp_path / 'odd.npz',
      _octree()._replace(parent=np.zeros(7, np.int32)),
      np.zeros((2, 3)),
  )
  with pytest.raises(errors.InputError, match=r'odd.npz: parent: got'):
    io.load_octree(tmp_path / 'odd.npz')
