"""Builds the C++ sources with the system's compiler, loads and registers them.

Libraries lie in $INFNERF_CACHE (default ~/.cache/infnerf_jax) under a hash of
sources, flags, headers' version, compiler and processor. Nothing happens at
import.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import threading

import jax
import jaxlib

_SOURCES = pathlib.Path(__file__).parent
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fno-math-errno",
    "-fopenmp-simd",
    "-shared",
    "-fPIC",
    "-pthread",
)
_NATIVE_FLAGS = (("-march=native",), ("-mcpu=native",), ())
_lock = threading.RLock()
_num_threads = None


class NativeUnavailable(RuntimeError):
  """The native backend cannot run here; the message says why."""


def find_compiler() -> str:
  """Path of the C++ compiler: $CXX, g++ or clang++.

  Raises:
    NativeUnavailable: there is none.
  """
  names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
  for name in names:
    path = shutil.which(name)
    if path:
      return path
  raise NativeUnavailable(f"no C++ compiler found (tried {', '.join(names)})")


def cache_dir() -> pathlib.Path:
  """Folder of built libraries, from $INFNERF_CACHE or the user's cache."""
  path = os.environ.get("INFNERF_CACHE")
  return pathlib.Path(path or "~/.cache/infnerf_jax").expanduser()


@functools.cache
def _cpu_name() -> str:
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return platform.processor()
  wanted = ("model name", "flags", "Features", "CPU part")
  lines = [x for x in text.splitlines() if x.startswith(wanted)]
  return "\n".join(sorted(set(lines)))


@functools.cache
def _compiler_version(compiler: str) -> str:
  done = subprocess.run(
      [compiler, "--version"], capture_output=True, text=True, check=False
  )
  return done.stdout


def _library_path(name, defines, compiler) -> pathlib.Path:
  digest = hashlib.sha256()
  for path in sorted(_SOURCES.glob("*.h")) + [_SOURCES / f"{name}.cc"]:
    digest.update(path.name.encode() + path.read_bytes())
  parts = (_FLAGS, _NATIVE_FLAGS, defines, jaxlib.__version__, _cpu_name())
  digest.update(repr((parts, _compiler_version(compiler))).encode())
  return cache_dir() / f"{name}-{digest.hexdigest()[:20]}.so"


def _compile(name, defines, compiler, target: pathlib.Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(suffix=".so", dir=target.parent)
  os.close(handle)
  macros = [f"-D{key}={value}" for key, value in defines]
  error = ""
  for native in _NATIVE_FLAGS:
    command = [compiler, *_FLAGS, *native, *macros]
    command += ["-isystem", jax.ffi.include_dir(), "-o", temporary]
    command += [str(_SOURCES / f"{name}.cc")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
      os.replace(temporary, target)
      return
    error = done.stderr.strip()
  os.unlink(temporary)
  raise NativeUnavailable(f"compiling {name}.cc failed: {error[-2000:]}")


class Library:
  """A loaded library; `target` names one of its handlers for jax.ffi."""

  def __init__(self, path: pathlib.Path, mode: int):
    self.path = path
    self.dll = ctypes.CDLL(str(path), mode=mode)
    self._targets = {}

  def target(self, symbol: str) -> str:
    """Registers the handler once and returns its name for ffi_call."""
    with _lock:
      if symbol not in self._targets:
        name = f"infnerf_{symbol}_{self.path.stem.rsplit('-', 1)[1]}"
        capsule = jax.ffi.pycapsule(getattr(self.dll, symbol))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
        self._targets[symbol] = name
      return self._targets[symbol]


@functools.cache
def _load_once(name: str, defines: tuple, mode: int) -> Library:
  compiler = find_compiler()
  path = _library_path(name, defines, compiler)
  try:
    if not path.exists():
      _compile(name, defines, compiler, path)
    return Library(path, mode)
  except OSError as error:
    raise NativeUnavailable(f"cannot build or load {path}: {error}") from error


def _pool() -> ctypes.CDLL:
  first = _load_once.cache_info().currsize == 0
  pool = _load_once("pool", (), ctypes.RTLD_GLOBAL).dll
  if first:
    pool.infnerf_set_num_threads(get_num_threads())
  return pool


def load(name: str, **defines: int) -> Library:
  """The library of `name`.cc compiled with these macros.

  Args:
    name: source in kernels/native without suffix.
    **defines: integer macros.

  Returns:
    The loaded library; the same object for the same arguments.

  Raises:
    NativeUnavailable: no compiler, or it failed.
  """
  with _lock:
    _pool()
    return _load_once(name, tuple(sorted(defines.items())), ctypes.RTLD_LOCAL)


def get_num_threads() -> int:
  """Threads of the native kernels (INFNERF_NUM_THREADS, else all cores)."""
  if _num_threads is not None:
    return _num_threads
  given = os.environ.get("INFNERF_NUM_THREADS")
  return max(1, int(given)) if given else len(os.sched_getaffinity(0))


def set_num_threads(num_threads: int) -> None:
  """Sets the number of threads of all native kernels; results do not change.

  Args:
    num_threads: at least 1.
  """
  global _num_threads
  if num_threads < 1:
    raise ValueError(f"num_threads: got {num_threads}, expected at least 1")
  with _lock:
    _num_threads = num_threads
    if _load_once.cache_info().currsize:
      _pool().infnerf_set_num_threads(num_threads)
