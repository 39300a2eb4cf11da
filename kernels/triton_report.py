"""What the compiler makes of every Triton kernel, for GPUs that are not here.

  python -m kernels.triton_report [--capabilities=80,90] [--json]

Prints a table of registers, spilled bytes, shared memory, widths of loads and
names of atomics. Needs triton, no GPU.
"""

import argparse
import importlib
import json
from typing import Iterable, Iterator

import jax
import jax.numpy as jnp

from kernels.hash_lookup import specs
from kernels.triton_support import calls, capability, compiling

_SAMPLES = 2**17
_SLOTS = 64
_RAYS = 2048
_CONSTANTS = dict(learning_rate=0.01)


def _f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _i32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _hash_lookup(dtype=jnp.float32, spec=specs.SMALL):
  from kernels import hash_lookup

  def run(table, position, slot):
    def loss(position):
      out = hash_lookup.hash_lookup(
          table, position, slot, spec=spec, implementation="triton"
      )
      return jnp.sum(out)

    return jax.value_and_grad(loss)(position)

  shape = (_SLOTS, spec.num_rows, spec.num_features)
  table = jax.ShapeDtypeStruct(shape, dtype)
  return run, (table, _f32(_SAMPLES, 3), _i32(_SAMPLES))


def _sparse_adam(deterministic=True):
  from kernels import sparse_adam

  spec = specs.GridSpec(1, 2**15, 2, 2048, 2048)

  def run(table, moments, steps, *call):
    return sparse_adam.sparse_adam(
        table,
        moments,
        steps,
        [call],
        spec=spec,
        deterministic=deterministic,
        implementation="triton",
        **_CONSTANTS,
    )

  rows = (_SLOTS, spec.num_rows)
  state = (_f32(*rows, 2), _f32(*rows, 4), _i32(*rows))
  call = (_f32(_SAMPLES, 3), _i32(_SAMPLES), _f32(1, _SAMPLES, 2))
  return run, state + call


def _slot_adam():
  from kernels import sparse_adam

  def run(*arrays):
    return sparse_adam.slot_adam(*arrays, implementation="triton", **_CONSTANTS)

  weights = _f32(_SLOTS, 64, 64)
  moments = _f32(_SLOTS, 2, 64, 64)
  touched = jax.ShapeDtypeStruct((_SLOTS,), jnp.bool_)
  return run, (weights, weights, moments, _i32(_SLOTS), touched)


def _composite(ragged=False):
  from kernels import composite

  def run(*args):
    op = composite.composite_ragged if ragged else composite.composite

    def loss(density, rgb):
      out = op(density, args[1], rgb, *args[3:], implementation="triton")
      return sum(jnp.sum(o) for o in out)

    return jax.grad(loss, argnums=(0, 1))(args[0], args[2])

  shape = (_SAMPLES,) if ragged else (_RAYS, 64)
  args = (_f32(*shape), _f32(*shape), _f32(*shape, 3), _f32(*shape))
  return run, args + ((_i32(_RAYS + 1),) if ragged else ())


def _locate():
  from kernels import locate

  def run(*arrays):
    return locate.locate(
        *arrays, root_side=100.0, max_level=8, implementation="triton"
    )

  ray = _f32(_RAYS, 3)
  samples = (_f32(_RAYS, 64), _i32(_RAYS, 64))
  return run, (ray, ray, ray, *samples, _i32(4096, 8), _i32(4096))


def _traverse():
  from kernels import traverse

  module = importlib.import_module("kernels.traverse.triton_traverse")
  arrays, rule = module.example()
  *arrays, phase, footprints, children, slots, words = arrays
  arrays += [footprints, children, slots, words, phase]

  def run(*arrays):
    return traverse.traverse(*arrays, **rule, implementation="triton")

  return run, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]


def _node_field(grid=specs.SMALL, dtype="float32", compute_dtype="float16"):
  from kernels import node_field

  spec = node_field.FieldSpec(grid, compute_dtype=compute_dtype)

  def run(table, density, color, *rest):
    def evaluate(weights, rays, probe):
      return node_field.node_field(
          {"table": table, **weights},
          *rest[:3],
          rays,
          spec=spec,
          probe=probe,
          implementation="triton",
      )

    weights = {"density": density, "color": color}
    probe = jnp.zeros(
        (grid.num_grid_scales, _SAMPLES, grid.num_features), jnp.float32
    )
    total = lambda *a: sum(jnp.sum(o) for o in evaluate(*a))
    grads = jax.grad(total, argnums=(0, 1, 2))(weights, rest[3], probe)
    return evaluate(weights, rest[3], None), grads

  shapes = spec.weight_shapes(_SLOTS)
  groups = [
      {name: _f32(*shape) for name, shape in shapes[group].items()}
      for group in ("density", "color")
  ]
  samples = (_f32(_SAMPLES, 3), _i32(_SAMPLES), _i32(_SAMPLES))
  rays = _f32(_RAYS, spec.ray_input_dim)
  table = jax.ShapeDtypeStruct(shapes["table"], dtype)
  return run, (table, *groups, *samples, rays)


def functions() -> dict[str, tuple]:
  """(function of arrays, shapes of use) by op."""
  return {
      "hash_lookup": _hash_lookup(),
      "hash_lookup float16": _hash_lookup(jnp.float16),
      "hash_lookup bfloat16": _hash_lookup(jnp.bfloat16),
      "sparse_adam": _sparse_adam(),
      "sparse_adam any order": _sparse_adam(deterministic=False),
      "slot_adam": _slot_adam(),
      "composite": _composite(),
      "composite ragged": _composite(ragged=True),
      "locate": _locate(),
      "traverse": _traverse(),
      "node_field": _node_field(),
      "node_field 16 scales": _node_field(specs.PAPER),
      "node_field bfloat16": _node_field(
          dtype="bfloat16", compute_dtype="bfloat16"
      ),
      "node_field float32": _node_field(compute_dtype="float32"),
  }


def examples(
    ops: Iterable[str] | None = None,
) -> dict[str, list[calls.KernelCall]]:
  """Distinct kernel calls by op, at sizes of use.

  Args:
    ops: out of `functions`, None: all.

  Returns:
    {op: calls}, for the GPU that is targeted where sizes differ.
  """
  return {
      name: _distinct(compiling.calls_of(run, *shapes))
      for name, (run, shapes) in functions().items()
      if ops is None or name in ops
  }


def _distinct(found) -> list[calls.KernelCall]:
  keys = {}
  for call in found:
    keys[repr(call._replace(grid=()))] = call
  return list(keys.values())


def rows(capabilities) -> Iterator[tuple[str, int, compiling.Compiled]]:
  """What the compiler makes of the examples.

  Args:
    capabilities: those of all ops, or {op: those of this op}.

  Yields:
    (op, compute capability, compiled).
  """
  if not isinstance(capabilities, dict):
    capabilities = dict.fromkeys(functions(), tuple(capabilities))
  wanted = []
  for one in sorted({c for given in capabilities.values() for c in given}):
    with capability.targeting(one):
      found = examples([op for op in capabilities if one in capabilities[op]])
    wanted += [(op, call, one) for op in found for call in found[op]]
  made = compiling.compile_all([w[1:] for w in wanted])
  for (op, _, one), compiled in zip(wanted, made):
    yield op, one, compiled


def _short(counter) -> str:
  return " ".join(f"{n}x{name}" for name, n in sorted(counter.items()))


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  every = ",".join(str(c) for c in compiling.CAPABILITIES)
  parser.add_argument("--capabilities", default=every, help=f"default {every}")
  parser.add_argument("--json", action="store_true", help="one object a line")
  given = parser.parse_args()
  form = "{:24}{:20}{:>4}{:>5}{:>7}{:>8}  {:28}{}"
  if not given.json:
    print(form.format(*"op kernel sm regs spills shared loads atomics".split()))
  capabilities = [int(c) for c in given.capabilities.split(",")]
  for op, one, made in rows(capabilities):
    spills = made.stack + made.local
    loads, atomics = _short(made.loads()), _short(made.atomics())
    cells = (op, made.name, one, made.registers, spills, made.shared)
    if given.json:
      names = "op kernel capability registers spills shared loads atomics"
      print(json.dumps(dict(zip(names.split(), cells + (loads, atomics)))))
    else:
      print(form.format(*cells, loads, atomics))


if __name__ == "__main__":
  main()
