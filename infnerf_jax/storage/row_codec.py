"""Rows of a node store as bytes: quantised, compressed, checksummed.

A row is what one node holds: named arrays of fixed shapes, the same for all
nodes of a store. Arrays of one precision belong to one group (the parameters,
the optimiser's moments), and a group of one node is one chunk:

  magic 4 bytes | frame version u8 | precision u8 | reserved u16 |
  node_key i64 | payload length u32 | payload (zstd) | crc32c u32

The checksum covers all before it. Payloads hold each array's bytes as planes
(all lowest bytes, then all second bytes, ...): exponents repeat, and zstd sees
them side by side.
"""

import struct
from typing import NamedTuple

import google_crc32c
import ml_dtypes
import numpy as np
import zstandard

PRECISIONS = ('float32', 'bfloat16', 'int8')
# Values that share a scale; 2 bytes of scale cost 3 % of the row.
_BLOCK = 64
_MAGIC = b'INFR'
_FRAME = struct.Struct('<4sBBHqI')
_CHECKSUM = struct.Struct('<I')
_FRAME_VERSION = 1
# Level 3 is zstd's default; higher ones gain 1 % on quantised features.
_ZSTD_LEVEL = 3


class DamagedError(ValueError):
  """Bytes that are not what was written; one line that says why."""


class Field(NamedTuple):
  """One array of a row.

  Attributes:
    name: as `storage.leaves` has it (`density/w0`).
    shape: of one node's array.
    dtype: NumPy's name; only float32 is ever quantised.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str = 'float32'

  @property
  def size(self) -> int:
    return int(np.prod(self.shape, dtype=np.int64))

  @property
  def nbytes(self) -> int:
    return self.size * np.dtype(self.dtype).itemsize


class RowGroup(NamedTuple):
  """Arrays that are read and written together, in one chunk a node.

  Attributes:
    name: `parameters`, `moments`.
    precision: out of PRECISIONS.
    fields: in the order of the payload.
  """

  name: str
  precision: str
  fields: tuple[Field, ...]

  @property
  def nbytes(self) -> int:
    """Bytes of a decoded row."""
    return sum(field.nbytes for field in self.fields)


def checksum(data: bytes) -> int:
  """crc32c of bytes."""
  return google_crc32c.value(data)


def frame(
    node_key: int,
    precision: int,
    payload: bytes,
    *,
    zstd_level: int = _ZSTD_LEVEL,
) -> bytes:
  """Compresses and frames a payload."""
  payload = zstandard.ZstdCompressor(level=zstd_level).compress(payload)
  head = _FRAME.pack(
      _MAGIC, _FRAME_VERSION, precision, 0, node_key, len(payload)
  )
  framed = head + payload
  return framed + _CHECKSUM.pack(checksum(framed))


def unframe(data: bytes, node_key: int, max_bytes: int) -> tuple[int, bytes]:
  """Checks a frame and decompresses it.

  Args:
    data: what `frame` gave.
    node_key: whose it must be.
    max_bytes: of the payload, so that a hostile file cannot fill the memory.

  Returns:
    (precision, payload).

  Raises:
    DamagedError: anything but what was written.
  """
  least = _FRAME.size + _CHECKSUM.size
  if len(data) < least:
    raise DamagedError(f'found {len(data)} bytes, expected at least {least}')
  (stored,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
  found = checksum(data[: -_CHECKSUM.size])
  magic, version, precision, _, key, length = _FRAME.unpack_from(data)
  if found != stored:
    raise DamagedError(f'found crc32c {found:08x}, expected {stored:08x}')
  if magic != _MAGIC or version != _FRAME_VERSION:
    raise DamagedError(
        f'found frame {magic!r} version {version}, expected {_MAGIC!r}'
        f' version {_FRAME_VERSION}'
    )
  if key != node_key:
    raise DamagedError(f'found node_key {key:x}, expected {node_key:x}')
  body = data[_FRAME.size : -_CHECKSUM.size]
  if len(body) != length:
    raise DamagedError(f'found {len(body)} payload bytes, expected {length}')
  try:
    payload = zstandard.ZstdDecompressor().decompress(
        body, max_output_size=max_bytes
    )
  except zstandard.ZstdError as e:
    raise DamagedError(f'payload: {e}') from e
  if len(payload) > max_bytes:
    raise DamagedError(f'found {len(payload)} bytes, expected {max_bytes}')
  return precision, payload


def _to_planes(array: np.ndarray) -> bytes:
  """Bytes of an array, place by place."""
  raw = np.ascontiguousarray(array).reshape(-1)
  return raw.view(np.uint8).reshape(len(raw), -1).T.tobytes()


def _from_planes(payload, offset, count, dtype) -> tuple[np.ndarray, int]:
  """(`count` values of a type, where the next begin)."""
  dtype = np.dtype(dtype)
  end = offset + count * dtype.itemsize
  if end > len(payload):
    raise DamagedError(f'found {len(payload)} bytes, expected at least {end}')
  planes = np.frombuffer(payload, np.uint8, end - offset, offset)
  values = np.ascontiguousarray(planes.reshape(dtype.itemsize, count).T)
  return values.reshape(-1).view(dtype), end


def _encode_int8(values: np.ndarray) -> bytes:
  """Blocks of a shared scale: scales as bfloat16, then the integers."""
  num_blocks = -(-values.size // _BLOCK)
  padded = np.zeros(num_blocks * _BLOCK, np.float32)
  padded[: values.size] = values.reshape(-1)
  blocks = padded.reshape(num_blocks, _BLOCK)
  largest = np.abs(blocks).max(axis=1)
  # Rounded up by a bfloat16's step, so that no integer exceeds 127.
  scale = (largest / 127 * (1 + 2.0**-7)).astype(ml_dtypes.bfloat16)
  divisor = scale.astype(np.float32)
  divisor = np.where(divisor > 0, divisor, 1)[:, None]
  integers = np.clip(np.rint(blocks / divisor), -127, 127).astype(np.int8)
  return _to_planes(scale) + integers.reshape(-1)[: values.size].tobytes()


def _decode_int8(payload, offset, count) -> tuple[np.ndarray, int]:
  num_blocks = -(-count // _BLOCK)
  scale, offset = _from_planes(payload, offset, num_blocks, ml_dtypes.bfloat16)
  if offset + count > len(payload):
    raise DamagedError(f'found {len(payload)} bytes, expected more')
  integers = np.frombuffer(payload, np.int8, count, offset)
  values = integers.astype(np.float32)
  whole = count // _BLOCK * _BLOCK
  scale = scale.astype(np.float32)
  values[:whole].reshape(-1, _BLOCK)[:] *= scale[: whole // _BLOCK, None]
  values[whole:] *= scale[-1]
  return values, offset + count


def encode_row(
    group: RowGroup,
    node_key: int,
    row: dict[str, np.ndarray],
    *,
    zstd_level: int = _ZSTD_LEVEL,
) -> bytes:
  """One node's chunk.

  Args:
    group: what a row holds.
    node_key: goes into the frame.
    row: {name: array} with the group's names and shapes.
    zstd_level: effort of the compression.

  Returns:
    bytes.

  Raises:
    ValueError: other shapes, or values that no integer can stand for.
  """
  parts = []
  for field in group.fields:
    array = np.asarray(row[field.name])
    if array.shape != field.shape or array.dtype.name != field.dtype:
      raise ValueError(
          f'{field.name}: got {array.dtype.name}{array.shape}, expected'
          f' {field.dtype}{field.shape}'
      )
    if field.dtype != 'float32' or group.precision == 'float32':
      parts.append(_to_planes(array))
    elif not np.all(np.isfinite(array)):
      raise ValueError(
          f'{field.name} of node {node_key:x}: got values that are not finite,'
          f' expected finite ones for precision {group.precision}'
      )
    elif group.precision == 'bfloat16':
      parts.append(_to_planes(array.astype(ml_dtypes.bfloat16)))
    else:
      parts.append(_encode_int8(array))
  precision = PRECISIONS.index(group.precision)
  payload = b''.join(parts)
  return frame(node_key, precision, payload, zstd_level=zstd_level)


def decode_row(
    group: RowGroup, node_key: int, data: bytes
) -> dict[str, np.ndarray]:
  """Inverse of `encode_row`, checksum included.

  Args:
    group: what a row holds.
    node_key: whose chunk it must be.
    data: chunk.

  Returns:
    {name: array of the field's shape and type}.

  Raises:
    DamagedError: the bytes are not what was written.
  """
  # Scales and a little more than the decoded row bound any payload.
  precision, payload = unframe(data, node_key, 2 * group.nbytes + 4096)
  if precision != PRECISIONS.index(group.precision):
    raise DamagedError(
        f'found precision {precision}, expected {group.precision}'
    )
  row, offset = {}, 0
  for field in group.fields:
    if field.dtype != 'float32' or group.precision == 'float32':
      values, offset = _from_planes(payload, offset, field.size, field.dtype)
    elif group.precision == 'bfloat16':
      values, offset = _from_planes(
          payload, offset, field.size, ml_dtypes.bfloat16
      )
      values = values.astype(np.float32)
    else:
      values, offset = _decode_int8(payload, offset, field.size)
    row[field.name] = values.reshape(field.shape)
  if offset != len(payload):
    raise DamagedError(f'found {len(payload)} bytes, expected {offset}')
  return row
