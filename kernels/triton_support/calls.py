"""The one place that calls Triton kernels.

A kernel's parameters are: inputs (arrays, ints), outputs (pointers), then
constexprs. A buffer changed in place is an input and an output: the kernel
reads and writes the output's pointer and leaves the input's alone.

Where a call goes:
  on a GPU, or under capability.targeting, to jax_triton;
  in a process with TRITON_INTERPRET=1 to Triton's interpreter;
  under capability.record nowhere: what would be compiled is noted.
"""

import functools
import warnings
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from kernels.triton_support import capability

# Triton would emit the newest version that its own assembler knows, which an
# older CUDA refuses. CUDA 12.9 reads this one and it covers sm_120.
PTX_VERSION = 88
_MAX_GRID = (2**31 - 1, 65535, 65535)


class KernelCall(NamedTuple):
  """A call as the compiler sees it.

  kernel: triton.JITFunction.
  arguments: a dtype for a pointer, an int for an integer, in order.
  constexprs: by name.
  grid: of up to three ints.
  num_warps, num_stages: launch parameters.
  """

  kernel: Any
  arguments: tuple
  constexprs: dict
  grid: tuple[int, ...]
  num_warps: int
  num_stages: int


def triton_call(
    kernel,
    *args,
    out: Sequence[jax.ShapeDtypeStruct],
    grid: Sequence[int],
    in_place: dict[int, int] | None = None,
    num_warps: int = 4,
    num_stages: int = 3,
    **constexprs,
) -> tuple[jax.Array, ...]:
  """Calls a kernel. Neither vmap nor grad passes through it.

  Args:
    kernel: decorated with triton.jit.
    *args: arrays and Python ints. An int that equals 1 becomes a constexpr:
      the kernel must not call tensors' methods on an int.
    out: shapes and dtypes of the outputs.
    grid: programs along up to three axes.
    in_place: argument -> output that shares its buffer.
    num_warps: warps of a program.
    num_stages: stages of software pipelines.
    **constexprs: the kernel's tl.constexpr parameters.

  Returns:
    The outputs.
  """
  args = [a if isinstance(a, int) else jnp.asarray(a) for a in args]
  out = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in out]
  in_place, grid = dict(in_place or {}), tuple(int(g) for g in grid)
  for size, most in zip(grid, _MAX_GRID):
    if size > most:
      raise ValueError(f"triton_call: got grid {grid}, expected <= {_MAX_GRID}")
  for i, o in in_place.items():
    if args[i].shape != out[o].shape or args[i].dtype != out[o].dtype:
      raise ValueError(f"triton_call: argument {i} is not like output {o}")
  if 0 in grid:
    inverse = {o: args[i] for i, o in in_place.items()}
    return tuple(
        inverse.get(o, jnp.zeros(s.shape, s.dtype)) for o, s in enumerate(out)
    )
  run = _note
  if capability.recorded() is None:
    run = _interpret if capability.interpreting() else _jax_triton
  return tuple(
      run(kernel, args, out, grid, in_place, num_warps, num_stages, constexprs)
  )


def _note(kernel, args, out, grid, in_place, num_warps, num_stages, constexprs):
  del in_place
  arguments = [a if isinstance(a, int) else a.dtype for a in [*args, *out]]
  capability.recorded().append(
      KernelCall(
          kernel, tuple(arguments), constexprs, grid, num_warps, num_stages
      )
  )
  return [jnp.zeros(o.shape, o.dtype) for o in out]


def _interpret(
    kernel, args, out, grid, in_place, num_warps, num_stages, constexprs
):
  from kernels.triton_support import interpret

  del num_warps, num_stages
  where = [i for i, a in enumerate(args) if not isinstance(a, int)]

  def run(*arrays):
    full = list(args)
    for i, array in zip(where, arrays):
      full[i] = array
    return interpret.run(kernel, full, out, grid, in_place, constexprs)

  return jax.pure_callback(run, out, *(args[i] for i in where))


@functools.cache
def _cap_ptx_version() -> None:
  """Gives Triton's CUDA options another default; 0.3.1 passes none along."""
  from triton.backends.nvidia import compiler

  parse = compiler.CUDABackend.parse_options

  @functools.wraps(parse)
  def parse_options(self, opts):
    return parse(self, {"ptx_version": PTX_VERSION, **opts})

  compiler.CUDABackend.parse_options = parse_options


def _jax_triton(
    kernel, args, out, grid, in_place, num_warps, num_stages, constexprs
):
  import jax_triton

  common = dict(
      kernel=kernel,
      grid=grid,
      name=kernel.__name__,
      compute_capability=capability.target(),
      num_warps=num_warps,
      num_stages=num_stages,
      **constexprs,
  )
  if jax_triton.__version_info__ < (0, 4):
    _cap_ptx_version()
    arrays = [i for i, a in enumerate(args) if not isinstance(a, int)]
    aliases = {arrays.index(i): o for i, o in in_place.items()}
    return jax_triton.triton_call(
        *args, out_shape=out, input_output_aliases=aliases, **common
    )
  options = {"ptx_version": PTX_VERSION, "enable_fp_fusion": True}
  common.update(out_type=out, backend_options=options)
  # From 0.4 on the kernel gets no pointer for an aliased output: give its
  # buffer as the output's parameter, and the input's a number.
  names = kernel.arg_names
  operands = dict(zip(names, args))
  for i, o in in_place.items():
    operands[names[len(args) + o]] = args[i]
    operands[names[i]] = 0
  order = [name for name in names if name in operands]
  aliases = {order.index(names[len(args) + o]): o for o in in_place.values()}
  with warnings.catch_warnings():
    # Its successor, a Ref, is an effect: it bars custom_vjp.
    warnings.filterwarnings(
        "ignore", "input_output_aliases", DeprecationWarning
    )
    return jax_triton.triton_call(
        **operands, input_output_aliases=aliases, **common
    )


def block_size(count: int, size: int) -> int:
  """Elements of a program.

  Args:
    count: elements in all.
    size: a power of two that suits a GPU.

  Returns:
    `size`; in the interpreter, where a program takes the same time whatever
    its size, more, so that there are at most two programs or three.
  """
  if not capability.interpreting() or capability.recorded() is not None:
    return size
  while size * 2 < count:
    size *= 2
  return size
