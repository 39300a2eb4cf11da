"""Large tables lie in large pages once a native kernel has seen them."""

import ctypes
import mmap
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.hash_lookup import api, native, specs
from kernels.native import build

_COLLAPSE = 25  # MADV_COLLAPSE
_SIZE = 32 << 20


def _can_collapse() -> bool:
  area = mmap.mmap(-1, _SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  area.write(b'x' * _SIZE)
  try:
    area.madvise(_COLLAPSE)
  except OSError:
    return False
  return _huge_bytes(ctypes.addressof(ctypes.c_char.from_buffer(area))) > 0


def _huge_bytes(address: int) -> int:
  """Of the mapping that holds an address, bytes in large pages."""
  inside = False
  with open('/proc/self/smaps', encoding='ascii') as file:
    for line in file:
      found = re.match(r'([0-9a-f]+)-([0-9a-f]+) ', line)
      if found:
        begin, end = (int(x, 16) for x in found.groups())
        inside = begin <= address < end
      elif inside and line.startswith('AnonHugePages:'):
        return 1024 * int(line.split()[1])
  return 0


def test_a_table_moves_into_large_pages():
  spec = specs.GridSpec(4, 2**19, 2, 16, 512)
  try:
    native.library(spec)
  except build.NativeUnavailable as error:
    pytest.skip(str(error))
  if not _can_collapse():
    pytest.skip('this kernel gives no large pages')
  table = jnp.ones((_SIZE // (8 * spec.num_rows) + 1, spec.num_rows, 2))
  address = table.unsafe_buffer_pointer() + _SIZE // 2
  before = _huge_bytes(address)
  position, slot = jnp.full((5, 3), 0.3), jnp.zeros(5, jnp.int32)
  found = api.hash_lookup(
      table, position, slot, spec=spec, implementation='native'
  )
  np.testing.assert_allclose(jax.device_get(found), 1.0, rtol=1e-5)
  # The mapping may be shared with smaller arrays, in pages large already.
  assert _huge_bytes(address) > before + _SIZE // 2
