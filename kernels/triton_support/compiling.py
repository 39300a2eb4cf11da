"""Compiles kernels for GPUs that need not be here and looks at the result."""

import collections
import functools
import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from concurrent import futures
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from kernels.native import build
from kernels.triton_support import calls, capability

CAPABILITIES = (80, 86, 89, 90, 100, 120)
_TYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int32": "i32",
    "int64": "i64",
    "uint32": "u32",
    "uint64": "u64",
    "int8": "i8",
    "uint8": "u8",
    "bool": "i1",
}


class Compiled(NamedTuple):
  """What the assembler says of a kernel.

  name: of the kernel.
  registers: a thread.
  stack, local: bytes a thread; other than 0 means that registers spill.
  shared: bytes a program.
  ptx: assembler text.
  """

  name: str
  registers: int
  stack: int
  local: int
  shared: int
  ptx: str

  def loads(self) -> collections.Counter:
    """Number of global load instructions by bits a thread."""
    return _widths(self.ptx, r"ld\.global(?:\.\w+)*?")

  def stores(self) -> collections.Counter:
    """Number of global store instructions by bits a thread."""
    return _widths(self.ptx, r"st\.global(?:\.\w+)*?")

  def atomics(self) -> collections.Counter:
    """Number of global atomic instructions by name, without scope."""
    found = re.findall(r"\b((?:atom|red)\.[\w.:]+)", self.ptx)
    drop = r"\.(?:global|gpu|sys|cta|relaxed|acq_rel|noftz)\b"
    return collections.Counter(re.sub(drop, "", name) for name in found)


def _widths(ptx, opcode) -> collections.Counter:
  counts = collections.Counter()
  pattern = r"\b" + opcode + r"(?:\.v(\d))?\.[bfus](\d+)\b"
  for vector, bits in re.findall(pattern, ptx):
    counts[int(vector or 1) * int(bits)] += 1
  return counts


def calls_of(function: Callable, *args, **kwargs) -> list[calls.KernelCall]:
  """Calls that a function makes, found by tracing it on shapes.

  Args:
    function: takes arrays.
    *args, **kwargs: arrays or jax.ShapeDtypeStruct.

  Returns:
    In order, repetitions included.
  """
  with capability.record() as found:
    # A fresh function: jit would give back an old trace, and no calls.
    jax.eval_shape(lambda *a, **k: function(*a, **k), *args, **kwargs)
  return found


def _source(call: calls.KernelCall):
  from triton.compiler import ASTSource

  names = call.kernel.arg_names
  signature, constants, attributes = {}, dict(call.constexprs), {}
  for i, (name, argument) in enumerate(zip(names, call.arguments)):
    if not isinstance(argument, int):
      signature[name] = "*" + _TYPES[str(jnp.dtype(argument))]
      attributes[(i,)] = [["tt.divisibility", 16]]
    elif argument == 1:  # as jax_triton does
      constants[name] = 1
    else:
      signature[name] = "i32" if argument < 2**31 else "i64"
  signature |= {name: "constexpr" for name in constants}
  order = {name: signature[name] for name in names}
  return ASTSource(
      fn=call.kernel, signature=order, constexprs=constants, attrs=attributes
  )


def compile_all(
    wanted: Sequence[tuple[calls.KernelCall, int]], processes: int | None = None
) -> list[Compiled]:
  """Compiles in several processes.

  Args:
    wanted: (call, compute capability).
    processes: None: as many as cores.

  Returns:
    In the order of `wanted`.
  """
  processes = processes or len(os.sched_getaffinity(0))
  jobs = []
  for call, compute_capability in wanted:
    kernel = (call.kernel.fn.__module__, call.kernel.__name__)
    jobs.append((kernel, call._replace(kernel=None), compute_capability))
  # A fork of a process with JAX's threads may hang.
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(processes, context) as pool:
    return list(pool.map(_compile_job, jobs))


def _compile_job(job) -> Compiled:
  (module, name), call, compute_capability = job
  kernel = getattr(importlib.import_module(module), name)
  return compile_call(call._replace(kernel=kernel), compute_capability)


def compile_call(call: calls.KernelCall, compute_capability: int) -> Compiled:
  """Compiles a call as it would be for a device.

  Args:
    call: see calls_of.
    compute_capability: for example 90.

  Returns:
    Compiled. Results are kept in the cache of built libraries.
  """
  import triton
  from triton.backends.compiler import GPUTarget

  options = dict(
      num_warps=call.num_warps,
      num_stages=call.num_stages,
      enable_fp_fusion=True,
      ptx_version=calls.PTX_VERSION,
  )
  with triton.knobs.cache.scope():
    # Not the environment's: jax_triton sets that to "", the working folder.
    triton.knobs.cache.dir = str(build.cache_dir() / "triton")
    result = triton.compile(
        _source(call),
        target=GPUTarget("cuda", compute_capability, 32),
        options=options,
    )
  usage = _usage(result.asm["cubin"])
  return Compiled(
      name=result.metadata.name,
      registers=usage["REG"],
      stack=usage["STACK"],
      local=usage["LOCAL"],
      # The assembler sees only what is static.
      shared=max(usage["SHARED"], result.metadata.shared),
      ptx=result.asm["ptx"],
  )


@functools.cache
def _usage(cubin: bytes) -> dict[str, int]:
  import triton

  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "kernel.cubin")
    with open(path, "wb") as file:
      file.write(cubin)
    done = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path],
        capture_output=True,
        text=True,
        check=True,
    )
  names = ("REG", "STACK", "LOCAL", "SHARED")
  return {n: int(re.search(rf"{n}:(\d+)", done.stdout)[1]) for n in names}
