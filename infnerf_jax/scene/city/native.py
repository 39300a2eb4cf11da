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

import numpy as np
from absl import logging

from infnerf_jax.geometry import cameras as cameras_lib
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
  """The library, or None where it cannot be built."""
  try:
    compiler = build.find_compiler()
    path = _library_path(compiler)
    if not path.exists():
      _compile(compiler, path)
    library = ctypes.CDLL(str(path))
  except (build.NativeUnavailable, OSError) as error:
    line = (str(error).splitlines() or ['unknown reason'])[0]
    logging.warning('city: rendering with JAX, not natively: %s', line)
    return None
  world = [ctypes.c_uint32, ctypes.c_int, _pointer(np.float32)]
  doubles = _pointer(np.float64)
  library.city_cast.argtypes = [
      ctypes.c_long,
      *[doubles] * 4,
      *world,
      ctypes.c_void_p,
      doubles,
  ]
  library.city_pixels.argtypes = [
      ctypes.c_long,
      _pointer(np.int32),
      ctypes.c_double,
      ctypes.c_int,
      *[doubles] * 3,
      ctypes.c_int,
      *world,
      _pointer(np.float32),
      doubles,
  ]
  library.city_cast.restype = library.city_pixels.restype = ctypes.c_long
  return library


def _pointer(dtype):
  return np.ctypeslib.ndpointer(dtype, flags='C_CONTIGUOUS')


def _world(seed, radius):
  sun = np.ascontiguousarray(materials.SUN, np.float32)
  return int(seed), int(radius), sun


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
  steps = _load().city_cast(
      num,
      exact(origins),
      exact(directions),
      exact(base),
      exact(slope),
      *_world(seed, radius),
      rgb.ctypes.data if with_rgb else None,
      distance,
  )
  return rgb, distance, steps


def render_pixels(pixels, size, offsets, camera, seed, radius):
  """Renders pixels of a camera without distortion on one core.

  Args:
    pixels: [M, 2] int32, column and row.
    size: width of a pixel in full-size pixels.
    offsets: [K, 2] float64 in (0, 1), K a square number.
    camera: single row, perspective or orthographic.
    seed: uint32, `layout.seed_word`.
    radius: `layout.radius_in_lots`.

  Returns:
    ([M, 3] float32 mean colours, [M] float64 distances of middle samples).
  """
  num = len(pixels)
  mean, distance = np.empty((num, 3), np.float32), np.empty(num, np.float64)
  _load().city_pixels(
      num,
      np.ascontiguousarray(pixels, np.int32),
      float(size),
      int(round(len(offsets) ** 0.5)),
      np.ascontiguousarray(offsets, np.float64),
      np.ascontiguousarray(camera.intrinsics, np.float64),
      np.ascontiguousarray(camera.cam_to_world, np.float64),
      int(camera.projection == cameras_lib.ORTHOGRAPHIC),
      *_world(seed, radius),
      mean,
      distance,
  )
  return mean, distance
