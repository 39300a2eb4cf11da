"""What a view touches of a tree, in nodes and bytes: the O(log n) meter."""

import math
from typing import NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib

MAX_BOXES = 3000


class Meter(NamedTuple):
  """What pictures of a view touched.

  Attributes:
    keys: [K] int64, nodes that samples addressed.
    num_nodes: of the whole tree.
    row_bytes: of a node.
    level_bias: octaves by which the cap made the view coarser.
    rows_read: rows that came from a store for it.
  """

  keys: np.ndarray
  num_nodes: int
  row_bytes: int
  level_bias: float = 0.0
  rows_read: int = 0


def merge(first: Meter | None, second: Meter) -> Meter:
  """The meter of two bands of one picture."""
  if first is None:
    return second
  return second._replace(
      keys=np.union1d(first.keys, second.keys),
      level_bias=max(first.level_bias, second.level_bias),
      rows_read=first.rows_read + second.rows_read,
  )


def format_bytes(num_bytes: float) -> str:
  """Bytes in a unit that suits their size."""
  for unit, size in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
    if num_bytes >= size:
      return f'{num_bytes / size:.3g} {unit}'
  return f'{num_bytes:.0f} B'


def describe(meter: Meter) -> str:
  """The meter as a few lines of Markdown."""
  touched, total = len(meter.keys), meter.num_nodes
  level, _ = tree_lib.key_level_coord(meter.keys)
  counts = np.bincount(level) if touched else []
  lines = [
      f'**{touched:,} of {total:,} nodes** touched'
      f' (log₂ n = {math.log2(max(total, 1)):.1f})',
      f'{format_bytes(touched * meter.row_bytes)} of'
      f' {format_bytes(total * meter.row_bytes)}',
      'by level: ' + ' · '.join(f'{count}' for count in counts),
  ]
  if meter.rows_read:
    lines.append(f'{meter.rows_read} nodes read from the store')
  if meter.level_bias:
    lines.append(f'{meter.level_bias:g} octaves coarser, to fit the memory cap')
  return '  \n'.join(lines)


def boxes(keys, root_min, root_side: float):
  """Boxes of nodes.

  Args:
    keys: [K] int64.
    root_min: [3] metres.
    root_side: metres.

  Returns:
    ([K] level, [K, 2, 3] float64 metres).
  """
  level, coord = tree_lib.key_level_coord(keys)
  side = root_side / 2.0 ** level.astype(np.float64)
  low = np.asarray(root_min) + coord * side[..., None]
  return level, np.stack([low, low + side[..., None]], axis=-2)


def edges(aabb) -> np.ndarray:
  """The twelve edges of boxes.

  Args:
    aabb: [K, 2, 3].

  Returns:
    [12 K, 2, 3] segments.
  """
  corners = np.array(list(np.ndindex(2, 2, 2)))  # [8, 3]
  pairs = [
      (a, b)
      for a in range(8)
      for b in range(a + 1, 8)
      if np.sum(corners[a] != corners[b]) == 1
  ]
  # [K, 8, 3]
  places = np.stack(
      [aabb[:, corners[:, axis], axis] for axis in range(3)], axis=-1
  )
  return places[:, np.array(pairs)].reshape(-1, 2, 3)
