"""What a node store says of itself: `store.json`, with a checksum."""

import dataclasses
import json
from typing import Any

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import row_codec
from kernels.hash_lookup import specs as grid_specs
from kernels.node_field import specs as field_specs

HEADER = 'store.json'
FORMAT = 'infnerf_jax.node_store'
FORMAT_VERSION = 1
# The contents of `experiments.export --kind`; others may join.
KIND = 'store'
PARAMETERS = 'parameters'


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


def _body_checksum(body) -> int:
  text = json.dumps(body, sort_keys=True, separators=(',', ':'))
  return row_codec.checksum(text.encode())


def to_json(header: Header) -> bytes:
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


def from_json(data: bytes, location: str) -> Header:
  """Inverse of `to_json`.

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
