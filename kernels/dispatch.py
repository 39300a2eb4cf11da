"""Choice of an op's implementation.

An explicitly named one runs or raises; None takes native on CPU if it builds
and passes its self-test, triton on an NVIDIA GPU if it passes its own, else
xla.
"""

import functools
import importlib
import threading
import types
from typing import Callable

import jax
from absl import logging

from kernels.native import build
from kernels.triton_support import capability

IMPLEMENTATIONS = ("reference", "xla", "native", "triton")
_AUTOMATIC = {"cpu": "native", "gpu": "triton"}
_lock = threading.RLock()
_trusted = {}
_warned = set()


def trust(library: build.Library, name: str, test: Callable[[], None]) -> None:
  """Runs an op's self-test once per built library.

  Success is remembered by a file beside the library.

  Args:
    library: what the op runs on.
    name: op.
    test: raises AssertionError when native and reference disagree.

  Raises:
    NativeUnavailable: the test failed.
  """
  key = (str(library.path), name)
  with _lock:
    if key not in _trusted:
      _trusted[key] = _self_test(library, name, test)
    if _trusted[key]:
      raise build.NativeUnavailable(_trusted[key])


def _self_test(library, name, test) -> str:
  marker = library.path.with_suffix(f".{name}.ok")
  if marker.exists():
    return ""
  _trusted[(str(library.path), name)] = ""  # the test itself calls the op
  try:
    # The op may be called while a function is traced: leave that trace.
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
      with jax.default_device(jax.local_devices(backend="cpu")[0]):
        test()
  except AssertionError as error:
    return f"{name}: self-test failed: {error}"
  try:
    marker.touch()
  except OSError:
    pass  # a read-only cache: the test runs again next time
  return ""


def triton_module(op: str) -> types.ModuleType:
  """Module kernels.<op>.triton_<op>, imported when first asked for.

  Args:
    op: name of the op's folder.

  Returns:
    The module.

  Raises:
    TritonUnavailable: Triton kernels cannot run here.
  """
  capability.require(op)
  return importlib.import_module(f"kernels.{op}.triton_{op}")


def preferred() -> str | None:
  """What ops take by themselves on this platform, None: xla."""
  return _AUTOMATIC.get(capability.platform())


def _not_there(op: str, name: str) -> Callable[[], None]:
  def ready():
    raise NotImplementedError(f"{op}: no {name} implementation")

  return ready


def choose(
    op: str,
    implementation: str | None,
    ready: Callable[[], None] | None,
    triton: Callable[[], None] | None = None,
) -> str:
  """Name of the implementation to run.

  Args:
    op: name for messages.
    implementation: None or one of IMPLEMENTATIONS.
    ready: raises NativeUnavailable or NotImplementedError when the native
      backend cannot serve this call; None: there is no native backend.
    triton: the same for the Triton backend, with TritonUnavailable.

  Returns:
    One of IMPLEMENTATIONS.

  Raises:
    ValueError: unknown name.
    RuntimeError, NotImplementedError: the named backend cannot run.
  """
  checks = {
      "native": ready or _not_there(op, "native"),
      "triton": triton or _not_there(op, "triton"),
  }
  if implementation is None:
    name = preferred()
    # Where an op has no kernel of its own, XLA is not second best.
    if {"native": ready, "triton": triton}.get(name) is None:
      return "xla"
    try:
      checks[name]()
      return name
    except (
        build.NativeUnavailable,
        capability.TritonUnavailable,
        NotImplementedError,
    ) as error:
      _warn_once(op, name, str(error))
      return "xla"
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
        f"{op}: got implementation {implementation!r}, expected None or one of"
        f" {IMPLEMENTATIONS}"
    )
  if implementation in checks:
    checks[implementation]()
  return implementation


def _warn_once(op: str, name: str, reason: str) -> None:
  if (op, reason) not in _warned:
    _warned.add((op, reason))
    reason = reason.splitlines()[0] if reason else "unknown reason"
    logging.warning("kernels.%s: using xla, not %s: %s", op, name, reason)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def no_gradient(name: str, value: jax.Array) -> jax.Array:
  """Identity that refuses differentiation with a TypeError.

  Args:
    name: op for the message.
    value: array whose dense gradient must never be formed.

  Returns:
    `value`.
  """
  del name
  return value


def _no_gradient_fwd(name, value):
  if value.perturbed:
    raise TypeError(
        f"{name}: this implementation has no gradient of the table; use `probe`"
        " (gradient of the encoded features) with sparse_adam, or"
        " implementation='reference'"
    )
  return value.value, None


def _no_gradient_bwd(name, residual, cotangent):
  del name, residual, cotangent
  return (None,)


no_gradient.defvjp(_no_gradient_fwd, _no_gradient_bwd, symbolic_zeros=True)
