"""Whether Triton kernels can run here, and for which device they are meant."""

import contextlib
import importlib
import importlib.util
import os
import threading
from typing import Callable

import jax

# Ampere: for older ones the node field's kernels spill kilobytes a thread.
MIN_CAPABILITY = 80
_state = threading.local()
_lock = threading.RLock()
_tested = {}


class TritonUnavailable(RuntimeError):
  """Triton kernels cannot run here; the message says why in one line."""


def interpreting() -> bool:
  """Whether this process runs kernels in Triton's interpreter.

  Triton reads TRITON_INTERPRET when it is imported: a process of its own.
  """
  return os.environ.get("TRITON_INTERPRET") == "1"


def target() -> int | None:
  """Compute capability given by `targeting`, else None: the device's own."""
  return getattr(_state, "target", None)


@contextlib.contextmanager
def targeting(compute_capability: int):
  """Traces for a GPU that is not here, see lowering.export.

  Args:
    compute_capability: for example 90.

  Yields:
    Nothing. What was traced before is forgotten, and afterwards again: the
    choice of implementations is made while tracing.
  """
  before = target()
  jax.clear_caches()
  _state.target = compute_capability
  try:
    yield
  finally:
    _state.target = before
    jax.clear_caches()


def recorded() -> list | None:
  """What `record` has noted so far; None where calls are made."""
  return getattr(_state, "recorded", None)


@contextlib.contextmanager
def record():
  """Notes kernel calls instead of making them; for use with jax.eval_shape.

  Yields:
    A list that grows by one calls.KernelCall for each call.
  """
  before = recorded()
  _state.recorded = []
  try:
    yield _state.recorded
  finally:
    _state.recorded = before


def platform() -> str:
  """Platform that ops are traced for: "cpu", "gpu" or another of JAX's."""
  return "gpu" if target() else jax.default_backend()


def compute_capability() -> int | None:
  """That of what is traced for, by which sizes may differ; None: no GPU."""
  if target() or interpreting() or jax.default_backend() != "gpu":
    return target()
  version = str(getattr(jax.local_devices()[0], "compute_capability", ""))
  return int(version.replace(".", "")) if version else None


def _problem(compute_capability: int) -> str:
  if compute_capability < MIN_CAPABILITY:
    return (
        f"got compute capability {compute_capability / 10:.1f}, expected"
        f" {MIN_CAPABILITY / 10:.1f} or later"
    )
  return ""


def _device_problem() -> str:
  if jax.default_backend() != "gpu":
    return f"got platform {jax.default_backend()}, expected an NVIDIA GPU"
  for device in jax.local_devices():
    version = str(getattr(device, "compute_capability", ""))
    if not version.replace(".", "").isdigit() or "." not in version:
      return f"got device {device.device_kind}, expected an NVIDIA GPU"
    problem = _problem(int(version.replace(".", "")))
    if problem:
      return f"{device.device_kind}: {problem}"
  return ""


def problem() -> str:
  """Why Triton kernels cannot run here, in one line; empty if they can."""
  if importlib.util.find_spec("triton") is None:
    return "triton is not installed, see requirements-gpu.txt"
  if interpreting() or recorded() is not None:
    return ""
  # The device first: jax_triton does not import everywhere.
  found = _problem(target()) if target() else _device_problem()
  if found:
    return found
  try:
    importlib.import_module("jax_triton")
  except ImportError as error:
    return f"jax_triton does not import: {str(error).splitlines()[0]}"
  return ""


def require(op: str) -> None:
  """Raises TritonUnavailable with one line unless Triton kernels can run."""
  found = problem()
  if found:
    raise TritonUnavailable(f"{op}: triton: {found}")


def trust(op: str, key, test: Callable[[], None]) -> None:
  """Runs an op's self-test once a process on the device that is there.

  Nothing is run for a device that is not here, nor in the interpreter, where
  the tests do it.

  Args:
    op: name for messages.
    key: hashable, what the kernels are specialised for.
    test: raises AssertionError when Triton and reference disagree.

  Raises:
    TritonUnavailable: the test failed.
  """
  if target() or interpreting() or recorded() is not None:
    return
  key = (op, key)
  with _lock:
    if key not in _tested:
      _tested[key] = ""  # the test itself calls the op
      _tested[key] = _run(op, test)
    if _tested[key]:
      raise TritonUnavailable(_tested[key])


def _run(op, test) -> str:
  try:
    # The op may be called while a function is traced: leave that trace.
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
      test()
  except Exception as error:  # a compiler's or a driver's may be of any class
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{op}: triton: self-test failed: {first}"
  return ""
