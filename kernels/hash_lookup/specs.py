"""Shape of a hash grid, and named shapes for tests and benchmarks."""

import dataclasses
import functools
import math

import numpy as np

PRIMES = (1, 2654435761, 805459861)


@dataclasses.dataclass(frozen=True)
class GridSpec:
  """Multiresolution hash grid of a node.

  Grid scale l has resolution floor(base * b**l) with b such that the last is
  `finest_resolution`; slot 0, the root, has twice each. A scale has
  min(table_size, (resolution + 1)**3) rows, rounded up to a multiple of 8. A
  cell corner is indexed densely where all corners fit those rows, else hashed.
  """

  num_grid_scales: int = 16
  table_size: int = 2**19
  num_features: int = 2
  base_resolution: int = 16
  finest_resolution: int = 2048

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(
            f"GridSpec.{field.name}: got {value!r}, expected a positive int"
        )
    if self.finest_resolution < self.base_resolution:
      raise ValueError(
          f"GridSpec.finest_resolution: got {self.finest_resolution}, expected"
          f" at least base_resolution {self.base_resolution}"
      )
    if self.num_grid_scales == 1:
      if self.finest_resolution != self.base_resolution:
        raise ValueError(
            "GridSpec: one grid scale needs finest_resolution equal to"
            f" base_resolution, got {self.finest_resolution} and"
            f" {self.base_resolution}"
        )

  @functools.cached_property
  def resolutions(self) -> np.ndarray:
    """[2, L] int64: of slot 0 (row 0) and of every other slot (row 1)."""
    base, finest = self.base_resolution, self.finest_resolution
    last = max(self.num_grid_scales - 1, 1)
    growth = math.log(finest / base) / last
    # The small addend keeps powers that are whole from rounding down.
    other = [
        math.floor(base * math.exp(growth * scale) + 1e-6)
        for scale in range(self.num_grid_scales)
    ]
    other[-1] = finest
    return np.array([[2 * r for r in other], other], np.int64)

  @functools.cached_property
  def row_counts(self) -> np.ndarray:
    """[L] int64 rows of each grid scale, multiples of 8."""
    counts = [
        min(self.table_size, (int(r) + 1) ** 3) for r in self.resolutions[1]
    ]
    return np.array([-(-c // 8) * 8 for c in counts], np.int64)

  @functools.cached_property
  def row_offsets(self) -> np.ndarray:
    """[L] int64 first row of each grid scale."""
    return np.concatenate([[0], np.cumsum(self.row_counts)[:-1]])

  @property
  def num_rows(self) -> int:
    """Rows of a node over all grid scales."""
    return int(self.row_counts.sum())

  @property
  def encoded_dim(self) -> int:
    """Features of a sample over all grid scales; index l * F + f."""
    return self.num_grid_scales * self.num_features

  def is_dense(self, grid_scale: int) -> tuple[bool, bool]:
    """Whether corners are indexed without hashing, in slot 0 and elsewhere."""
    rows = int(self.row_counts[grid_scale])
    root, other = (int(r) for r in self.resolutions[:, grid_scale])
    return (root + 1) ** 3 <= rows, (other + 1) ** 3 <= rows

  def layout(self) -> np.ndarray:
    """[4 * L] int64 for the native kernels: resolutions, offsets, rows."""
    parts = [*self.resolutions, self.row_offsets, self.row_counts]
    return np.concatenate(parts).astype(np.int64)


TINY = GridSpec(2, 2**8, 2, 4, 32)
SMALL = GridSpec(8, 2**15, 2, 16, 2048)
PAPER = GridSpec(16, 2**19, 2, 16, 2048)
