"""Lowers whole functions for CUDA on a machine without a GPU.

Needs jax_triton and the jax CUDA plugin wheel, without its dependencies.
"""

import re
import zlib
from typing import Callable

import jax
from jax import export as jax_export

from kernels.triton_support import capability

# As named by jax_triton before 0.4 and since.
_TARGETS = ("triton_kernel_call", "triton_kernel_call_ffi")


def export(
    function: Callable, *args, compute_capability: int = 90, **options
) -> jax_export.Exported:
  """Exports a function for CUDA, Triton kernels compiled.

  Args:
    function: to be jitted; what it calls chooses its implementations as on a
      GPU of this capability.
    *args: arrays or jax.ShapeDtypeStruct.
    compute_capability: for example 90.
    **options: for jax.jit, such as donate_argnums.

  Returns:
    jax.export.Exported.
  """
  allowed = [jax_export.DisabledSafetyCheck.custom_call(t) for t in _TARGETS]
  with capability.targeting(compute_capability):
    jitted = jax.jit(function, **options)
    return jax_export.export(
        jitted, platforms=["cuda"], disabled_checks=allowed
    )(*args)


def triton_kernels(exported: jax_export.Exported) -> list[str]:
  """Names of the Triton kernels called in an exported module, sorted.

  The payload of a call is compressed; its serialised form holds the name.
  """
  return sorted(payload_names(exported.mlir_module()))


def shared_buffers(exported: jax_export.Exported) -> list[tuple[str, int]]:
  """(kernel, number of outputs that share an input's buffer) of every call."""
  return [
      (_kernel_name(line), line.count("#stablehlo.output_operand_alias<"))
      for line in _call_lines(exported.mlir_module())
  ]


def payload_names(text: str) -> list[str]:
  """Kernel names out of the custom calls of a module's text."""
  return [_kernel_name(line) for line in _call_lines(text)]


def _call_lines(text: str) -> list[str]:
  return [
      line
      for line in text.splitlines()
      if any(f"@{t}(" in line for t in _TARGETS)
  ]


def _kernel_name(line: str) -> str:
  raw = re.search(r'(?:opaque|backend_config) = "((?:[^"\\]|\\.)*)"', line)
  payload = zlib.decompress(_unescape(raw[1]))
  name = re.search(rb"\.visible \.entry (\w+)", payload)
  return name[1].decode()


def _unescape(text: str) -> bytes:
  """MLIR writes bytes that are not printable as a backslash and two digits."""
  simple = {"n": b"\n", "t": b"\t", '"': b'"', "\\": b"\\"}

  def byte(match):
    code = match[1]
    if code in simple:
      return simple[code].decode("latin-1")
    return bytes([int(code, 16)]).decode("latin-1")

  pattern = r'\\([0-9A-Fa-f]{2}|[nt"\\])'
  return re.sub(pattern, byte, text).encode("latin-1")
