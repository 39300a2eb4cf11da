"""Checkpoints: what is written, what survives damage and crashes."""

import ctypes
import errno
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.storage import checkpoint, leaves


class State(NamedTuple):
  step: Any
  params: Any
  moments: Any


class Empty(NamedTuple):
  pass


def make_state(seed):
  rng = np.random.default_rng(seed)
  return State(
      step=jnp.int32(seed),
      params={
          'table': jnp.asarray(rng.normal(size=(4, 300, 2)), jnp.float32),
          'half': jnp.asarray(rng.normal(size=7), jnp.bfloat16),
          'none': jnp.zeros((3, 0), jnp.float32),
      },
      moments=(Empty(), [np.arange(5, dtype=np.int64) + seed, 0.1 * seed]),
  )


def assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def data_files(folder):
  files = [p for p in (folder / checkpoint.ARRAYS).rglob('*') if p.is_file()]
  return sorted(files, key=lambda p: (p.stat().st_size, str(p)))


def flip_bit(path, position):
  data = bytearray(path.read_bytes())
  data[position // 8] ^= 1 << (position % 8)
  path.write_bytes(bytes(data))


def damage(folder):
  """Changes a stored value as a failing disk does."""
  manifest = folder / checkpoint.MANIFEST
  manifest.write_text(manifest.read_text().replace('"crc32": ', '"crc32": 1'))


def test_round_trip_with_and_without_template(tmp_path):
  state = make_state(3)
  with checkpoint.CheckpointManager(tmp_path / 'c') as manager:
    assert manager.latest_step() is None
    manager.save(3, state)
  step, got = manager.restore(state)
  assert step == 3
  assert_same(got, state)
  _, plain = manager.restore()
  assert sorted(plain) == ['moments', 'params', 'step']
  np.testing.assert_array_equal(plain['params']['table'], state.params['table'])
  np.testing.assert_array_equal(plain['moments']['1']['0'], state.moments[1][0])
  assert plain['params']['none'].shape == (3, 0)
  # A template of shapes alone serves as well.
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), state
  )
  assert_same(manager.restore(shapes)[1], state)


def test_save_copies_before_it_returns(tmp_path, monkeypatch):
  """Buffers overwritten in place right after `save` do not reach the disk."""
  write = checkpoint._save_arrays
  slow = lambda *args: (time.sleep(0.3), write(*args))
  monkeypatch.setattr(checkpoint, '_save_arrays', slow)
  on_device = jnp.arange(60_000, dtype=jnp.float32).reshape(3, 20_000)
  state = {'device': on_device, 'host': np.arange(1000)}
  blocking = checkpoint.CheckpointManager(tmp_path / 'blocking')
  blocking.save(1, state)
  blocking.wait()
  manager = checkpoint.CheckpointManager(tmp_path / 'background')
  manager.save(1, state)
  # As a kernel that updates a donated buffer in place does.
  pointer = on_device.unsafe_buffer_pointer()
  ctypes.memset(pointer, 0xFF, on_device.nbytes)
  state['host'][:] = -1
  assert np.isnan(np.asarray(on_device)).all()
  assert manager.latest_step() is None, 'the write was meant to be under way'
  manager.wait()
  got = manager.restore()[1]
  assert_same(got, blocking.restore()[1])
  np.testing.assert_array_equal(got['device'].reshape(-1), np.arange(60_000))
  np.testing.assert_array_equal(got['host'], np.arange(1000))


def test_keeps_the_newest(tmp_path):
  with checkpoint.CheckpointManager(tmp_path, keep=2) as manager:
    for step in (5, 10, 100, 20):
      manager.save(step, {'x': np.full(3, step)})
  assert manager.steps() == [20, 100]
  assert manager.latest_step() == 100


@pytest.mark.parametrize('what', ['value', 'truncated', 'deleted', 'manifest'])
def test_damage_falls_back_to_the_older_step(tmp_path, what, caplog):
  state = make_state(1)
  with checkpoint.CheckpointManager(tmp_path) as manager:
    manager.save(1, state)
    manager.save(2, make_state(2))
  newest = tmp_path / '2'
  if what == 'value':
    damage(newest)
  elif what == 'truncated':
    largest = data_files(newest)[-1]
    os.truncate(largest, largest.stat().st_size // 2)
  elif what == 'deleted':
    data_files(newest)[-1].unlink()
  else:
    (newest / checkpoint.MANIFEST).write_text('{"format": 1, "step":')
  with caplog.at_level('WARNING'):
    step, got = manager.restore(state)
  assert step == 1
  assert_same(got, state)
  lines = [r.getMessage() for r in caplog.records if 'left out' in r.message]
  assert len(lines) == 1 and str(newest) in lines[0] and '\n' not in lines[0]
  with pytest.raises(errors.InputError, match='no whole checkpoint'):
    manager.restore(state, step=2)
  # Damaged newer steps must not push good ones out, and may be rewritten.
  manager.save(2, make_state(2))
  manager.wait()
  assert manager.steps() == [1, 2]
  assert_same(manager.restore(state)[1], make_state(2))


def test_damaged_steps_go_first(tmp_path):
  with checkpoint.CheckpointManager(tmp_path, keep=3) as manager:
    for step in (1, 2, 3):
      manager.save(step, {'x': np.full(3, step)})
  damage(tmp_path / '2')
  damage(tmp_path / '3')
  manager = checkpoint.CheckpointManager(tmp_path, keep=2)
  assert manager.restore()[0] == 1
  manager.save(2, {'x': np.full(3, 2)})
  manager.wait()
  assert manager.steps() == [1, 2]
  assert manager.restore()[0] == 2


def test_no_flipped_bit_changes_a_value(tmp_path):
  state = make_state(9)
  with checkpoint.CheckpointManager(tmp_path) as manager:
    manager.save(9, state)
  rng = random.Random(0)
  detected = 0
  for path in data_files(tmp_path / '9')[-2:]:
    for _ in range(8):
      position = rng.randrange(path.stat().st_size * 8)
      flip_bit(path, position)
      try:
        got = checkpoint.read_step(tmp_path / '9')
        assert_same(leaves.into_template(got, state), state)
      except checkpoint.DamagedError:
        detected += 1
      flip_bit(path, position)
  assert detected >= 6
  assert manager.restore(state)[0] == 9


def test_template_mismatch_is_one_line(tmp_path):
  with checkpoint.CheckpointManager(tmp_path) as manager:
    manager.save(1, {'a': np.zeros(3), 'b': np.zeros(2)})
  with pytest.raises(errors.InputError, match=r'a: got .*3.*expected .*4'):
    manager.restore({'a': np.zeros(4), 'b': np.zeros(2)})
  with pytest.raises(errors.InputError, match=r"missing leaves \['c'\]"):
    manager.restore({'a': np.zeros(3), 'b': np.zeros(2), 'c': np.zeros(1)})
  with pytest.raises(errors.InputError, match='found no checkpoint'):
    checkpoint.CheckpointManager(tmp_path / 'absent').restore()


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, 'No space left on device'),
        ValueError('RESOURCE_EXHAUSTED: Error writing "d/1"\nmore'),
    ],
    ids=['os', 'tensorstore'],
)
def test_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch, error):
  manager = checkpoint.CheckpointManager(tmp_path)
  manager.save(1, {'x': np.zeros(1000)})
  manager.wait()

  def fail(path, tree):
    path.mkdir()
    (path / 'part').write_bytes(b'x')
    raise error

  monkeypatch.setattr(checkpoint, '_save_arrays', fail)
  manager.save(2, {'x': np.ones(1000)})
  with pytest.raises(OSError, match='needs up to 8000 bytes') as caught:
    manager.wait()
  assert caught.value.errno == errno.ENOSPC
  assert '\n' not in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ['1']
  manager.wait()  # Told once.
  monkeypatch.undo()
  manager.save(3, {'x': np.ones(1000)})
  manager.wait()
  assert manager.restore()[0] == 3


def test_failure_is_raised_by_the_next_save(tmp_path, monkeypatch):
  def fail(path, tree):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr(checkpoint, '_save_arrays', fail)
  manager = checkpoint.CheckpointManager(tmp_path)
  manager.save(1, {'x': np.zeros(3)})
  with pytest.raises(RuntimeError, match='step 1 was not written.*denied'):
    manager.save(2, {'x': np.zeros(3)})


def test_every_failing_flush_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
  """Fails the first, second, … flush in turn until a save gets through."""
  manager = checkpoint.CheckpointManager(tmp_path)
  manager.save(0, {'x': np.zeros(3)})
  manager.wait()
  flush = checkpoint._sync
  calls = 0

  def sometimes(path):
    nonlocal calls
    calls += 1
    if calls == fail_at:
      raise OSError(errno.EIO, 'I/O error')
    flush(path)

  monkeypatch.setattr(checkpoint, '_sync', sometimes)
  for fail_at in range(1, 100):
    calls = 0
    manager.save(fail_at, {'x': np.full(3, fail_at)})
    try:
      manager.wait()
      break
    except RuntimeError:
      step, tree = checkpoint.CheckpointManager(tmp_path).restore()
      np.testing.assert_array_equal(tree['x'], np.full(3, step))
      assert step in (0, fail_at)
  assert fail_at > 5, 'some files were not flushed'


_SAVE_LOOP = """
import pathlib, sys
import numpy as np
from infnerf_jax.storage import checkpoint
manager = checkpoint.CheckpointManager(sys.argv[1], keep=2)
step = manager.latest_step() or 0
while True:
  step += 1
  x = np.full(100_000, step)
  manager.save(step, {'x': x, 'y': {'z': x[:3]}})
"""


def test_killed_twice_in_a_save_loop(tmp_path):
  """SIGKILL, resume, SIGKILL: never without a whole checkpoint."""
  root = pathlib.Path(__file__).parents[2]
  environment = {**os.environ, 'PYTHONPATH': str(root)}
  manager = checkpoint.CheckpointManager(tmp_path, keep=2)
  rng = random.Random(1)
  for _ in range(2):
    goal = (manager.latest_step() or 0) + 3
    child = subprocess.Popen(
        [sys.executable, '-c', _SAVE_LOOP, str(tmp_path)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while (manager.latest_step() or 0) < goal and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.1 * rng.random())
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    step, tree = manager.restore()
    assert step >= goal
    np.testing.assert_array_equal(tree['x'], np.full(100_000, step))
    np.testing.assert_array_equal(tree['y']['z'], np.full(3, step))
  manager.save(step + 1, {'x': np.zeros(2)})
  manager.wait()
  assert not list(tmp_path.glob('.tmp-*'))
  assert len(manager.steps()) == 2


def test_params_sha256():
  a = {'b': np.arange(6, dtype=np.float32).reshape(2, 3), 'a': jnp.float32(1)}
  digest = leaves.params_sha256(a)
  assert digest == leaves.params_sha256(dict(sorted(a.items())))
  assert len(digest) == 64
  for other in (
      {**a, 'b': a['b'].T.reshape(2, 3)},
      {**a, 'b': a['b'].reshape(3, 2)},
      {**a, 'b': a['b'].view(np.int32)},
      {'c': a['b'], 'a': a['a']},
  ):
    assert digest != leaves.params_sha256(other)
  flipped = a['b'].copy()
  flipped.view(np.uint8)[0, 5] ^= 1
  assert digest != leaves.params_sha256({**a, 'b': flipped})


def test_ambiguous_names_are_refused():
  with pytest.raises(ValueError, match='leaf path'):
    leaves.named_leaves({'a/b': 1})
  with pytest.raises(ValueError, match='leaf path'):
    leaves.named_leaves(np.zeros(3))
  with pytest.raises(ValueError, match='two leaves'):
    leaves.named_leaves(_Twice(0, 1))


@jax.tree_util.register_pytree_with_keys_class
class _Twice:
  """A container whose two leaves have one name."""

  def __init__(self, *values):
    self.values = values

  def tree_flatten_with_keys(self):
    key = jax.tree_util.DictKey('same')
    return [(key, v) for v in self.values], None

  @classmethod
  def tree_unflatten(cls, unused, values):
    return cls(*values)
