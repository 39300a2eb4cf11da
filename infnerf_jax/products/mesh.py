"""A trained scene as a coloured triangle mesh.

The surface is where a cell of the grid lets half of the light through:
`1 - exp(-density * spacing) = 1/2`. Marching cubes (scikit-image) runs tile by
tile; tiles share the grid's points, and the vertices on their common faces
are written once.
"""

from typing import Any, Callable, Protocol

import numpy as np
from skimage import measure

from infnerf_jax import errors
from infnerf_jax.products import ply_stream
from infnerf_jax.products import region as region_lib

# Cells along a tile's side: 65^3 points, about 30 MB with their features.
_TILE = 64
_HALF = 0.5


class PointSource(Protocol):
  """What is turned into a mesh."""

  def density(self, points) -> np.ndarray:
    """[N] per metre at [N, 3] float64 points in metres."""

  def colors(self, points, directions) -> np.ndarray:
    """[N, 3] in [0, 1], seen along unit directions [N, 3]."""


def tile_surface(source: PointSource, low, cells, spacing: float):
  """The surface within one tile.

  Args:
    source: density.
    low: [3] float64, the tile's corner, metres.
    cells: [3] its cells.
    spacing: metres, a cell's side.

  Returns:
    (vertices [V, 3] float64 in cells from the corner, faces [F, 3], normals
    [V, 3] unit, outward), or None where there is none.
  """
  shape = tuple(int(n) + 1 for n in cells)
  grid = np.stack(
      np.meshgrid(*(np.arange(n) for n in shape), indexing='ij'), axis=-1
  ).reshape(-1, 3)
  density = source.density(low + spacing * grid)
  alpha = -np.expm1(-np.asarray(density, np.float64) * spacing)
  alpha = alpha.astype(np.float32).reshape(shape)
  if alpha.min() >= _HALF or alpha.max() <= _HALF:
    return None
  vertices, faces, normals, _ = measure.marching_cubes(alpha, _HALF)
  # Its faces turn the other way round for what is dense inside.
  return vertices.astype(np.float64), faces[:, ::-1], normals


class _Borders:
  """Vertices on the faces that tiles share, by the grid's edge they lie on."""

  def __init__(self, tile: int):
    self._tile, self._known = tile, {}

  def place(self, vertices, first, add):
    """Indices [V] of a tile's vertices in the file.

    Args:
      vertices: [V, 3] in cells of the whole grid.
      first: [3] the tile's first cell.
      add: writes the vertices of a mask [V] and returns the first's index.
    """
    local = vertices - first
    on_border = (local == 0) | (local == self._tile)
    shared = on_border.any(axis=-1)
    keys = self._keys(vertices[shared])
    rows = np.flatnonzero(shared)
    index = np.full(len(vertices), -1, np.int64)
    for row, key in zip(rows, keys, strict=True):
      index[row] = self._known.get(key, -1)
    is_new = index < 0
    # Vertices of equal keys within the tile are one too.
    own = {}
    for row, key in zip(rows, keys, strict=True):
      if is_new[row] and own.setdefault(key, row) != row:
        is_new[row] = False
    index[is_new] = add(is_new) + np.arange(is_new.sum())
    for row, key in zip(rows, keys, strict=True):
      if index[row] < 0:
        index[row] = index[own[key]]
      self._known[key] = int(index[row])
    return index

  @staticmethod
  def _keys(vertices):
    """The grid's edge that each vertex lies on: (cell, axis)."""
    cell = np.floor(vertices).astype(np.int64)
    part = vertices - cell
    # A vertex on a grid point has no axis; 3 stands for that.
    axis = np.where(part.max(axis=-1) > 0, part.argmax(axis=-1), 3)
    return [(*c, a) for c, a in zip(cell.tolist(), axis.tolist(), strict=True)]


def write_mesh(
    source: PointSource,
    region: region_lib.Region,
    out,
    *,
    comments=(),
    progress: Callable[[int], None] | None = None,
    tile: int = _TILE,
) -> dict[str, Any]:
  """Writes the surface of a region; memory is that of a tile.

  Args:
    source: density and colour.
    region: where, how fine.
    out: FILE.ply: vertices in the scene's metres with normals and colours (as
      seen from straight in front), triangles.
    comments: lines of the file's header.
    progress: called with the number of tiles done.
    tile: cells along a tile's side.

  Returns:
    `vertices`, `faces`, `spacing` in metres, `level`, `tiles`.

  Raises:
    InputError: no surface there, or the file cannot be written.
  """
  borders = _Borders(tile)
  with ply_stream.PlyStream(out, comments=comments) as stream:
    for i, (first, cells) in enumerate(region.tiles(tile)):
      low = region.low + first * region.spacing
      surface = tile_surface(source, low, cells, region.spacing)
      if surface is not None:
        _add_surface(stream, borders, source, region, first, surface)
      if progress is not None:
        progress(i + 1)
    if not stream.num_faces:
      raise errors.InputError(
          '--bounds: got a region without a surface at level'
          f' {region.level}, expected one where the scene is'
      )
  return {
      'vertices': stream.num_vertices,
      'faces': stream.num_faces,
      'spacing': region.spacing,
      'level': region.level,
      'tiles': region.num_tiles(tile),
  }


def _add_surface(stream, borders, source, region, first, surface) -> None:
  """Appends a tile's surface."""
  vertices, faces, normals = surface
  vertices = vertices + first
  positions = region.low + region.spacing * vertices

  def add(mask):
    rgb = source.colors(positions[mask], -normals[mask])
    colors = np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
    return stream.add_vertices(positions[mask], normals[mask], colors)

  index = borders.place(vertices, first, add)
  faces = index[faces]
  # Where vertices fell together a triangle has become a line.
  flat = (faces == np.roll(faces, 1, axis=-1)).any(axis=-1)
  stream.add_faces(faces[~flat])


def num_tiles(region: region_lib.Region) -> int:
  """Tiles of `write_mesh`, for a progress bar."""
  return region.num_tiles(_TILE)
