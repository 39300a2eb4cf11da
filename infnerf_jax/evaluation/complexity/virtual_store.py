"""A node store that makes its values up: ten million nodes without a disk.

The tree is that of a survey whose detail grows towards one place: at each
level the nodes within `reach` cells of it exist, in one layer on the ground.
So the number of nodes follows from `reach` and the depth in closed form. Pages
and chunks are made when they are read, encoded as a real store's are, and go
through the same decoding and the same checksums.
"""

import dataclasses

import numpy as np

from infnerf_jax.models import node_field
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import (
  key_values,
  node_store,
  row_codec,
  tree_pages,
)  # fmt: skip

GENERATION = 1
# Different contents; a node takes one of them by its key.
_NUM_ROWS = 4


def level_counts(reach: int, max_level: int) -> list[int]:
  """Nodes of each level: a square of 2 * reach cells, or all of the ground."""
  return [min(2**level, 2 * reach) ** 2 for level in range(max_level + 1)]


def reach_for(num_nodes: float, max_level: int) -> int:
  """Reach at which a tree has about so many nodes."""
  reach = 1
  while sum(level_counts(2 * reach, max_level)) < num_nodes:
    reach *= 2
  low, high = reach, 2 * reach
  while high - low > 1:
    middle = (low + high) // 2
    if sum(level_counts(middle, max_level)) < num_nodes:
      low = middle
    else:
      high = middle
  return high


@dataclasses.dataclass(frozen=True)
class VirtualTree:
  """Which nodes exist.

  Attributes:
    reach: cells around the middle that exist at each level.
    max_level: deepest level.
  """

  reach: int
  max_level: int

  def exists(self, level, coord) -> np.ndarray:
    """[...] whether cells [..., 3] of levels [...] exist."""
    level = np.asarray(level)
    half = np.where(level > 0, 1 << np.maximum(level - 1, 0), 0)
    flat = np.asarray(coord)[..., :2] - half[..., None]
    near = np.all((flat >= -self.reach) & (flat < self.reach), axis=-1)
    # The ground is the layer above the root's middle.
    ground = np.asarray(coord)[..., 2] == half
    return near & ground & (level <= self.max_level)

  def masks(self, keys) -> np.ndarray:
    """[N] uint8 masks of existing nodes."""
    level, coord = tree_lib.key_level_coord(keys)
    mask = np.zeros(len(keys), np.uint8)
    for octant in range(8):
      bits = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
      there = self.exists(level + 1, 2 * coord.astype(np.int64) + bits)
      mask |= (there.astype(np.uint8) << octant).astype(np.uint8)
    return mask

  def page(self, root_key: int) -> tree_pages.TreePage:
    """A page of the tree."""
    keys, masks, last = [], [], np.array([root_key], np.int64)
    for _ in range(tree_pages.PAGE_LEVELS):
      keys.append(last)
      masks.append(self.masks(last))
      last = tree_pages.child_keys(last, masks[-1])
    keys, masks = np.concatenate(keys), np.concatenate(masks)
    first = lambda n: np.full(n, GENERATION, np.uint32)
    return tree_pages.TreePage(
        keys, masks, first(len(keys)), last, first(len(last))
    )

  @property
  def counts(self) -> list[int]:
    """Nodes by level."""
    return level_counts(self.reach, self.max_level)


class OctreePages:
  """A tree in memory as pages, for a store whose chunks are made up."""

  def __init__(self, octree: tree_lib.Octree):
    keys, masks = tree_pages.octree_masks(octree)
    versions = np.full(len(keys), GENERATION, np.uint32)
    pages = tree_pages.make_pages(keys, masks, versions, GENERATION)
    self._pages = {int(page.keys[0]): page for page in pages}
    self.counts = np.bincount(octree.level).tolist()

  def page(self, root_key: int) -> tree_pages.TreePage:
    """See `VirtualTree.page`."""
    return self._pages[root_key]


class VirtualStore:
  """`KeyValues` of a made-up store."""

  location = 'virtual'

  def __init__(
      self, tree: VirtualTree | OctreePages, header: node_store.Header
  ):
    """Makes the few contents that nodes share.

    Args:
      tree: which nodes exist.
      header: without what follows from the tree.
    """
    self._tree = tree
    counts = tree.counts
    deepest = len(counts) - 1
    self.header = dataclasses.replace(
        header,
        generation=GENERATION,
        num_nodes=sum(counts),
        nodes_by_level=tuple(counts),
        focus=(deepest,) + (1 << max(deepest - 1, 0),) * 3,
    )
    self._rows = [
        make_row(self.header.group(), seed) for seed in range(_NUM_ROWS)
    ]
    self.num_reads = self.bytes_read = 0

  def read(self, key: str) -> bytes:
    """See `KeyValues`."""
    value = self._value(key)
    self.num_reads += 1
    self.bytes_read += len(value)
    return value

  def _value(self, key):
    if key == node_store.HEADER:
      return node_store.header_to_json(self.header)
    name = key.rpartition('/')[2].partition('.')[0]
    if key.startswith('tree/'):
      return tree_pages.encode_page(self._tree.page(int(name, 16)))
    if not key.startswith('nodes/'):
      raise key_values.MissingError(key)
    node_key = int(name, 16)
    row = self._rows[node_key % _NUM_ROWS]
    return row_codec.encode_row(self.header.group(), node_key, row)


def make_row(group: row_codec.RowGroup, seed: int) -> dict[str, np.ndarray]:
  """Arrays of a group with random content that pictures can show."""
  rng = np.random.default_rng(seed)
  row = {}
  for field in group.fields:
    if field.name == 'table':
      values = rng.uniform(-1, 1, field.shape)
    else:
      values = rng.normal(size=field.shape) / np.sqrt(field.shape[0])
    row[field.name] = values.astype(field.dtype)
  return row


def make_header(
    *,
    side: float,
    height: float,
    grid_size: int,
    precision: str = 'int8',
    log2_table_size: int = 12,
) -> node_store.Header:
  """Header of a made-up model.

  Args:
    side: metres, the root's; its middle is the origin.
    grid_size: cells along a node's side at its finest grid scale.
    precision: of the chunks.
    log2_table_size: rows of a hash table.

  Returns:
    Header without what follows from a tree.
  """
  spec = node_field.field_spec(
      num_grid_scales=4, table_size=2**log2_table_size, num_features=2,
      base_resolution=8, finest_resolution=grid_size, hidden_width=32,
      num_geometry=15, appearance_dim=0,
  )  # fmt: skip
  high = np.array([0.5 * side, 0.5 * side, height])
  return node_store.Header(
      generation=0, views_version=0, num_nodes=0, nodes_by_level=(),
      center=(0.0, 0.0, 0.0), side=side, grid_size=grid_size,
      sample_aabb=(tuple((-high).tolist()), tuple(high.tolist())),
      appearance_dim=0, field=dataclasses.asdict(spec),
      groups=(node_store.parameter_group(spec, precision),),
  )  # fmt: skip
