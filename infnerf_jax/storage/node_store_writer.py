"""Writing a node store: immutable versions, one atomic commit.

A writer adds new versions of chunks; nobody sees them until `commit` has
written the pages that name them and, last, the header. Killed at any moment,
the store is that of the last commit; what was written since is swept by the
next commit. One writer at a time.
"""

import dataclasses
from typing import Any, Callable, Iterable

import numpy as np

from infnerf_jax import errors
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import (
  key_values,
  node_store,
  row_codec,
  tree_pages,
)  # fmt: skip

Rows = dict[str, dict[str, np.ndarray]]


def create_store(
    location,
    header: node_store.Header,
    octree: tree_lib.Octree,
    rows_of: Callable[[int], Rows] | None,
    *,
    views: dict[str, np.ndarray] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
  """Writes a tree with all its rows; an older store there is replaced.

  Readers see the older store until the very end.

  Args:
    location: folder or bucket.
    header: generations and what follows from the tree are filled in.
    octree: tree.
    rows_of: {group: row} of a node_id; None: no node has a chunk yet, all have
      version 0.
    views: arrays of the photos.
    progress: called with the number of nodes written.

  Returns:
    Bytes of the nodes' chunks.

  Raises:
    OSError: the disk is full.
  """
  values = key_values.TensorStoreKeyValues(location)
  generation = _last_generation(values) + 1
  keys, masks = tree_pages.octree_masks(octree)
  version = 0 if rows_of is None else generation
  num_bytes = 0

  def chunks():
    nonlocal num_bytes
    for node_id, key in enumerate(keys.tolist()):
      rows = rows_of(node_id)
      for group in header.groups:
        data = row_codec.encode_row(group, key, rows[group.name])
        num_bytes += len(data)
        yield node_store.chunk_name(group.name, key, generation), data
      if progress is not None:
        progress(node_id + 1)

  if rows_of is not None:
    values.write_many(chunks())
  versions = np.full(len(keys), version, np.uint32)
  _write_pages(
      values,
      tree_pages.make_pages(keys, masks, versions, generation),
      generation,
  )
  if views is not None:
    name = node_store.views_name(generation)
    values.write(name, node_store.pack_arrays(views))
  header = dataclasses.replace(
      header,
      generation=generation,
      created=generation,
      views_version=generation if views is not None else 0,
      num_nodes=octree.num_nodes,
      nodes_by_level=tuple(np.bincount(octree.level).tolist()),
      center=tuple(octree.center.tolist()),
      side=octree.side,
      grid_size=octree.grid_size,
  )
  values.write(node_store.HEADER, node_store.header_to_json(header))
  sweep(values)
  return num_bytes


def _last_generation(values) -> int:
  """Generation of the store that is there, 0 without one.

  Raises:
    InputError: something else is there.
  """
  try:
    data = values.read(node_store.HEADER)
  except key_values.MissingError:
    foreign = next(iter(values.keys()), None)
    ours = (
        'nodes/',
        'tree/',
        'views.',
        'state.',
    )  # what a killed export leaves
    if foreign is not None and not foreign.startswith(ours):
      raise errors.InputError(
          f'{values.location}: found {foreign}, expected a node store or'
          ' nothing'
      ) from None
    return 0
  return node_store.header_from_json(data, values.location).generation


def _write_pages(values, pages, generation) -> None:
  values.write_many(
      (
          tree_pages.page_name(page.keys[0], generation),
          tree_pages.encode_page(page),
      )
      for page in pages
  )


def sweep(values: key_values.TensorStoreKeyValues) -> int:
  """Deletes what the committed header does not name.

  Args:
    values: of a store.

  Returns:
    How many values were deleted.
  """
  store = node_store.NodeStore(values)
  header = store.header
  named = {
      node_store.HEADER,
      node_store.views_name(header.views_version),
      node_store.state_name(header.state_version),
  }
  root = tree_pages.ROOT_KEY
  named.add(tree_pages.page_name(root, header.generation))
  for page in store.walk():
    for key, version in zip(page.page_keys, page.page_versions):
      named.add(tree_pages.page_name(key, version))
    for key, version in zip(page.keys, page.versions):
      for group in header.groups:
        named.add(node_store.chunk_name(group.name, key, version))
  if store.tree.damage:
    return 0  # what a damaged page names is unknown
  surplus = [key for key in values.keys() if key not in named]
  for key in surplus:
    values.delete(key)
  return len(surplus)


class StoreWriter:
  """Adds new versions of rows of an existing store; see the module.

  This is how training beyond memory pages nodes out: `write_row` as they leave,
  `read_row` as they come back, `commit` at a checkpoint (`row_store.py`).
  """

  def __init__(
      self,
      values: key_values.TensorStoreKeyValues,
      *,
      zstd_level: int = 3,
  ):
    """Opens a store; InputError where there is none."""
    self._values = values
    self._zstd_level = zstd_level
    self.store = node_store.NodeStore(values)
    self._written: set[int] = set()

  @property
  def generation(self) -> int:
    """Version of what is written before the next commit."""
    return self.store.header.generation + 1

  def write_row(self, key: int, rows: Rows) -> int:
    """Writes all groups of a node.

    Args:
      key: node_key of a node that exists.
      rows: {group: row}, every group of the store.

    Returns:
      Bytes written.
    """
    num_bytes = 0
    for group in self.store.header.groups:
      name = node_store.chunk_name(group.name, key, self.generation)
      data = row_codec.encode_row(
          group, key, rows[group.name], zstd_level=self._zstd_level
      )
      self._values.write(name, data)
      num_bytes += len(data)
    self._written.add(int(key))
    return num_bytes

  def note_written(self, key: int) -> None:
    """Another writer has written this node's row of this generation."""
    self._written.add(int(key))

  def reopen(self) -> None:
    """Takes over what another writer has committed."""
    self.store = node_store.NodeStore(self._values)
    self._written.clear()

  def is_written(self, key: int) -> bool:
    """Whether a node has a chunk, committed or not.

    Raises:
      DamagedError: the page that would say so cannot be read.
    """
    if int(key) in self._written:
      return True
    root = int(tree_pages.page_root(np.int64(key)))
    if self.store.tree.pages([root])[0] is None:
      reason = self.store.tree.damage.get(root, 'unreachable')
      raise row_codec.DamagedError(f'tree page {root:x}: {reason}')
    return bool(self.store.tree.versions([key])[0])

  def read_row(
      self, key: int, group: str = node_store.PARAMETERS
  ) -> dict[str, np.ndarray]:
    """The newest row of a node, committed or not."""
    data = self.read_chunk(key, group)
    return row_codec.decode_row(self.store.header.group(group), int(key), data)

  def read_chunk(self, key: int, group: str = node_store.PARAMETERS) -> bytes:
    """The newest chunk of a node, committed or not."""
    if int(key) not in self._written:
      return self.store.read_chunk(key, group)
    return self._values.read(node_store.chunk_name(group, key, self.generation))

  def commit(self, *, views=None, state=None, **changes: Any) -> int:
    """Makes everything written since the last commit the store's state.

    Nothing may be reading rows by this writer meanwhile. What the commit
    supersedes is deleted: readers that miss it go on with the new one
    (`NodeStore.follow`).

    Args:
      views: arrays of the photos, None leaves them.
      state: arrays of a training that are no node's row, None leaves them.
      **changes: fields of the header.

    Returns:
      The new generation.
    """
    generation = self.generation
    superseded = self._superseded(views, state)
    for name, arrays in (('views', views), ('state', state)):
      if arrays is not None:
        data = node_store.pack_arrays(arrays)
        self._values.write(f'{name}.{generation}', data)
        changes[f'{name}_version'] = generation
    pages = _changed_pages(self.store.tree, sorted(self._written), generation)
    _write_pages(self._values, pages, generation)
    header = dataclasses.replace(
        self.store.header, generation=generation, **changes
    )
    self._values.write(node_store.HEADER, node_store.header_to_json(header))
    self.store = node_store.NodeStore(self._values)
    self._written.clear()
    for name in superseded:
      self._values.delete(name)
    return generation

  def _superseded(self, views, state) -> list[str]:
    """Values that the commit under way leaves without a name."""
    header, keys = self.store.header, sorted(self._written)
    names = []
    if views is not None and header.views_version:
      names.append(node_store.views_name(header.views_version))
    if state is not None and header.state_version:
      names.append(node_store.state_name(header.state_version))
    for key, version in zip(keys, self.store.tree.versions(keys)):
      for group in header.groups if version else ():
        names.append(node_store.chunk_name(group.name, key, version))
    return names


def _changed_pages(
    tree: tree_pages.StoredTree, keys: Iterable[int], generation: int
) -> list[tree_pages.TreePage]:
  """Pages of the nodes with new versions, and those above them."""
  keys = np.array(list(keys), np.int64)
  changed = {}
  for root in np.unique(tree_pages.page_root(keys)) if len(keys) else ():
    page = _loaded(tree, root)
    mine = keys[tree_pages.page_root(keys) == root]
    versions = page.versions.copy()
    versions[np.searchsorted(page.keys, mine)] = generation
    changed[int(root)] = page._replace(versions=versions)
  waiting = list(changed)
  while waiting:
    root = waiting.pop()
    if root == tree_pages.ROOT_KEY:
      continue
    above = int(tree_pages.page_root(np.int64(root >> 3)))
    if above not in changed:
      changed[above] = _loaded(tree, above)
      waiting.append(above)
    page = changed[above]
    versions = page.page_versions.copy()
    versions[np.searchsorted(page.page_keys, root)] = generation
    changed[above] = page._replace(page_versions=versions)
  if tree_pages.ROOT_KEY not in changed:
    changed[tree_pages.ROOT_KEY] = _loaded(tree, tree_pages.ROOT_KEY)
  return [changed[root] for root in sorted(changed, reverse=True)]


def _loaded(tree, root) -> tree_pages.TreePage:
  (page,) = tree.pages([int(root)])
  if page is None:
    raise errors.InputError(
        f'tree page {int(root):x}: {tree.damage.get(int(root), "unreachable")},'
        ' expected one that can be read: nothing was committed'
    )
  return page
