"""One heap for all threads."""

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, sys, threading
from infnerf_jax import heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
heap.use_one_arena()
def work():
  # glibc would give this thread an arena of its own.
  for _ in range(10):
    libc.malloc(1000)
thread = threading.Thread(target=work)
thread.start()
thread.join()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b'w'))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='asks glibc')
def test_threads_share_one_arena(tmp_path):
  path = tmp_path / 'info.xml'
  subprocess.run([sys.executable, '-c', _PROGRAM, path], check=True)
  assert path.read_text().count('<heap nr=') == 1
