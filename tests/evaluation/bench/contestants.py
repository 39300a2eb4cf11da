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
