"""The octree: struct of arrays, no node objects.

The root is a cube; level 0 is the root. Octants have bits x, y, z = 4, 2, 1,
set for the upper half. Rows (`node_id`) run level by level, and within a level
in Morton order, so the root is row 0 and children follow their parents.
"""

from typing import NamedTuple

import numpy as np

# A permanent key is the Morton code behind a leading one, whose place gives
# the level: 3 bits a level in a signed 64-bit integer.
MAX_LEVEL = 20


class Octree(NamedTuple):
  """N nodes as arrays, on the host.

  Attributes:
    level: [N] int32.
    coord: [N, 3] int32, integer cell of the node at its level.
    parent: [N] int32, row of the parent; -1 for the root.
    children: [N, 8] int32, rows of the children by octant; -1 where absent.
    center: [3] float64, the root's centre, metres.
    side: the root's side, metres.
    grid_size: cells along a node's side at its finest grid scale.
  """

  level: np.ndarray
  coord: np.ndarray
  parent: np.ndarray
  children: np.ndarray
  center: np.ndarray
  side: float
  grid_size: int

  @property
  def num_nodes(self) -> int:
    return len(self.level)

  @property
  def num_levels(self) -> int:
    """Levels in use, the root's included."""
    return int(self.level.max()) + 1

  @property
  def root_min(self) -> np.ndarray:
    """[3] float64, lower corner of the root, metres."""
    return self.center - self.side / 2

  @property
  def root_gsd(self) -> float:
    """Finest length that the root resolves, metres."""
    return self.side / (2 * self.grid_size)

  def node_gsd(self, level):
    """Finest length that nodes of a level resolve, metres."""
    return self.root_gsd / 2.0 ** np.asarray(level)


def morton_code(coord) -> np.ndarray:
  """Interleaves the bits of integer cells, x most significant.

  Args:
    coord: [..., 3] non-negative integers below 2**20.

  Returns:
    [...] int64; the last three bits are the octant within the parent.
  """
  coord = np.asarray(coord, np.int64)
  code = np.zeros(coord.shape[:-1], np.int64)
  for bit in range(MAX_LEVEL):
    for axis in range(3):
      code |= (coord[..., axis] >> bit & 1) << (3 * bit + 2 - axis)
  return code


def node_key(level, coord) -> np.ndarray:
  """Permanent 64-bit name of nodes: level and Morton code.

  Args:
    level: [...] integers up to 20.
    coord: [..., 3] integer cells at that level.

  Returns:
    [...] int64, unique over all octrees below one root; children sort behind
    their parents.
  """
  level = np.asarray(level, np.int64)
  if np.any(level > MAX_LEVEL):
    raise ValueError(f'node_key: got level {level.max()}, at most {MAX_LEVEL}')
  return np.int64(1) << 3 * level | morton_code(coord)


def key_level_coord(key) -> tuple[np.ndarray, np.ndarray]:
  """Inverse of `node_key`: ([...] level, [..., 3] coord), int32."""
  key = np.asarray(key, np.int64)
  level = np.zeros(key.shape, np.int32)
  for deeper in range(1, MAX_LEVEL + 1):
    level += key >> 3 * deeper > 0
  code = key - (np.int64(1) << 3 * level.astype(np.int64))
  coord = np.zeros(key.shape + (3,), np.int32)
  for bit in range(MAX_LEVEL):
    for axis in range(3):
      digit = (code >> (3 * bit + 2 - axis) & 1).astype(np.int32)
      coord[..., axis] |= digit << bit
  return level, coord


def node_aabb(octree: Octree, node_id=slice(None)) -> np.ndarray:
  """[..., 2, 3] float64 boxes of nodes, metres."""
  side = octree.side / 2.0 ** octree.level[node_id]
  low = octree.root_min + octree.coord[node_id] * side[..., None]
  return np.stack([low, low + side[..., None]], axis=-2)


def from_coords(
    coords: list[np.ndarray], *, center, side: float, grid_size: int
) -> Octree:
  """Assembles a tree from the cells that exist at every level.

  Args:
    coords: one [N_level, 3] integer array a level, from level 0 = [[0, 0, 0]];
      the parent of every cell exists.
    center: [3] metres.
    side: metres.
    grid_size: cells along a node's side at its finest grid scale.

  Returns:
    Octree.
  """
  levels, ordered, parents, codes_above, first_above = [], [], [], None, 0
  first = 0
  for level, cells in enumerate(coords):
    codes = morton_code(cells)
    order = np.argsort(codes)
    codes = codes[order]
    if level == 0:
      parent = np.array([-1])
    else:
      parent = first_above + np.searchsorted(codes_above, codes >> 3)
      assert np.array_equal(codes_above[parent - first_above], codes >> 3)
    levels.append(np.full(len(codes), level))
    ordered.append(np.asarray(cells)[order])
    parents.append(parent)
    codes_above, first_above, first = codes, first, first + len(codes)
  level = np.concatenate(levels).astype(np.int32)
  coord = np.concatenate(ordered).astype(np.int32)
  parent = np.concatenate(parents).astype(np.int32)
  children = np.full((len(level), 8), -1, np.int32)
  octant = (coord & 1) @ np.array([4, 2, 1])
  children[parent[1:], octant[1:]] = np.arange(1, len(level))
  return Octree(
      level=level,
      coord=coord,
      parent=parent,
      children=children,
      center=np.asarray(center, np.float64),
      side=float(side),
      grid_size=int(grid_size),
  )
