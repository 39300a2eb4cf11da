"""JSON files that are whole or absent, never half written."""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from infnerf_jax import errors


def plain(value) -> Any:
  """A value as JSON has it.

  Args:
    value: nested dictionaries and sequences of numbers, text, paths and NumPy
      or JAX arrays.

  Returns:
    The same in dict, list, str, int, float, bool and None; numbers that are
    not finite become None, since JSON has no word for them.
  """
  if isinstance(value, dict):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, 'dtype'):
    return plain(np.asarray(value).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def write_text_atomic(path, text: str) -> None:
  """Replaces a file at once: readers see the old text or the new one.

  Args:
    path: file; its folder exists.
    text: what it shall hold.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(temporary, 'w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json_atomic(path, value) -> None:
  """Writes a value (see `plain`) as indented JSON, at once."""
  write_text_atomic(path, json.dumps(plain(value), indent=2) + '\n')


def read_json(path) -> Any:
  """Reads a JSON file.

  Args:
    path: file.

  Returns:
    Its value.

  Raises:
    InputError: it is missing, unreadable or not JSON.
  """
  try:
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except OSError as e:
    raise errors.InputError(f'{path}: {e.strerror}, expected a file') from e
  except ValueError as e:
    raise errors.InputError(f'{path}: {e}, expected JSON') from e
