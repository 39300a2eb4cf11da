"""The node pool: parameters of resident nodes stacked by slot.

Capacity is fixed; rows become active, are paged in and out, or live on other
devices, all through `slot_of_node`. Slot 0 is the root, always resident.
"""

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import node_field as node_field_lib
from kernels.node_field import specs as field_specs


def init_pool(key, num_slots: int, spec: field_specs.FieldSpec):
  """Initial parameters of `num_slots` nodes.

  The node field's own init is vmapped over slots, so that row i depends on
  (key, i) alone, whatever the capacity.

  Args:
    key: PRNG key.
    num_slots: rows.
    spec: static shapes.

  Returns:
    {'table': [num_slots, rows, F], 'density': {...}, 'color': {...}} with a
    leading axis of slots.
  """
  return init_rows(key, jnp.arange(num_slots), spec)


def init_rows(key, row, spec: field_specs.FieldSpec):
  """Initial parameters of some rows of the pool.

  Args:
    key: PRNG key of the pool.
    row: [n] int32, which rows.
    spec: static shapes.

  Returns:
    As `init_pool`, with n rows.
  """
  module = node_field_lib.NodeField(spec)
  init_row = lambda k: module.init_with_output(k, method=module.parameters)[0]
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(row)
  return jax.vmap(init_row)(keys)


def identity_slots(num_nodes: int, num_slots: int) -> np.ndarray:
  """[N] int32 slot map of a tree that is wholly resident."""
  if num_nodes > num_slots:
    raise ValueError(f'got {num_nodes} nodes, at most {num_slots} slots')
  return np.arange(num_nodes, dtype=np.int32)


def row_bytes(spec: field_specs.FieldSpec) -> dict[str, int]:
  """Bytes of one node: `parameters`, and `training` with Adam's moments."""
  grid = spec.grid
  encoded = grid.num_grid_scales * grid.num_features
  hidden, geometry = spec.hidden_width, spec.num_geometry
  weights = (
      encoded * hidden
      + hidden * (1 + geometry)
      + (geometry + spec.ray_input_dim) * hidden
      + hidden * hidden
      + hidden * 3
  )
  table = grid.num_rows * grid.num_features
  parameters = 4 * (table + weights)
  return {
      'parameters': parameters,
      # Two moments of everything and one step count a row of the table.
      'training': 3 * parameters + 4 * grid.num_rows,
  }
