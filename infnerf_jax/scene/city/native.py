"""The ray caster in C++, built with the system's compiler at first use.

Where there is no compiler the same functions in JAX serve, 10 to 20 times
slower; one line in the log says so. Nothing happens at import.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import subprocess
import tempfile
import threading

from absl import logging
import numpy as np

from infnerf_jax.scene.city import materials
from kernels.native import build

_FOLDER = pathlib.Path(__file__).parent
_SOURCES = ('raycast.cc', 'materials.h')
# Contraction to fused multiply-adds would let the two definitions of the city
# differ where a pattern begins.
_FLAGS = (
    '-O3',
    '-std=c++17',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-ffp-contract=off',
    '-fopenmp-simd',
    '-shared',
    '-fPIC',
)
_NATIVE_FLAGS = (('-march=native',), ('-mcpu=native',), ())
_lock = threading.Lock()


def _compile(compiler: str, target: pathlib.Path) -> None:
  """Builds the library; it appears under its name when it is complete."""
  target.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(suffix='.so', dir=target.parent)
  os.close(handle)
  message = ''
  for native in _NATIVE_FLAGS:
    source = str(_FOLDER / _SOURCES[0])
    command = [compiler, *_FLAGS, *native, '-o', temporary, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
      os.replace(temporary, target)
      return
    message = done.stderr.strip()
  os.unlink(temporary)
  raise build.NativeUnavailable(f'compiling raycast.cc: {message[:500]}')


def _library_path(compiler: str) -> pathlib.Path:
  """A name for each version of sources, flags, compiler and processor."""
  digest = hashlib.sha256(repr((_FLAGS, compiler)).encode())
  for name in _SOURCES:
    digest.update((_FOLDER / name).read_bytes())
  try:
    info = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
    wanted = ('model name', 'flags', 'Features', 'CPU part')
    lines = {x for x in info.splitlines() if x.startswith(wanted)}
    digest.update('\n'.join(sorted(lines)).encode())
  except OSError:
    digest.update(platform.processor().encode())
  return build.cache_dir() / f'city-{digest.hexdigest()[:20]}.so'


@functools.cache
def _load():
  """The library's `city_cast`, or None where it cannot be built."""
  try:
    compiler = build.find_compiler()
    path = _library_path(compiler)
    if not path.exists():
      _compile(compiler, path)
    function = ctypes.CDLL(str(path)).city_cast
  except (build.NativeUnavailable, OSError) as error:
    line = (str(error).splitlines() or ['unknown reason'])[0]
    logging.warning('city: rendering with JAX, not natively: %s', line)
    return None
  pointer = lambda dtype: np.ctypeslib.ndpointer(dtype, flags='C_CONTIGUOUS')
  rays = [pointer(np.float64)] * 4
  function.argtypes = [
      ctypes.c_long,
      *rays,
      ctypes.c_uint32,
      ctypes.c_int,
      pointer(np.float32),
      ctypes.c_void_p,
      pointer(np.float64),
  ]
  function.restype = ctypes.c_long
  return function


def available() -> bool:
  """Whether the library is there; builds it at the first call."""
  with _lock:
    return _load() is not None


def cast(origins, directions, base, slope, seed, radius, with_rgb):
  """Casts rays on one core, without holding Python's lock.

  Args:
    origins: [R, 3] float64, metres, world.
    directions: [R, 3] float64, unit length.
    base: [R] float64, metres, radius of each ray's disc at its origin.
    slope: [R] float64, radius per metre.
    seed: uint32, `layout.seed_word`.
    radius: `layout.radius_in_lots`.
    with_rgb: whether to shade what rays hit.

  Returns:
    ([R, 3] float32 colours or None, [R] float64 distances, int lots walked).
  """
  num = len(origins)
  rgb = np.empty((num, 3), np.float32) if with_rgb else None
  distance = np.empty(num, np.float64)
  exact = lambda x: np.ascontiguousarray(x, np.float64)
  steps = _load()(
      num,
      exact(origins),
      exact(directions),
      exact(base),
      exact(slope),
      int(seed),
      int(radius),
      np.ascontiguousarray(materials.SUN, np.float32),
      rgb.ctypes.data if with_rgb else None,
      distance,
  )
  return rgb, distance, steps
