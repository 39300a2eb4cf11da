"""Archives of arrays: round trip, and one line for every damage."""

import numpy as np
import pytest

from infnerf_jax import errors, npz_files

_ARRAYS = {
    'numbers': np.arange(600, dtype=np.float64).reshape(100, 6) / 7,
    'names': np.array(['a', 'flight 1/b', 'Überflug']),
    'one': np.array(3.5),
}


def _write(path, **changes):
  npz_files.write_npz_atomic(path, {**_ARRAYS, **changes})
  return path


def _read(path, names=tuple(_ARRAYS)):
  return npz_files.read_npz(path, names, what='arrays of a test')


def test_round_trip_keeps_every_bit(tmp_path):
  path = _write(tmp_path / 'a.npz')
  found = _read(path)
  for name, value in _ARRAYS.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == value.dtype
  assert list(_read(path, ('one',))) == ['one']
  some = npz_files.read_npz(path, ['one'], what='', optional=['names', 'two'])
  assert list(some) == ['one', 'names']
  assert list(tmp_path.iterdir()) == [path]  # no temporary file stays
  _write(path, one=np.array(4.5))
  assert _read(path)['one'] == 4.5


def test_what_is_absent_is_named(tmp_path):
  with pytest.raises(errors.InputError, match='a.npz: no such file, expected'):
    _read(tmp_path / 'a.npz')
  path = _write(tmp_path / 'a.npz')
  with pytest.raises(
      errors.InputError,
      match='a.npz: two, three: got nothing, expected arrays of a test',
  ):
    _read(path, ('one', 'two', 'three'))


def _damaged(whole):
  """Bytes of files that are broken in one way each."""
  rng = np.random.default_rng(0)
  yield b''
  yield b'not an archive'
  for length in rng.integers(1, len(whole), 20):
    yield whole[:length]
  for place in rng.integers(0, len(whole), 60):
    yield whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]


def test_damage_is_one_line_or_none_at_all(tmp_path):
  whole = _write(tmp_path / 'a.npz').read_bytes()
  path, refused = tmp_path / 'b.npz', 0
  for content in _damaged(whole):
    path.write_bytes(content)
    try:
      found = _read(path)
    except errors.InputError as error:
      refused += 1
      assert str(error).startswith(f'{path}: ')
      assert 'expected arrays of a test' in str(error)
      assert '\n' not in str(error)
    else:  # a flipped bit in what no reader looks at, such as a date
      for name, value in _ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)
  assert refused >= 22 + 30  # all that were cut, most that were flipped


def test_pickles_are_refused(tmp_path):
  np.savez(tmp_path / 'a.npz', one=np.array([{}], dtype=object))
  with pytest.raises(errors.InputError, match='a.npz: cannot be read'):
    _read(tmp_path / 'a.npz', ('one',))


def test_shapes(tmp_path):
  npz_files.check_shapes('a.npz', _ARRAYS, {'numbers': (100, 6)})
  with pytest.raises(
      errors.InputError, match=r'a.npz: numbers: got shape \(100, 6\), expected'
  ):
    npz_files.check_shapes('a.npz', _ARRAYS, {'one': (), 'numbers': (6,)})
