"""Training state on disk: a node store whose rows carry moments.

A node's row is its parameters (the group that rendering reads) and its
optimiser state (`moments`); all that is no node's row is the store's `state`.
Rows leave memory and come back between commits; `commit` makes a step's rows
and its `state` the store's content at once, so a run that is killed goes on
from its last commit. Nodes that never left memory have no chunk: their first
values follow from the seed.
"""

from typing import Any

import numpy as np

from infnerf_jax import errors
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import (
  key_values,
  leaves,
  node_store,
  node_store_writer,
  row_codec,
)  # fmt: skip

# What optimisation leaves hardly compresses: only zeros are worth the time.
_ZSTD_LEVEL = -1


def moment_group(moments) -> row_codec.RowGroup:
  """The group of a node's optimiser state.

  Args:
    moments: pytree of one node's arrays, or of their shapes and types.
  """
  fields = [
      row_codec.Field(name, tuple(leaf.shape), np.dtype(leaf.dtype).name)
      for name, leaf in sorted(leaves.named_leaves(moments).items())
  ]
  return row_codec.RowGroup(node_store.MOMENTS, 'float32', tuple(fields))


class RowStore:
  """Rows by node_key.

  `read` and `write` may run in threads of their own, not for the same node at
  once; `commit` alone. Several processes may write rows of different nodes,
  where each tells (`note_written`) what the others write; one of them commits
  while none writes, and all others `reopen` the store then.

  Attributes:
    location: folder.
    bytes_read: of chunks, since opening.
    bytes_written: likewise.
  """

  def __init__(self, location, *, sweep: bool = True):
    """Opens what `create` made, and drops what a killed run left.

    Args:
      location: folder.
      sweep: whether to drop it; nobody may be writing then.

    Raises:
      InputError: there is none, or it is damaged.
    """
    values = key_values.TensorStoreKeyValues(location)
    self._writer = node_store_writer.StoreWriter(values, zstd_level=_ZSTD_LEVEL)
    if sweep:
      node_store_writer.sweep(values)
    self._values = values
    self.location = str(location)
    self.bytes_read = self.bytes_written = 0

  @property
  def header(self) -> node_store.Header:
    return self._writer.store.header

  def read(self, key: int) -> dict[str, dict[str, np.ndarray]] | None:
    """A node's newest row.

    Args:
      key: node_key.

    Returns:
      {group: {name: array}}; None: it was never written.

    Raises:
      InputError: its chunks are damaged or missing.
    """
    try:
      if not self._writer.is_written(key):
        return None
      row = {}
      for group in self.header.groups:
        data = self._writer.read_chunk(key, group.name)
        self.bytes_read += len(data)
        row[group.name] = row_codec.decode_row(group, int(key), data)
      return row
    except node_store.READ_ERRORS as e:
      what = 'missing' if isinstance(e, KeyError) else e
      raise errors.InputError(
          f'{self.location}: node {int(key):x}: {what}, expected the row that'
          ' training wrote'
      ) from None

  def write(self, key: int, row: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes a node's row; it counts after the next commit."""
    self.bytes_written += self._writer.write_row(key, row)

  def note_written(self, key: int) -> None:
    """Another process writes a node's row before the next commit."""
    self._writer.note_written(key)

  def reopen(self) -> None:
    """Follows another process's commit."""
    self._writer.reopen()

  def read_state(self) -> dict[str, Any]:
    """What the last commit said of all that is no row, nested by name.

    Raises:
      InputError: it is damaged or missing.
    """
    name = node_store.state_name(self.header.state_version)
    try:
      arrays = node_store.unpack_arrays(self._values.read(name))
    except node_store.READ_ERRORS as e:
      raise errors.InputError(
          f'{self.location}/{name}: {e}, expected the state that training wrote'
      ) from None
    return arrays

  def commit(self, *, views, state, **changes: Any) -> None:
    """Makes all that was written the store's content, at once.

    Args:
      views: arrays of the photos, for rendering.
      state: {name: array}, of all that is no node's row.
      **changes: fields of the header.
    """
    self._writer.commit(views=views, state=state, **changes)


def create(
    location, header: node_store.Header, octree: tree_lib.Octree
) -> RowStore:
  """Makes a store of a tree whose nodes have no chunks yet.

  Args:
    location: folder; a store there is replaced.
    header: its groups are `parameters` and `moments`; what follows from the
      tree is filled in.
    octree: tree.

  Returns:
    RowStore; it holds no `state` before its first commit.
  """
  node_store_writer.create_store(location, header, octree, None)
  return RowStore(location)


def is_row_store(location) -> bool:
  """Whether a folder holds a training's store with a commit."""
  if not node_store.is_store(location):
    return False
  header = node_store.open_store(location).header
  return bool(header.state_version)
