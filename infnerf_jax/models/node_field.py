"""The node field: a small NeRF of one node's box (a Flax module).

A stack of them, one row a slot, is a node pool (`node_pool.py`); the module
itself defines parameters and their initial values, and evaluates one node.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from infnerf_jax.models import directions as directions_lib
from kernels.hash_lookup import specs as grid_specs
from kernels.node_field import api as node_field
from kernels.node_field import specs as field_specs

# Instant-NGP's initial range of hash features.
_TABLE_RANGE = 1e-4


def _table_init(key, shape, dtype=jnp.float32):
  return jax.random.uniform(
      key, shape, dtype, minval=-_TABLE_RANGE, maxval=_TABLE_RANGE
  )


def _dense_init(key, shape, dtype=jnp.float32):
  """He's uniform range for layers behind or before a ReLU."""
  limit = (6.0 / shape[0]) ** 0.5
  return jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)


def _last_init(key, shape, dtype=jnp.float32):
  """Xavier's uniform range for output layers."""
  limit = (6.0 / (shape[0] + shape[1])) ** 0.5
  return jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)


def field_spec(
    *,
    num_grid_scales: int,
    table_size: int,
    num_features: int,
    base_resolution: int,
    finest_resolution: int,
    hidden_width: int,
    num_geometry: int,
    appearance_dim: int,
) -> field_specs.FieldSpec:
  """Static shapes of a node field; see DESIGN of the kernels' specs."""
  return field_specs.FieldSpec(
      grid=grid_specs.GridSpec(
          num_grid_scales=num_grid_scales,
          table_size=table_size,
          num_features=num_features,
          base_resolution=base_resolution,
          finest_resolution=finest_resolution,
      ),
      hidden_width=hidden_width,
      num_geometry=num_geometry,
      ray_input_dim=directions_lib.NUM_HARMONICS + appearance_dim,
  )


class NodeField(nn.Module):
  """Density and colour of one node (InfNeRF, section 3; instant-ngp's net).

  Attributes:
    spec: static shapes.
  """

  spec: field_specs.FieldSpec

  def setup(self):
    spec = self.spec
    encoded = spec.grid.num_grid_scales * spec.grid.num_features
    hidden, geometry = spec.hidden_width, spec.num_geometry
    color_in = geometry + spec.ray_input_dim
    self.table = self.param(
        'table', _table_init, (spec.grid.num_rows, spec.grid.num_features)
    )
    self.density = {
        'w0': self.param('density_w0', _dense_init, (encoded, hidden)),
        'w1': self.param('density_w1', _last_init, (hidden, 1 + geometry)),
    }
    self.color = {
        'w0': self.param('color_w0', _dense_init, (color_in, hidden)),
        'w1': self.param('color_w1', _dense_init, (hidden, hidden)),
        'w2': self.param('color_w2', _last_init, (hidden, 3)),
    }

  def parameters(self):
    """One row of a node pool: {'table', 'density', 'color'}."""
    return {
        'table': self.table,
        'density': dict(self.density),
        'color': dict(self.color),
    }

  def __call__(self, position, directions, appearance, *, is_root=True):
    """Evaluates the node.

    Args:
      position: [S, 3] within the node's own box, 0 to 1.
      directions: [S, 3] unit.
      appearance: [S, A] or None where the spec has no appearance.
      is_root: the root's grid is twice as fine (it covers the doubled box).

    Returns:
      ([S] raw density, [S, 3] rgb).
    """
    ray_inputs = directions_lib.spherical_harmonics(directions)
    if appearance is not None:
      ray_inputs = jnp.concatenate([ray_inputs, appearance], axis=-1)
    row = jax.tree.map(lambda x: x[None], self.parameters())
    slot = jnp.zeros(position.shape[0], jnp.int32)
    if not is_root:
      # Slot 0 is the root by convention: stand in the second row.
      row = jax.tree.map(lambda x: jnp.concatenate([x, x]), row)
      slot = slot + 1
    ray_idx = jnp.arange(position.shape[0], dtype=jnp.int32)
    return node_field.node_field(
        row, position, slot, ray_idx, ray_inputs, spec=self.spec
    )
