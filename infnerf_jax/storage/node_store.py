"""The node store: a model whose nodes are read one by one.

  store.json                    header; replaced at once by a commit
  views.N                       cameras and appearance of the photos
  state.N                       of a training: all that is no node's row
  tree/KEY.N                    pages of the tree (`tree_pages.py`)
  nodes/GROUP/PREFIX/KEY.N      chunks, one a node and group (`row_codec.py`)

KEY is the node_key in hexadecimal, N a version. Values are never changed once
they are written: a commit writes new versions and then the header, which names
the root's page and through it everything else. All values carry a crc32c that
is verified on read. Nothing is ever unpickled.
"""

import io
import os
import threading
from typing import Any

import numpy as np

from infnerf_jax import errors
from infnerf_jax.storage import (
  key_values,
  row_codec,
  store_header,
  tree_pages,
)  # fmt: skip
from kernels.node_field import specs as field_specs

# Of a store's header, for those who know the store alone.
HEADER, KIND = store_header.HEADER, store_header.KIND
Header = store_header.Header
header_to_json = store_header.to_json
header_from_json = store_header.from_json
PARAMETERS = store_header.PARAMETERS
MOMENTS = 'moments'
_MAX_VIEWS = 1 << 31
# What reading a value may raise where the store cannot be trusted.
READ_ERRORS = (
    key_values.MissingError,
    key_values.UnreachableError,
    row_codec.DamagedError,
)


def parameter_group(
    spec: field_specs.FieldSpec, precision: str
) -> row_codec.RowGroup:
  """The group of a node's parameters."""
  shapes = spec.weight_shapes(1)
  fields = [row_codec.Field('table', shapes['table'][1:])]
  for part in ('density', 'color'):
    for name, shape in sorted(shapes[part].items()):
      fields.append(row_codec.Field(f'{part}/{name}', shape[1:]))
  return row_codec.RowGroup(PARAMETERS, precision, tuple(fields))


def chunk_name(group: str, key: int, version: int) -> str:
  """Key of a node's chunk in the store; at most 4,096 to a folder."""
  return f'nodes/{group}/{int(key) >> 12:x}/{int(key):x}.{int(version)}'


def views_name(version: int) -> str:
  """Key of a version's table of views."""
  return f'views.{version}'


def state_name(version: int) -> str:
  """Key of a version of what a training holds beside rows."""
  return f'state.{version}'


def pack_arrays(arrays: dict[str, np.ndarray]) -> bytes:
  """Named arrays as a framed value; no objects."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return row_codec.frame(0, 0, buffer.getvalue())


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
  """Inverse of `pack_arrays`; DamagedError when it is not what was written."""
  _, payload = row_codec.unframe(data, 0, _MAX_VIEWS)
  with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
    return {name: stored[name] for name in stored.files}


def is_store(location) -> bool:
  """Whether a location is an address, or a folder with a store's header."""
  text = os.fspath(location)
  return '://' in text or os.path.isfile(os.path.join(text, HEADER))


class NodeStore:
  """A store that is open for reading; safe to share among threads."""

  def __init__(
      self, values: key_values.KeyValues, *, tree_bytes: int = 8 << 20
  ):
    """Reads the header and nothing else.

    Args:
      values: where the store is.
      tree_bytes: most bytes of tree pages that are kept.

    Raises:
      InputError: there is no store, it is damaged or of another version.
    """
    self.values = values
    self.location = values.location
    try:
      data = values.read(HEADER)
    except key_values.MissingError:
      raise errors.InputError(
          f'{self.location}: found no {HEADER}, expected a node store'
      ) from None
    except key_values.UnreachableError as e:
      raise errors.InputError(f'{e}, expected a node store') from None
    self.header = header_from_json(data, self.location)
    self.tree = tree_pages.StoredTree(
        values, self.header.generation, max_bytes=tree_bytes
    )
    self._following = threading.Lock()

  def follow(self, generation: int | None = None) -> bool:
    """Takes over a later commit to this store, if there is one.

    Args:
      generation: the one that left something to be desired, None is the
        present one.

    Returns:
      Whether what is read from now on is of a later one. A store that was
      replaced as a whole is another, which is to be opened anew.
    """
    with self._following:
      present = self.header
      if generation is not None and generation != present.generation:
        return True  # another thread was here
      try:
        header = header_from_json(self.values.read(HEADER), self.location)
      except (*READ_ERRORS, errors.InputError):
        return False
      replaced = header.created != present.created
      if replaced or header.generation == present.generation:
        return False
      self.header = header
      self.tree.restart(header.generation)
      return True

  def read_chunk(self, key: int, group: str = PARAMETERS) -> bytes:
    """A node's chunk as it is stored.

    A commit deletes what it supersedes: who still reads by the pages of an
    older generation goes on with the newer one.
    """
    while True:
      generation = self.header.generation
      try:
        return self._read_chunk(key, group)
      except key_values.MissingError:
        if not self.follow(generation):
          raise

  def _read_chunk(self, key, group) -> bytes:
    (version,) = self.tree.versions([key])
    if not version and self.tree.out_of_reach:
      raise key_values.UnreachableError(
          f'{self.location}: the tree page of node {int(key):x}'
      )
    return self.values.read(chunk_name(group, key, version))

  def read_row(
      self, key: int, group: str = PARAMETERS
  ) -> dict[str, np.ndarray]:
    """A node's arrays, checksum verified.

    Args:
      key: node_key of a node that exists.
      group: what to read of it.

    Returns:
      {name: array}.

    Raises:
      MissingError, UnreachableError, DamagedError: there is nothing to trust.
    """
    data = self.read_chunk(key, group)
    return row_codec.decode_row(self.header.group(group), int(key), data)

  def read_views(self) -> dict[str, np.ndarray]:
    """Arrays of the photos: cameras, appearance, names.

    Raises:
      InputError: they are missing or damaged.
    """
    while True:
      header = self.header
      name = views_name(header.views_version)
      try:
        return unpack_arrays(self.values.read(name))
      except READ_ERRORS as e:
        missing = isinstance(e, key_values.MissingError)
        if missing and self.follow(header.generation):
          continue
        raise errors.InputError(
            f'{self.location}/{name}: {e}, expected the photos of a store'
        ) from None

  def walk(self):
    """Pages of the whole tree, from the root down; damaged ones left out."""
    waiting = [tree_pages.ROOT_KEY]
    while waiting:
      (page,) = self.tree.pages([waiting.pop(0)])
      if page is not None:
        waiting.extend(int(key) for key in page.page_keys)
        yield page


def open_store(
    location, policy=key_values.ReadPolicy(), **options
) -> NodeStore:
  """Opens a store in a folder, on an http server or in a bucket."""
  values = key_values.TensorStoreKeyValues(location, policy)
  return NodeStore(values, **options)


def row_to_params(row: dict[str, np.ndarray]) -> dict[str, Any]:
  """{'table', 'density': {...}, 'color': {...}} of a parameter row."""
  params = {'table': row['table'], 'density': {}, 'color': {}}
  for name, array in row.items():
    part, _, weight = name.partition('/')
    if weight:
      params[part][weight] = array
  return params


def params_to_row(params, slot: int) -> dict[str, np.ndarray]:
  """Row `slot` of stacked parameters by the names of the group."""
  row = {'table': np.asarray(params['table'][slot], np.float32)}
  for part in ('density', 'color'):
    for name, array in params[part].items():
      row[f'{part}/{name}'] = np.asarray(array[slot], np.float32)
  return row


def verify(store: NodeStore, progress=None) -> list[dict[str, str]]:
  """Reads everything and lists what is damaged or missing.

  Args:
    store: open.
    progress: called with the number of chunks looked at.

  Returns:
    [{'chunk', 'reason'}], empty for a whole store.
  """
  damage, count = [], 0
  for page in store.walk():
    for key in page.keys:
      for group in store.header.groups:
        count += 1
        try:
          store.read_row(int(key), group.name)
        except READ_ERRORS as e:
          (version,) = store.tree.versions([key])
          name = chunk_name(group.name, int(key), version)
          reason = 'missing' if isinstance(e, KeyError) else str(e)
          damage.append({'chunk': name, 'reason': reason})
        if progress is not None:
          progress(count)
  for key, reason in sorted(store.tree.damage.items()):
    damage.append({'chunk': f'tree/{key:x}', 'reason': reason})
  if store.header.views_version:
    try:
      store.read_views()
    except errors.InputError as e:
      name = views_name(store.header.views_version)
      damage.append({'chunk': name, 'reason': str(e)})
  return damage
