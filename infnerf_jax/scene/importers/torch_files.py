"""Reader of PyTorch's files for plain values and tensors; runs no code.

A .pt file is a zip archive with a pickle and the tensors' bytes. A pickle may
call anything; this reader's pickle can name nothing but tensors, their storage
types and ordered dictionaries, and its tensors must lie within their bytes.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax import errors

_MAX_PICKLE = 1 << 20
_MAX_STORAGE = 1 << 28
_STORAGES = {
    'DoubleStorage': '<f8',
    'FloatStorage': '<f4',
    'HalfStorage': '<f2',
    'LongStorage': '<i8',
    'IntStorage': '<i4',
    'ShortStorage': '<i2',
    'CharStorage': '<i1',
    'ByteStorage': '<u1',
    'BoolStorage': '?',
}


class _Refused(Exception):
  """What a file holds that is not read."""


class _Storage(NamedTuple):
  """Name of a kind of numbers."""

  dtype: str


def _tensor(values, offset, shape, stride, *unused) -> np.ndarray:
  """A tensor's numbers out of its storage's."""
  numbers = (offset, *shape, *stride)
  if not all(isinstance(n, int) and n >= 0 for n in numbers):
    raise _Refused('a tensor with a negative size')
  if len(shape) != len(stride) or len(shape) > 8:
    raise _Refused('a tensor whose sizes and strides differ')
  if math.prod(shape) > values.size:
    raise _Refused('a tensor larger than its bytes')
  last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
  if math.prod(shape) and last >= values.size:
    raise _Refused('a tensor outside of its bytes')
  if not math.prod(shape):
    return np.zeros(shape, values.dtype)
  index = np.full(shape, offset, np.int64)
  for axis, (n, s) in enumerate(zip(shape, stride)):
    index += (np.arange(n) * s).reshape([-1] + [1] * (len(shape) - 1 - axis))
  return values[index]


_NAMES = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    **{('torch', name): _Storage(dtype) for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
  """A pickle's reader that knows the names above and no other."""

  def __init__(self, file, archive: zipfile.ZipFile, prefix: str):
    super().__init__(file)
    self._archive, self._prefix = archive, prefix

  def find_class(self, module, name):
    if (module, name) not in _NAMES:
      raise _Refused(f'{module}.{name}, which is not read')
    return _NAMES[module, name]

  def persistent_load(self, pid):
    if not (
        isinstance(pid, tuple)
        and len(pid) == 5
        and pid[0] == 'storage'
        and isinstance(pid[1], _Storage)
    ):
      raise _Refused('an unknown kind of storage')
    data = _member(self._archive, f'{self._prefix}data/{pid[2]}', _MAX_STORAGE)
    dtype = np.dtype(pid[1].dtype)
    if len(data) % dtype.itemsize:
      raise _Refused('a storage cut in the middle of a number')
    return np.frombuffer(data, dtype)


def _member(archive, name: str, limit: int) -> bytes:
  """Bytes of an archive's file; none that unpack to more than they say."""
  try:
    info = archive.getinfo(name)
  except KeyError:
    raise _Refused(f'no {name}') from None
  if info.file_size > limit:
    raise _Refused(f'{name} of {info.file_size} bytes')
  with archive.open(info) as file:
    return file.read(limit + 1)


def load(path) -> Any:
  """Reads a file that `torch.save` wrote (PyTorch 1.6 or later).

  Args:
    path: file.

  Returns:
    Its dictionaries, lists, numbers and text; tensors as NumPy arrays.

  Raises:
    InputError: absent, damaged, older, or holding anything else.
  """
  path = pathlib.Path(path)
  try:
    with zipfile.ZipFile(path) as archive:
      names = [n for n in archive.namelist() if n.endswith('data.pkl')]
      if len(names) != 1:
        raise _Refused(f'{len(names)} data.pkl')
      content = _member(archive, names[0], _MAX_PICKLE)
      prefix = names[0].removesuffix('data.pkl')
      return _Unpickler(io.BytesIO(content), archive, prefix).load()
  except OSError as error:
    found = error.strerror or error
  except zipfile.BadZipFile:
    found = 'no zip archive'
  except Exception as error:  # A damaged pickle raises anything.
    found = ' '.join(str(error).split())[:120] or type(error).__name__
  raise errors.InputError(
      f'{path}: got {found}, expected tensors saved by PyTorch 1.6 or later'
  )
