"""Where a step's samples fell: by level, by node."""

import jax.numpy as jnp
import numpy as np

from infnerf_jax.render import stand_ins


def by_level(samples, max_level: int):
  """[max_level + 1] int32 samples that were evaluated at each level."""
  return jnp.sum(
      (samples.level.reshape(-1, 1) == jnp.arange(max_level + 1))
      & (samples.slot.reshape(-1, 1) >= 0),
      axis=0,
  )


def by_node(samples, num_nodes: int, *, always: bool = False):
  """Samples that lie in each node, and those of them that train it.

  Args:
    samples: Samples.
    num_nodes: N.
    always: also where all nodes are resident.

  Returns:
    [2, N] int32; None where all nodes are resident, unless asked for.
  """
  if samples.own_id is None:
    if not always:
      return None
    samples = samples._replace(own_id=samples.node_id)
  count = lambda slot: (
      jnp.zeros(num_nodes, jnp.int32)
      .at[jnp.where(slot >= 0, samples.own_id, num_nodes).reshape(-1)]
      .add(1, mode='drop')
  )
  return jnp.stack(
      [count(samples.slot), count(stand_ins.trained_slot(samples))]
  )


def by_ray(samples, ends_in):
  """Where rays were planned to end, and where their samples lie.

  Args:
    samples: [R, S] Samples.
    ends_in: [R] int32 nodes; None: nobody planned.

  Returns:
    [R, 1 + S] int32, -1: a sample in no node; None without a plan.
  """
  if ends_in is None:
    return None
  own_id = samples.node_id if samples.own_id is None else samples.own_id
  own_id = jnp.where(samples.slot >= 0, own_id, -1)
  return jnp.concatenate([ends_in[:, None], own_id], axis=1)


class NodeCounts:
  """Sums of `by_node` over steps."""

  # Steps whose counts of samples 32 bits hold.
  _FLUSH_EVERY = 256

  def __init__(self, num_nodes: int):
    """Zero of each."""
    self._counts = np.zeros((2, num_nodes), np.int64)
    self._fresh, self._num_fresh = None, 0

  def add(self, of_node) -> None:
    """Adds a step's [2, N] int32; None is nothing."""
    if of_node is None:
      return
    self._fresh = of_node if self._fresh is None else self._fresh + of_node
    self._num_fresh += 1
    if self._num_fresh >= self._FLUSH_EVERY:
      self._flush()

  def _flush(self) -> None:
    if self._fresh is not None:
      self._counts += np.asarray(self._fresh)
    self._fresh, self._num_fresh = None, 0

  @property
  def total(self) -> np.ndarray:
    """[2, N] int64."""
    self._flush()
    return self._counts

  @total.setter
  def total(self, counts) -> None:
    self._counts = np.array(counts, np.int64)
