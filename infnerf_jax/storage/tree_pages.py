"""The tree of a node store by subtree: small pages that are read on demand.

A page holds the nodes of PAGE_LEVELS levels below one node: which children
exist, and which version of its chunk each node has. Below its last level it
names the versions of the pages that go on there. So the store's root names
every chunk and page, opening costs one small read whatever the tree's size,
and a commit writes the pages from the changed nodes up to the root.
"""

import collections
import concurrent.futures
import struct
import threading
import time
from typing import NamedTuple

import numpy as np

from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import key_values, row_codec

PAGE_LEVELS = 4
_COUNTS = struct.Struct('<II')
_LEVEL_BOUNDS = np.int64(1) << 3 * np.arange(tree_lib.MAX_LEVEL + 1)
_OCTANTS = np.arange(8)
# 585 nodes and 4,096 child pages, five bytes a node, four a page.
_MAX_PAYLOAD = 32 * 1024
# A page that was out of reach is left alone this long, seconds.
_COOL_DOWN = 2.0
ROOT_KEY = 1


class TreePage(NamedTuple):
  """Nodes of one page.

  Attributes:
    keys: [n] int64, rising.
    masks: [n] uint8, bit `o` is set where the child of octant `o` exists.
    versions: [n] uint32 of the nodes' chunks.
    page_keys: [m] int64, rising: roots of the pages below.
    page_versions: [m] uint32.
  """

  keys: np.ndarray
  masks: np.ndarray
  versions: np.ndarray
  page_keys: np.ndarray
  page_versions: np.ndarray

  @property
  def nbytes(self) -> int:
    return sum(x.nbytes for x in self)


def key_level(keys) -> np.ndarray:
  """[...] int32 levels of node keys."""
  return (np.searchsorted(_LEVEL_BOUNDS, keys, 'right') - 1).astype(np.int32)


def page_root(keys) -> np.ndarray:
  """[...] int64 key of the page that holds each node."""
  keys = np.asarray(keys, np.int64)
  return keys >> 3 * (key_level(keys) % PAGE_LEVELS).astype(np.int64)


def child_keys(keys, masks) -> np.ndarray:
  """[m] int64, rising: existing children of nodes [n] in rising order."""
  exists = (masks[:, None] >> _OCTANTS & 1).astype(bool)
  return ((keys[:, None] << 3) | _OCTANTS)[exists]


def encode_page(page: TreePage) -> bytes:
  """A page as a framed, checksummed value; keys follow from the masks."""
  payload = _COUNTS.pack(len(page.keys), len(page.page_keys))
  payload += page.masks.astype(np.uint8).tobytes()
  payload += page.versions.astype('<u4').tobytes()
  payload += page.page_versions.astype('<u4').tobytes()
  return row_codec.frame(int(page.keys[0]), 0, payload)


def decode_page(root_key: int, data: bytes) -> TreePage:
  """Inverse of `encode_page`.

  Args:
    root_key: node that the page begins at.
    data: what `encode_page` gave.

  Returns:
    TreePage.

  Raises:
    DamagedError: the bytes are not what was written.
  """
  _, payload = row_codec.unframe(data, root_key, _MAX_PAYLOAD)
  if len(payload) < _COUNTS.size:
    raise row_codec.DamagedError('tree page: found no counts')
  num_nodes, num_pages = _COUNTS.unpack_from(payload)
  expected = _COUNTS.size + 5 * num_nodes + 4 * num_pages
  if len(payload) != expected or not num_nodes:
    raise row_codec.DamagedError(
        f'tree page: found {len(payload)} bytes, expected {expected}'
    )
  masks = np.frombuffer(payload, np.uint8, num_nodes, _COUNTS.size)
  numbers = np.frombuffer(payload, '<u4', offset=_COUNTS.size + num_nodes)
  keys, first = [np.array([root_key], np.int64)], 0
  for _ in range(PAGE_LEVELS):
    last = keys[-1]
    keys.append(child_keys(last, masks[first : first + len(last)]))
    first += len(last)
  page_keys = keys.pop()
  keys = np.concatenate(keys)
  if len(keys) != num_nodes or len(page_keys) != num_pages:
    raise row_codec.DamagedError('tree page: masks and counts disagree')
  return TreePage(
      keys, masks, numbers[:num_nodes], page_keys, numbers[num_nodes:]
  )


def page_name(key: int, version: int) -> str:
  """Key of a page in the store."""
  return f'tree/{int(key):x}.{int(version)}'


def make_pages(keys, masks, versions, page_version) -> list[TreePage]:
  """Cuts a whole tree into pages, deepest first.

  Args:
    keys: [N] int64, rising.
    masks: [N] uint8.
    versions: [N] uint32.
    page_version: of all pages.

  Returns:
    TreePages.
  """
  roots = page_root(keys)
  order = np.argsort(roots, kind='stable')
  starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
  pages = []
  for rows in np.split(order, starts[1:]):
    last = key_level(keys[rows]) % PAGE_LEVELS == PAGE_LEVELS - 1
    below = child_keys(keys[rows][last], masks[rows][last])
    pages.append(
        TreePage(
            keys[rows],
            masks[rows],
            versions[rows],
            below,
            np.full(len(below), page_version, np.uint32),
        )
    )
  return pages[::-1]


def octree_masks(octree: tree_lib.Octree) -> tuple[np.ndarray, np.ndarray]:
  """([N] int64 keys, [N] uint8 masks) of a tree in memory."""
  keys = tree_lib.node_key(octree.level, octree.coord)
  masks = ((octree.children >= 0) << _OCTANTS).sum(axis=-1).astype(np.uint8)
  return keys, masks


class ResidentTree:
  """A tree in memory as `StoredTree` has it."""

  def __init__(self, octree: tree_lib.Octree):
    self._keys, self._masks = octree_masks(octree)

  def child_masks(self, keys) -> np.ndarray:
    """[K] uint8 masks of existing nodes [K]."""
    return self._masks[np.searchsorted(self._keys, keys)]


class StoredTree:
  """The tree of a store; pages are read on demand and kept, least used out."""

  def __init__(
      self,
      values: key_values.KeyValues,
      root_version: int,
      *,
      max_bytes: int = 8 << 20,
      num_readers: int = 8,
  ):
    """Reads nothing yet.

    Args:
      values: of the store.
      root_version: version of the root's page.
      max_bytes: of the pages that are kept.
      num_readers: pages that are read at once.
    """
    self._values = values
    self._root_version = root_version
    self._max_bytes = max_bytes
    self._pages = collections.OrderedDict()
    self._lock = threading.Lock()
    self._num_readers = num_readers
    self.nbytes = 0
    self.pages_read = 0
    self.damage: dict[int, str] = {}
    self._retry_at: dict[int, float] = {}

  def restart(self, root_version: int) -> None:
    """Forgets all pages and goes on with another version of the root's.

    Args:
      root_version: version of the root's page.
    """
    with self._lock:
      self._root_version = root_version
      self._pages.clear()
      self.nbytes = 0
      self.damage.clear()
      self._retry_at.clear()

  def child_masks(self, keys) -> np.ndarray:
    """[K] uint8 masks of existing nodes; zero below a page that is damaged."""
    return self._look_up(keys, 'masks', np.uint8)

  def versions(self, keys) -> np.ndarray:
    """[K] uint32 versions of existing nodes' chunks."""
    return self._look_up(keys, 'versions', np.uint32)

  def _look_up(self, keys, name, dtype):
    keys = np.asarray(keys, np.int64)
    out = np.zeros(len(keys), dtype)
    roots, inverse = np.unique(page_root(keys), return_inverse=True)
    pages = self.pages(roots)
    for i, page in enumerate(pages):
      if page is None:
        continue
      rows = np.flatnonzero(inverse == i)
      where = np.searchsorted(page.keys, keys[rows])
      where = np.minimum(where, len(page.keys) - 1)
      known = page.keys[where] == keys[rows]
      out[rows[known]] = getattr(page, name)[where[known]]
    return out

  @property
  def out_of_reach(self) -> list[int]:
    """Keys of pages whose last reading failed; they are asked for again."""
    return sorted(self._retry_at)

  def _may_read(self, root: int) -> bool:
    return (
        root not in self.damage
        and self._retry_at.get(root, 0) < time.monotonic()
    )

  def pages(self, roots) -> list[TreePage | None]:
    """Pages by the keys they begin at; None where one cannot be had now."""
    roots = [int(root) for root in roots]
    kept = {root: self._kept(root) for root in roots}
    wanted = [r for r, p in kept.items() if p is None and self._may_read(r)]
    versions = [self._version(root) for root in wanted]
    found = self._read_all(list(zip(wanted, versions)))
    kept.update(zip(wanted, found))
    return [kept[root] for root in roots]

  def _version(self, root: int) -> int | None:
    """Version of a page as the page above names it."""
    if root == ROOT_KEY:
      return self._root_version
    (above,) = self.pages([int(page_root(np.int64(root >> 3)))])
    if above is None:
      return None
    where = np.searchsorted(above.page_keys, root)
    if where == len(above.page_keys) or above.page_keys[where] != root:
      return None
    return int(above.page_versions[where])

  def _kept(self, root):
    with self._lock:
      if root in self._pages:
        self._pages.move_to_end(root)
      return self._pages.get(root)

  def _read_all(self, items):
    if len(items) < 2:
      return [self._read(*item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(self._num_readers) as pool:
      return list(pool.map(lambda item: self._read(*item), items))

  def _read(self, root, version) -> TreePage | None:
    if version is None:
      return None
    try:
      page = decode_page(root, self._values.read(page_name(root, version)))
    except key_values.UnreachableError:
      self._retry_at[root] = time.monotonic() + _COOL_DOWN
      return None  # a later look may find it
    except (key_values.MissingError, row_codec.DamagedError) as e:
      self.damage[root] = str(e)
      return None
    self._retry_at.pop(root, None)
    with self._lock:
      self.pages_read += 1
      if root not in self._pages:
        self._pages[root] = page
        self.nbytes += page.nbytes
      while self.nbytes > self._max_bytes and len(self._pages) > 1:
        self.nbytes -= self._pages.popitem(last=False)[1].nbytes
    return page
