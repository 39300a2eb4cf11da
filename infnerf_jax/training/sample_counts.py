"""Where a step's samples fell: by level, by node."""

import jax.numpy as jnp

from infnerf_jax.render import stand_ins


def by_level(samples, max_level: int):
  """[max_level + 1] int32 samples that were evaluated at each level."""
  return jnp.sum(
      (samples.level.reshape(-1, 1) == jnp.arange(max_level + 1))
      & (samples.slot.reshape(-1, 1) >= 0),
      axis=0,
  )


def by_node(samples, num_nodes: int):
  """Samples that lie in each node, and those of them that train it.

  Args:
    samples: Samples.
    num_nodes: N.

  Returns:
    [2, N] int32; None where all nodes are resident.
  """
  if samples.own_id is None:
    return None
  count = lambda slot: (
      jnp.zeros(num_nodes, jnp.int32)
      .at[jnp.where(slot >= 0, samples.own_id, num_nodes).reshape(-1)]
      .add(1, mode='drop')
  )
  return jnp.stack(
      [count(samples.slot), count(stand_ins.trained_slot(samples))]
  )
