"""Contestants of known behaviour for the tests of the harness."""

import os
import sys
import time


def burn_and_sleep(seconds):
  """One that computes for a while and one that only waits."""

  def burn():
    print('a library prints')
    start = time.process_time()
    while time.process_time() - start < seconds:
      pass
    return 7.0

  return {'burn': burn, 'sleep': lambda: time.sleep(seconds)}


def environment(shape=None):
  """Numbers from environment variables."""
  del shape
  names = ('OMP_NUM_THREADS', 'INFNERF_NUM_THREADS')
  return {n: lambda n=n: int(os.environ[n]) for n in names}


def unavailable():
  """Cannot run here."""
  raise ImportError('no such thing\nand a second line')


def dies():
  """Ends its process."""
  return lambda: sys.exit(3)


def cannot(shape):
  """Cannot run here, whatever the shape."""
  del shape
  unavailable()


# Of a frame and of a training batch.
OPS = (
    'locate',
    'traverse',
    'hash_lookup',
    'node_field',
    'composite',
    'frame',
    'hash_lookup gradient',
    'node_field gradient',
    'composite gradient',
    'sparse_adam',
)


def _frame(seconds, samples):
  def run():
    time.sleep(seconds)
    return samples

  return dict.fromkeys(OPS, run)


def frame_fast(shape, platform):
  """Parts of a frame that only wait."""
  del shape, platform
  return _frame(0.002, 500.0)


def frame_slow(shape, platform):
  """The same, a hundred times as slow, with other samples."""
  del shape, platform
  return _frame(0.2, 400.0)


def frame_dies(shape, platform):
  """Parts of a frame that end their process."""
  del shape, platform
  return dict.fromkeys(OPS, lambda: sys.exit(3))


def trains(shape, platform, max_level=None):
  """A step that only waits."""
  assert shape['num_rays'] and platform and max_level != 0
  return lambda: time.sleep(0.001)


def no_gpu(shape, platform, max_level=None):
  """Cannot run here."""
  del shape, platform, max_level
  raise RuntimeError('no GPU')
