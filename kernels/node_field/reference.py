"""Plain jnp node field: every sample multiplies with its own slot's weights.

Differentiable in everything. Memory is S x weights: for tests only.
"""

import jax
import jax.numpy as jnp

from kernels.hash_lookup import reference as hash_reference
from kernels.node_field import specs


def _features(params, position, slot, probe, spec):
  table = params["table"]
  features = hash_reference.hash_lookup(table, position, slot, spec=spec.grid)
  if probe is not None:
    features = features + probe
  return jnp.moveaxis(features, 0, 1).reshape(
      slot.shape[0], spec.grid.encoded_dim
  )  # [S, L * F]


def _layer(x, weights, slot):
  return jnp.einsum("si,sio->so", x, weights[slot], precision="highest")


def node_density(params, position, slot, *, spec: specs.FieldSpec, probe=None):
  """See api.node_density."""
  return _density(params, position, slot, spec, probe)[0]


def _density(params, position, slot, spec, probe):
  weights = params["density"]
  valid = (slot >= 0) & (slot < weights["w0"].shape[0])
  safe = jnp.where(valid, slot, 0)
  x = _features(params, position, slot, probe, spec)
  hidden = jax.nn.relu(_layer(x, weights["w0"], safe))
  out = _layer(hidden, weights["w1"], safe)  # [S, 1 + G]
  return jnp.where(valid, out[:, 0], 0.0), out[:, 1:], valid, safe


def node_field(
    params,
    position,
    slot,
    ray_idx,
    ray_inputs,
    *,
    spec: specs.FieldSpec,
    probe=None,
):
  """See api.node_field."""
  weights = params["color"]
  raw, geometry, valid, safe = _density(params, position, slot, spec, probe)
  rays = ray_inputs.at[ray_idx].get(
      mode="fill", fill_value=0, wrap_negative_indices=False
  )
  x = jnp.concatenate([jax.nn.sigmoid(geometry), rays], axis=-1)
  hidden = jax.nn.relu(_layer(x, weights["w0"], safe))
  hidden = jax.nn.relu(_layer(hidden, weights["w1"], safe))
  rgb = jax.nn.sigmoid(_layer(hidden, weights["w2"], safe))
  return raw, jnp.where(valid[:, None], rgb, 0.0)
