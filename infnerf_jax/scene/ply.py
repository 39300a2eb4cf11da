"""Sparse points as PLY files."""

import pathlib

import numpy as np
import plyfile

from infnerf_jax import errors
from infnerf_jax.scene import photo_files, scene

_COLORS = (
    ('red', 'green', 'blue'),
    ('r', 'g', 'b'),
    ('diffuse_red', 'diffuse_green', 'diffuse_blue'),
)
_GREY = 128


def read(path: pathlib.Path) -> tuple[scene.Points, np.ndarray]:
  """Points of a PLY file, without those that are not finite.

  Args:
    path: ASCII or binary PLY with x, y, z and optionally red, green, blue.

  Returns:
    (points, [V] bool rows of the file that were kept).

  Raises:
    InputError: malformed, empty, without positions or all not finite.
  """
  try:
    vertices = plyfile.PlyData.read(path, mmap=False)['vertex'].data
    names = vertices.dtype.names or ()
    missing = [axis for axis in 'xyz' if axis not in names]
    if missing:
      raise errors.InputError(
          f'{path}: vertex: got no {", ".join(missing)}, expected x, y, z'
      )
    positions = np.stack([vertices[a].astype(np.float64) for a in 'xyz'], -1)
    colors = _colors(vertices, names)
  except errors.InputError:
    raise
  except Exception as error:  # plyfile raises its own and NumPy's kinds
    raise errors.InputError(
        f'{path}: got {photo_files.reason(error)}, expected a PLY file with '
        'element vertex'
    ) from None
  kept = np.isfinite(positions).all(axis=-1)
  if not kept.any():
    raise errors.InputError(
        f'{path}: vertex: got {len(kept)} points, 0 of them finite, expected '
        'at least one'
    )
  return scene.Points(positions[kept], colors[kept]), kept


def _colors(vertices, names) -> np.ndarray:
  """[V, 3] uint8; grey where the file has no colours."""
  for triple in _COLORS:
    if all(name in names for name in triple):
      values = np.stack([vertices[name] for name in triple], axis=-1)
      if np.issubdtype(values.dtype, np.floating):
        values = np.round(np.nan_to_num(values) * 255)
      return np.clip(values, 0, 255).astype(np.uint8)
  return np.full((len(vertices), 3), _GREY, np.uint8)


def write(path: pathlib.Path, points: scene.Points) -> None:
  """Writes points as binary little-endian PLY without losing a bit.

  Args:
    path: file.
    points: positions become float where that is exact, else double.
  """
  positions = np.asarray(points.positions, np.float64)
  exact = np.array_equal(positions.astype(np.float32), positions)
  kind = '<f4' if exact else '<f8'
  dtype = [(axis, kind) for axis in 'xyz']
  dtype += [(name, 'u1') for name in _COLORS[0]]
  vertices = np.empty(len(positions), dtype)
  for i, axis in enumerate('xyz'):
    vertices[axis] = positions[:, i]
  for i, name in enumerate(_COLORS[0]):
    vertices[name] = points.colors[:, i]
  element = plyfile.PlyElement.describe(vertices, 'vertex')
  plyfile.PlyData([element], byte_order='<').write(path)
