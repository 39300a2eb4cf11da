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

import dataclasses
import io
import json
import os
import threading
from typing import Any

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import key_values, row_codec, tree_pages
from kernels.hash_lookup import specs as grid_specs
from kernels.node_field import specs as field_specs

HEADER = 'store.json'
FORMAT = 'infnerf_jax.node_store'
FORMAT_VERSION = 1
# The contents of `experiments.export --kind`; others may join.
KIND = 'store'
PARAMETERS = 'parameters'
MOMENTS = 'moments'
_MAX_VIEWS = 1 << 31
# What reading a value may raise where the store cannot be trusted.
READ_ERRORS = (
    key_values.MissingError,
    key_values.UnreachableError,
    row_codec.DamagedError,
)


@dataclasses.dataclass(frozen=True)
class Header:
  """What a store says of itself.

  Attributes:
    generation: counts commits; versions of values are generations.
    views_version: version of `views`, 0 is none.
    state_version: version of `state`, 0 is none (see `row_store`).
    created: generation that wrote the tree; later ones are commits to it.
    num_nodes: of the tree.
    nodes_by_level: from the root.
    center: [3] metres, the root's.
    side: metres, the root's.
    grid_size: cells along a node's side at its finest grid scale.
    sample_aabb: [2, 3] metres; rays are clipped to it.
    appearance_dim: width of the appearance embedding.
    field: of `FieldSpec`, nested.
    groups: what a node's chunks hold.
    focus: (level, x, y, z) of a cell that is worth looking at.
    config: of the run, whole: rendering needs parts of it.
    downscale: full-size pixels per pixel of training.
    georeference: the scene's `scene.json`, None without one.
    provenance: what the store was made with.
  """

  generation: int
  views_version: int
  num_nodes: int
  nodes_by_level: tuple[int, ...]
  center: tuple[float, float, float]
  side: float
  grid_size: int
  sample_aabb: tuple[tuple[float, ...], ...]
  appearance_dim: int
  field: dict[str, Any]
  groups: tuple[row_codec.RowGroup, ...]
  focus: tuple[int, int, int, int] = (0, 0, 0, 0)
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  downscale: float = 1.0
  georeference: Any = None
  provenance: Any = None
  state_version: int = 0
  created: int = 0

  @property
  def max_level(self) -> int:
    return len(self.nodes_by_level) - 1

  @property
  def root_gsd(self) -> float:
    return self.side / (2 * self.grid_size)

  def group(self, name: str = PARAMETERS) -> row_codec.RowGroup:
    """A group by its name."""
    for group in self.groups:
      if group.name == name:
        return group
    raise errors.InputError(
        f'node store: found no group {name!r}, expected one of'
        f' {", ".join(g.name for g in self.groups)}'
    )

  def model_spec(self, implementation=None) -> scene_model.ModelSpec:
    """Static facts of the model."""
    values = dict(self.field)
    grid = grid_specs.GridSpec(**values.pop('grid'))
    return scene_model.ModelSpec(
        field=field_specs.FieldSpec(grid=grid, **values),
        root_side=self.side,
        root_gsd=self.root_gsd,
        max_level=self.max_level,
        appearance_dim=self.appearance_dim,
        implementation=implementation or None,
    )

  def focus_octree(self) -> tree_lib.Octree:
    """The nodes from the root down to the focus, as a tree."""
    level, *cell = self.focus
    cells = [
        np.array([cell], np.int64) >> (level - depth)
        for depth in range(level + 1)
    ]
    return tree_lib.from_coords(
        cells, center=self.center, side=self.side, grid_size=self.grid_size
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


def _body_checksum(body) -> int:
  text = json.dumps(body, sort_keys=True, separators=(',', ':'))
  return row_codec.checksum(text.encode())


def header_to_json(header: Header) -> bytes:
  """The header with its format and checksum."""
  values = json_files.plain(
      {f.name: getattr(header, f.name) for f in dataclasses.fields(header)}
  )
  values['groups'] = [
      {**g._asdict(), 'fields': [f._asdict() for f in g.fields]}
      for g in header.groups
  ]
  body = json_files.plain(values)
  text = json.dumps(
      {
          'format': FORMAT,
          'format_version': FORMAT_VERSION,
          'kind': KIND,
          'crc32c': _body_checksum(body),
          'header': body,
      },
      indent=1,
  )
  return text.encode()


def header_from_json(data: bytes, location: str) -> Header:
  """Inverse of `header_to_json`.

  Raises:
    InputError: another format or version, or damaged.
  """
  where = f'{location}/{HEADER}'
  try:
    stored = json.loads(data)
    found = stored['format'], stored['format_version']
  except (ValueError, KeyError, TypeError):
    raise errors.InputError(
        f'{where}: cannot be read, expected the header of a node store'
    ) from None
  if found != (FORMAT, FORMAT_VERSION):
    raise errors.InputError(
        f'{where}: format: found {found[0]} version {found[1]}, expected'
        f' {FORMAT} version {FORMAT_VERSION}'
    )
  try:
    body = stored['header']
    if _body_checksum(body) != stored['crc32c']:
      raise ValueError('the checksum does not hold')
    values = dict(body)
    values['groups'] = tuple(
        row_codec.RowGroup(
            g['name'],
            g['precision'],
            tuple(
                row_codec.Field(f['name'], tuple(f['shape']), f['dtype'])
                for f in g['fields']
            ),
        )
        for g in body['groups']
    )
    for name in ('nodes_by_level', 'center', 'focus'):
      values[name] = tuple(values[name])
    values['sample_aabb'] = tuple(map(tuple, values['sample_aabb']))
    return Header(**values)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise errors.InputError(
        f'{where}: damaged ({str(e).splitlines()[0]}), expected the header'
        ' that was written'
    ) from None


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
    name = views_name(self.header.views_version)
    try:
      return unpack_arrays(self.values.read(name))
    except READ_ERRORS as e:
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
