"""Are COLMAP's binary files whole? Walks their records before pycolmap reads.

pycolmap takes lengths from where a cut file ends: it then returns zeros, or
allocates without bound. The records are little endian.
"""

import mmap
import pathlib
import struct

from infnerf_jax import errors

# Parameters by model id, as COLMAP numbers its models.
_NUM_PARAMS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2)
_POSE = 7 * 8


def _uint32(data, at: int) -> int:
  return struct.unpack_from('<I', data, at)[0]


def _uint64(data, at: int) -> int:
  return struct.unpack_from('<Q', data, at)[0]


def _after_camera(data, at: int) -> int:
  """id, model, width, height, parameters."""
  model = _uint32(data, at + 4)
  if model >= len(_NUM_PARAMS):
    raise struct.error(f'camera model number {model}')
  return at + 24 + 8 * _NUM_PARAMS[model]


def _after_image(data, at: int) -> int:
  """id, pose, camera, name ending in zero, observations."""
  end = data.find(b'\0', at + 8 + _POSE)
  if end < 0:
    raise struct.error('a name without end')
  return end + 9 + 24 * _uint64(data, end + 1)


def _after_point(data, at: int) -> int:
  """id, position, colour, error, track."""
  return at + 51 + 8 * _uint64(data, at + 43)


def _after_rig(data, at: int) -> int:
  """id, reference sensor, other sensors with an optional pose each."""
  sensors = _uint32(data, at + 4)
  at += 8 + (8 if sensors else 0)
  for _ in range(1, sensors):
    at += 9 + (_POSE if data[at + 8] else 0)
  return at


def _after_frame(data, at: int) -> int:
  """id, rig, pose, data of its sensors."""
  return at + 12 + _POSE + 16 * _uint32(data, at + 8 + _POSE)


_FILES = {
    'cameras.bin': _after_camera,
    'images.bin': _after_image,
    'points3D.bin': _after_point,
    'rigs.bin': _after_rig,
    'frames.bin': _after_frame,
}


def check_binary(model: pathlib.Path) -> None:
  """Refuses a model whose binary files are cut short or malformed.

  Args:
    model: folder; files that are absent are skipped.

  Raises:
    InputError: names the file.
  """
  for name, after in _FILES.items():
    path = model / name
    if path.is_file():
      _check(path, after)


def _check(path: pathlib.Path, after) -> None:
  size = path.stat().st_size
  done = count = 0
  try:
    if size < 8:
      raise struct.error('no room for a count')
    with open(path, 'rb') as file:
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count, at = _uint64(data, 0), 8
        for done in range(count):
          at = after(data, at)
          if at > size:
            raise struct.error('a record beyond the end')
  except (struct.error, IndexError):
    raise errors.InputError(
        f'{path}: got a file of {size} bytes that ends in record {done + 1} of '
        f'{count}, expected a whole COLMAP file'
    ) from None
  if at != size:
    raise errors.InputError(
        f'{path}: got {size - at} bytes after record {count}, expected the end '
        'of the file'
    )
