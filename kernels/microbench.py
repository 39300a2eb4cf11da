"""Times the field's training step and inference, part by part.

Usage: python -m kernels.microbench [--shape=small|paper] [--threads=1,2]
  [--implementation=native] [--repeats=7]

1,024 rays x 48 samples inside the box, nine nodes. Prints milliseconds of CPU
time of the process, minimum over repeats: wall time and CPU time.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from kernels import native, node_field, sparse_adam
from kernels.node_field import specs

_SHAPE = flags.DEFINE_enum(
    "shape", "small", ["small", "paper"], "8 x 2^15 or 16 x 2^19."
)
_THREADS = flags.DEFINE_list("threads", "1,2", "Numbers of native threads.")
_IMPLEMENTATION = flags.DEFINE_string("implementation", "native", "Backend.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed runs of each part.")

NUM_RAYS, NUM_SAMPLES, NUM_SLOTS = 1024, 48, 9


def inputs(spec: specs.FieldSpec, seed: int = 0) -> dict:
  """Rays that cross the root box; far samples in the root, the rest in octants.

  Args:
    spec: sizes.
    seed: of everything random.

  Returns:
    Dict of arrays: params, position, slot, ray_idx, ray_inputs.
  """
  rng = np.random.default_rng(seed)
  start, end = rng.uniform(0, 1, (2, NUM_RAYS, 3))
  start[:, 2], end[:, 2] = 0.999, 0.001
  t = np.arange(NUM_SAMPLES) + rng.uniform(size=(NUM_RAYS, NUM_SAMPLES))
  t = (t / NUM_SAMPLES)[..., None]
  x = (start[:, None] * (1 - t) + end[:, None] * t).reshape(-1, 3)
  upper = x >= 0.5
  slot = 1 + upper @ [4, 2, 1]
  slot[rng.uniform(size=slot.shape) < 0.11] = 0
  is_root = (slot == 0)[:, None]
  x = np.where(is_root, (2 * x + 1) / 4, 2 * x - upper)
  shapes = spec.weight_shapes(NUM_SLOTS)

  def weights(shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[1]), jnp.float32)

  table = rng.uniform(-0.1, 0.1, shapes.pop("table")).astype(np.float32)
  params = jax.tree.map(weights, shapes, is_leaf=lambda s: isinstance(s, tuple))
  ray_inputs = rng.normal(size=(NUM_RAYS, spec.ray_input_dim))
  return {
      "params": {"table": jnp.asarray(table), **params},
      "position": jnp.asarray(x, jnp.float32),
      "slot": jnp.asarray(slot, jnp.int32),
      "ray_idx": jnp.repeat(jnp.arange(NUM_RAYS, dtype=jnp.int32), NUM_SAMPLES),
      "ray_inputs": jnp.asarray(ray_inputs, jnp.float32),
  }


def _field_parts(spec: specs.FieldSpec, implementation: str) -> dict:
  """Jitted parts of the node field: infer, density, gradient."""
  options = dict(spec=spec, implementation=implementation)

  @jax.jit
  def infer(params, position, slot, ray_idx, ray_inputs):
    return node_field.node_field(
        params, position, slot, ray_idx, ray_inputs, **options
    )

  @jax.jit
  def density(params, position, slot):
    return node_field.node_density(params, position, slot, **options)

  @jax.jit
  def gradient(params, position, slot, ray_idx, ray_inputs, seed):
    def loss(weights, rays, probe):
      full = {"table": params["table"], **weights}
      raw, rgb = node_field.node_field(
          full, position, slot, ray_idx, rays, probe=probe, **options
      )
      return jnp.vdot(raw, seed[:, 0]) + jnp.vdot(rgb, seed[:, 1:])

    weights = {k: params[k] for k in ("density", "color")}
    grid = spec.grid
    shape = (grid.num_grid_scales, slot.shape[0], grid.num_features)
    return jax.grad(loss, argnums=(0, 1, 2))(
        weights, ray_inputs, jnp.zeros(shape, jnp.float32)
    )

  return dict(infer=infer, density=density, gradient=gradient)


def _adam_parts(spec: specs.FieldSpec, implementation: str) -> dict:
  """Jitted parts of the optimiser: table_adam, weights_adam."""

  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def table_adam(table, moments, steps, position, slot, probe):
    calls = [(position, slot, probe)]
    return sparse_adam.sparse_adam(
        table,
        moments,
        steps,
        calls,
        spec=spec.grid,
        learning_rate=0.01,
        implementation=implementation,
    )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def weights_adam(weights, moments, grads, steps, slot):
    rule = dict(learning_rate=0.01, implementation=implementation)
    touched = sparse_adam.touched_slots(
        [slot], NUM_SLOTS, implementation=implementation
    )
    out = jax.tree.map(
        lambda w, g, m: sparse_adam.slot_adam(w, g, m, steps, touched, **rule)[
            :2
        ],
        weights,
        grads,
        moments,
    )
    pick = lambda i: jax.tree.map(
        lambda pair: pair[i], out, is_leaf=lambda x: isinstance(x, tuple)
    )
    return pick(0), pick(1)

  return dict(table_adam=table_adam, weights_adam=weights_adam)


def functions(spec: specs.FieldSpec, implementation: str) -> dict:
  """Jitted parts of a step: the node field's and the optimiser's."""
  return {
      **_field_parts(spec, implementation),
      **_adam_parts(spec, implementation),
  }


def run_parts(spec, implementation: str, repeats: int) -> dict:
  """(wall ms, CPU ms) of each part, minimum over repeats.

  Args:
    spec: sizes.
    implementation: backend.
    repeats: timed runs.

  Returns:
    Dict name -> (wall, CPU); "train" is gradient + table_adam + weights_adam.
  """
  data = inputs(spec)
  parts = functions(spec, implementation)
  params = data.pop("params")
  position, slot = data["position"], data["slot"]
  seed = jax.random.normal(jax.random.key(0), (slot.shape[0], 4))
  weights = {k: params[k] for k in ("density", "color")}
  moments = jax.tree.map(
      lambda w: jnp.zeros((len(w), 2) + w.shape[1:]), weights
  )
  weight_steps = jnp.zeros(NUM_SLOTS, jnp.int32)
  table = params["table"]
  table_state = (
      table + 0,
      jnp.zeros(table.shape[:2] + (2 * table.shape[2],)),
      jnp.zeros(table.shape[:2], jnp.int32),
  )
  times = {}

  def timed(name, *args):
    wall, cpu = time.perf_counter(), time.process_time()
    out = jax.block_until_ready(parts[name](*args))
    spent = time.perf_counter() - wall, time.process_time() - cpu
    times.setdefault(name, []).append([1e3 * s for s in spent])
    return out

  for _ in range(repeats + 1):
    timed("infer", params, *data.values())
    timed("density", params, position, slot)
    grads, _, probe = timed("gradient", params, *data.values(), seed)
    table_state = timed("table_adam", *table_state, position, slot, probe)
    weights, moments = timed(
        "weights_adam", weights, moments, grads, weight_steps, slot
    )
    params = {"table": params["table"], **jax.tree.map(jnp.copy, weights)}
  out = {k: np.min(np.array(v[1:]), axis=0) for k, v in times.items()}
  out["train"] = out["gradient"] + out["table_adam"] + out["weights_adam"]
  return out


def main(argv):
  """Prints wall and CPU time of every part, thread count by thread count."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  spec = {"small": specs.SMALL, "paper": specs.PAPER}[_SHAPE.value]
  for threads in _THREADS.value:
    native.set_num_threads(int(threads))
    times = run_parts(spec, _IMPLEMENTATION.value, _REPEATS.value)
    print(f"{_SHAPE.value}, {_IMPLEMENTATION.value}, {threads} threads")
    for name, (wall, cpu) in times.items():
      print(f"  {name:14s} wall {wall:8.2f} ms   CPU {cpu:8.2f} ms")


if __name__ == "__main__":
  app.run(main)
