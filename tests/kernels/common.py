"""What the kernel tests share."""

import numpy as np
import pytest

from kernels.hash_lookup import specs as grid_specs
from kernels.node_field import specs as field_specs
from kernels.triton_support import capability

# Triton's are tested on a GPU, and in its interpreter by interpreter_test.
INTERPRETING = capability.interpreting()
_TRITON = () if capability.problem() else ("triton",)
BACKENDS = _TRITON if INTERPRETING else ("xla", "native") + _TRITON
ALL = ("reference",) + BACKENDS
# Of tests whose every claim suite.py shows of a backend too, against the
# reference: in the interpreter, where calls take seconds, once is enough.
ONCE = tuple(b for b in ALL if not (INTERPRETING and b == "triton"))

# All scales dense for ordinary nodes; the root hashes; rows not powers of two.
RAGGED = grid_specs.GridSpec(2, 3000, 2, 3, 12)
TINY = grid_specs.TINY
FIELD = field_specs.TINY


def samples(spec, num_samples, num_slots, seed=0):
  """Random table, position and slot (some out of range), as NumPy arrays."""
  rng = np.random.default_rng(seed)
  shape = (num_slots, spec.num_rows, spec.num_features)
  table = rng.normal(size=shape).astype(np.float32)
  position = rng.uniform(size=(num_samples, 3)).astype(np.float32)
  slot = rng.integers(-1, num_slots + 1, num_samples).astype(np.int32)
  return table, position, slot


def oracle_rows(spec, position, slot, grid_scale):
  """NumPy, one sample at a time: [(row, weight)] * 8 by the definition."""
  growth = spec.finest_resolution / spec.base_resolution
  growth **= 1 / max(spec.num_grid_scales - 1, 1)
  ordinary = int(spec.base_resolution * growth**grid_scale + 1e-6)
  if grid_scale == spec.num_grid_scales - 1:
    ordinary = spec.finest_resolution
  count = min(spec.table_size, (ordinary + 1) ** 3)
  count = (count + 7) // 8 * 8
  resolution = ordinary * (2 if slot == 0 else 1)
  scaled = position * np.float32(resolution)
  cell = np.minimum(np.floor(scaled).astype(int), resolution - 1)
  out = []
  for dx in (0, 1):
    for dy in (0, 1):
      for dz in (0, 1):
        x, y, z = (int(c) for c in cell + [dx, dy, dz])
        if (resolution + 1) ** 3 <= count:
          row = x + (resolution + 1) * (y + (resolution + 1) * z)
        else:
          y = y * 2654435761 % 2**32
          z = z * 805459861 % 2**32
          row = (x ^ y ^ z) % count
        f = scaled.astype(float) - cell
        weight = np.prod(np.where([dx, dy, dz], f, 1 - f))
        out.append((int(spec.row_offsets[grid_scale]) + row, weight))
  return out


@pytest.fixture
def two_threads():
  """Runs a function with one and with two native threads."""
  from kernels import native

  before = native.get_num_threads()

  def run(function):
    out = []
    for count in (1, 2):
      native.set_num_threads(count)
      out.append([np.asarray(a) for a in function()])
    return out

  yield run
  native.set_num_threads(before)
