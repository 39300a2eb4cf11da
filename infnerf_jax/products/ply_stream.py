"""PLY files of any size: rows go to the disk as they come.

A PLY file begins with its counts, which are known last; so the rows wait in
`FILE.part.vertex` and `FILE.part.face`, and FILE appears when it is complete.
"""

import contextlib
import os
import pathlib
import shutil

import numpy as np

from infnerf_jax import errors

VERTEX = np.dtype(
    [(name, '<f4') for name in ('x', 'y', 'z', 'nx', 'ny', 'nz')]
    + [(name, 'u1') for name in ('red', 'green', 'blue')]
)
FACE = np.dtype([('count', 'u1'), ('vertex_indices', '<i4', (3,))])
_TYPES = {'<f4': 'float', '|u1': 'uchar'}


class PlyStream:
  """Writes vertices and triangles; a context manager.

  Nothing is left of a file whose writing fails.
  """

  def __init__(self, path, *, comments=()):
    """Opens the parts.

    Args:
      path: FILE.ply.
      comments: lines of the header.

    Raises:
      InputError: the file cannot be written.
    """
    self.path = pathlib.Path(path)
    if self.path.suffix.lower() != '.ply':
      raise errors.InputError(f'--out: got {path}, expected FILE.ply')
    self.num_vertices = self.num_faces = 0
    self._comments = [' '.join(str(line).split()) for line in comments]
    self._parts, self._names = {}, []
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      if self.path.is_dir():
        raise IsADirectoryError(21, 'Is a directory')
      for kind in ('vertex', 'face'):
        name = self.path.with_name(f'{self.path.name}.part.{kind}')
        self._parts[kind] = open(name, 'wb')
        self._names.append(name)
    except OSError as error:
      self._remove()
      raise errors.InputError(
          f'--out: {path}: {error.strerror}, expected a file that can be'
          ' written'
      ) from None

  def __enter__(self):
    return self

  def __exit__(self, error_type, *unused):
    try:
      if error_type is None:
        self._finish()
    finally:
      self._remove()

  def add_vertices(self, positions, normals, colors) -> int:
    """Appends vertices.

    Args:
      positions: [N, 3] metres.
      normals: [N, 3] unit.
      colors: [N, 3] uint8.

    Returns:
      Index of the first of them.
    """
    rows = np.empty(len(positions), VERTEX)
    for i, (axis, normal) in enumerate(zip('xyz', ('nx', 'ny', 'nz'))):
      rows[axis], rows[normal] = positions[:, i], normals[:, i]
    for i, name in enumerate(('red', 'green', 'blue')):
      rows[name] = colors[:, i]
    # Not `tofile`, whose error does not say that the disk is full.
    self._parts['vertex'].write(rows.tobytes())
    first = self.num_vertices
    self.num_vertices += len(rows)
    return first

  def add_faces(self, faces) -> None:
    """Appends triangles: [M, 3] indices of vertices."""
    rows = np.empty(len(faces), FACE)
    rows['count'], rows['vertex_indices'] = 3, faces
    self._parts['face'].write(rows.tobytes())
    self.num_faces += len(rows)

  def _header(self) -> bytes:
    lines = ['ply', 'format binary_little_endian 1.0']
    lines += [f'comment {line}' for line in self._comments]
    lines.append(f'element vertex {self.num_vertices}')
    for name in VERTEX.names:
      lines.append(f'property {_TYPES[VERTEX[name].str]} {name}')
    if self.num_faces:
      lines.append(f'element face {self.num_faces}')
      lines.append('property list uchar int vertex_indices')
    lines.append('end_header')
    return ('\n'.join(lines) + '\n').encode('ascii', 'replace')

  def _finish(self) -> None:
    partial = self.path.with_name(f'{self.path.name}.part')
    self._names.append(partial)
    for part in self._parts.values():
      part.flush()
    with open(partial, 'wb') as out:
      out.write(self._header())
      for part in self._parts.values():
        with open(part.name, 'rb') as rows:
          shutil.copyfileobj(rows, out, 1 << 20)
      out.flush()
      os.fsync(out.fileno())
    os.replace(partial, self.path)

  def _remove(self) -> None:
    for part in self._parts.values():
      with contextlib.suppress(OSError):  # what does not fit is not wanted
        part.close()
    for name in self._names:
      name.unlink(missing_ok=True)
