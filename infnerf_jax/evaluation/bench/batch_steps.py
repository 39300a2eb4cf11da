"""Our side of a training batch: gradients and the tables' update, op by op."""

from typing import Callable

import jax
import jax.numpy as jnp

from infnerf_jax.evaluation.bench import batch, frame_steps, jax_steps
from kernels.hash_lookup import api as hash_lookup
from kernels.sparse_adam import api as sparse_adam


def batch_parts(
    shape, *, implementation: str | None, platform: str
) -> dict[str, Callable[[], float]]:
  """Ops of a training step, to call again and again.

  Args:
    shape: fields of StepShape.
    implementation: of the kernels.
    platform: where JAX must run.

  Returns:
    Functions of nothing by name, which return the number of samples;
    sparse_adam that of the rows that it updates.
  """
  frame_steps.require_platform(platform)
  shape, spec, data, params = jax_steps.setup(shape, 0)
  grid = spec.grid
  d_color, d_features = map(jnp.asarray, batch.seeds(shape, grid.encoded_dim))
  # [S, L * F] -> [L, S, F]
  d_features = d_features.reshape(-1, grid.num_grid_scales, grid.num_features)
  d_features = jnp.moveaxis(d_features, 1, 0)
  gradients = _gradients(spec, implementation)
  raw, rgb = jax_steps.shade(params, data, spec, implementation)
  num_samples = float(data.slot.shape[0])

  def timed(function, *arguments):
    def run():
      jax.block_until_ready(function(*arguments))
      return num_samples

    return run

  return {
      'hash_lookup gradient': timed(
          gradients['hash_lookup'], params['table'], data, d_features
      ),
      'node_field gradient': timed(gradients['node_field'], params, data),
      'composite gradient': timed(
          gradients['composite'], raw, rgb, data.delta, d_color
      ),
      'sparse_adam': _Update(params, data, d_features, spec, implementation),
  }


def _gradients(spec, implementation) -> dict[str, Callable]:
  """Jitted forward and backward passes."""

  def lookup(table, data, seed):
    def total(position):
      features = hash_lookup.hash_lookup(
          table,
          position,
          data.slot,
          spec=spec.grid,
          implementation=implementation,
      )
      return jnp.sum(features * seed)

    return jax.grad(total)(data.position)

  def field(params, data):
    """Gradients of weights and encoded features."""
    grid = spec.grid
    probe = (grid.num_grid_scales, data.slot.shape[0], grid.num_features)

    def total(mlps, probe):
      full = {'table': params['table'], **mlps}
      raw, rgb = jax_steps.shade(full, data, spec, implementation, probe)
      return jnp.sum(raw) + jnp.sum(rgb)

    mlps = {k: params[k] for k in ('density', 'color')}
    return jax.grad(total, argnums=(0, 1))(mlps, jnp.zeros(probe))

  def composite(raw, rgb, delta, seed):
    def total(raw, rgb):
      color = jax_steps.composite(raw, rgb, delta, implementation)
      return jnp.sum(color * seed)

    return jax.grad(total, argnums=(0, 1))(raw, rgb)

  functions = dict(hash_lookup=lookup, node_field=field, composite=composite)
  return {name: jax.jit(f) for name, f in functions.items()}


class _Update:
  """Scatters the features' gradient and steps the touched rows, in place."""

  def __init__(self, params, data, d_features, spec, implementation):
    # A copy: the update takes its buffers.
    table = jnp.array(params['table'], copy=True)
    moments = jnp.zeros(table.shape[:2] + (2 * table.shape[2],))
    self._state = table, moments, jnp.zeros(table.shape[:2], jnp.int32)
    self._call = (data.position, data.slot, d_features)

    def step(state, call):
      return sparse_adam.sparse_adam(
          *state,
          [call],
          spec=spec.grid,
          implementation=implementation,
          **jax_steps.ADAM,
      )

    self._step = jax.jit(step, donate_argnums=0)
    self._advance()
    self._num_rows = float(jnp.sum(self._state[2] > 0))

  def _advance(self):
    self._state = self._step(self._state, self._call)
    jax.block_until_ready(self._state)

  def __call__(self) -> float:
    self._advance()
    return self._num_rows
