"""Stacked node fields: initial values, bytes, the module against the pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.models import directions, node_field, node_pool, scene_model
from kernels.node_field import api

_SPEC = node_field.field_spec(
    num_grid_scales=3,
    table_size=128,
    num_features=2,
    base_resolution=4,
    finest_resolution=16,
    hidden_width=16,
    num_geometry=15,
    appearance_dim=3,
)


def test_rows_do_not_depend_on_capacity():
  key = jax.random.key(5)
  small = node_pool.init_pool(key, 3, _SPEC)
  large = node_pool.init_pool(key, 7, _SPEC)
  for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
    np.testing.assert_array_equal(a, b[:3])
  assert not np.array_equal(large['table'][0], large['table'][1])


def test_shapes_are_the_kernels():
  pool = node_pool.init_pool(jax.random.key(0), 2, _SPEC)
  shapes = jax.tree.map(lambda x: x.shape, pool)
  assert shapes == _SPEC.weight_shapes(2)


def test_row_bytes_count_what_is_there():
  pool = node_pool.init_pool(jax.random.key(0), 2, _SPEC)
  total = sum(x.nbytes for x in jax.tree.leaves(pool))
  rows = node_pool.row_bytes(_SPEC)
  assert total == 2 * rows['parameters']
  assert rows['training'] == 3 * rows['parameters'] + 4 * _SPEC.grid.num_rows


@pytest.mark.parametrize('is_root', [True, False])
def test_module_is_one_row_of_the_pool(is_root):
  module = node_field.NodeField(_SPEC)
  rng = np.random.default_rng(0)
  position = jnp.asarray(rng.uniform(size=(9, 3)), jnp.float32)
  direction = rng.normal(size=(9, 3)).astype(np.float32)
  direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
  appearance = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)
  variables = module.init(
      jax.random.key(1), position, direction, appearance, is_root=is_root
  )
  raw, rgb = module.apply(
      variables, position, direction, appearance, is_root=is_root
  )
  row = module.apply(variables, method=module.parameters)
  pool = jax.tree.map(lambda x: jnp.stack([x, x]), row)
  inputs = jnp.concatenate(
      [directions.spherical_harmonics(direction), appearance], axis=-1
  )
  slot = jnp.full(9, 0 if is_root else 1, jnp.int32)
  expected = api.node_field(
      pool,
      position,
      slot,
      jnp.arange(9, dtype=jnp.int32),
      inputs,
      spec=_SPEC,
      implementation='reference',
  )
  np.testing.assert_allclose(raw, expected[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(rgb, expected[1], rtol=1e-4, atol=1e-5)


def test_too_many_nodes_for_the_slots():
  with pytest.raises(ValueError, match='got 4 nodes, at most 3 slots'):
    node_pool.identity_slots(4, 3)


def test_trunc_exp_is_finite_and_has_a_slope_everywhere():
  raw = jnp.asarray([-20.0, 0.0, 3.0, 15.0, 100.0])
  value, slope = jax.vmap(jax.value_and_grad(scene_model.trunc_exp))(raw)
  expected = np.exp(np.minimum(raw, 15.0))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(slope, expected, rtol=1e-5)
