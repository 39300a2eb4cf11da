"""Plain jnp hash lookup, differentiable in table and position."""

import jax
import jax.numpy as jnp

from kernels.hash_lookup import specs


def grid_rows(position, slot, *, spec: specs.GridSpec, grid_scale: int):
  """Rows and trilinear weights of the eight corners around each sample.

  Args:
    position: [S, 3] float32 in the node's box.
    slot: [S] int32.
    spec: grid.
    grid_scale: which scale.

  Returns:
    rows [8, S] int32 within a node's table (offset included), weights [8, S].
  """
  root, other = (int(r) for r in spec.resolutions[:, grid_scale])
  dense_root, dense_other = spec.is_dense(grid_scale)
  is_root = slot == 0
  resolution = jnp.where(is_root, root, other)  # [S]
  dense = jnp.where(is_root, dense_root, dense_other)
  scaled = position * resolution[:, None].astype(position.dtype)
  cell = jnp.clip(jnp.floor(scaled), 0, (resolution - 1)[:, None])
  cell = jax.lax.stop_gradient(cell)
  fraction = scaled - cell  # [S, 3]
  cell = cell.astype(jnp.uint32)
  num_rows = int(spec.row_counts[grid_scale])
  bits = (jnp.arange(8)[:, None] >> jnp.arange(3)) & 1  # x, y, z = 1, 2, 4
  corners = cell + bits[:, None].astype(jnp.uint32)  # [8, S, 3]
  x, y, z = (corners[..., axis] for axis in range(3))
  stride = (resolution + 1).astype(jnp.uint32)
  hashed = x ^ y * jnp.uint32(specs.PRIMES[1]) ^ z * jnp.uint32(specs.PRIMES[2])
  hashed %= jnp.uint32(num_rows)
  rows = jnp.where(dense, x + stride * (y + stride * z), hashed)
  rows = rows.astype(jnp.int32) + int(spec.row_offsets[grid_scale])
  weights = jnp.where(bits[:, None] == 1, fraction, 1 - fraction)
  return rows, weights[..., 0] * weights[..., 1] * weights[..., 2]


def hash_lookup(table, position, slot, *, spec: specs.GridSpec):
  """See api.hash_lookup."""
  valid = (slot >= 0) & (slot < table.shape[0])
  safe = jnp.where(valid, slot, 0)
  out = []
  for grid_scale in range(spec.num_grid_scales):
    rows, weights = grid_rows(position, slot, spec=spec, grid_scale=grid_scale)
    values = table[safe, rows].astype(jnp.float32)  # [8, S, F]
    features = jnp.sum(weights[..., None] * values, axis=0)
    out.append(jnp.where(valid[:, None], features, 0.0))
  return jnp.stack(out)  # [L, S, F]
