"""Hash lookup shaped for XLA: corner by corner, gathers without bounds checks.

The table has no gradient here (see `probe` of node_field).
"""

import jax.numpy as jnp

from kernels import dispatch
from kernels.hash_lookup import reference, specs


def hash_lookup(table, position, slot, *, spec: specs.GridSpec):
  """See api.hash_lookup."""
  if table.shape[0] == 0:
    shape = (spec.num_grid_scales, slot.shape[0], spec.num_features)
    return jnp.zeros(shape, jnp.float32)
  table = dispatch.no_gradient("hash_lookup", table)
  valid = (slot >= 0) & (slot < table.shape[0])
  safe = jnp.where(valid, slot, 0)
  out = []
  for grid_scale in range(spec.num_grid_scales):
    # `slot`, not `safe`: a skipped sample must not count as the root's.
    rows, weights = reference.grid_rows(
        position, slot, spec=spec, grid_scale=grid_scale
    )
    features = 0.0
    for corner in range(8):
      at = table.at[safe, rows[corner]]
      values = at.get(mode="promise_in_bounds").astype(jnp.float32)
      features += weights[corner][:, None] * values
    out.append(jnp.where(valid[:, None], features, 0.0))
  return jnp.stack(out)  # [L, S, F]
