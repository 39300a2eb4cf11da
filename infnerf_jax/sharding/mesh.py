"""The mesh of devices: rays over one axis, nodes over the other."""

import jax
import numpy as np

from infnerf_jax import errors

DATA = 'data'
NODE = 'node'


def make_mesh(num_data: int, num_node: int, devices=None) -> jax.sharding.Mesh:
  """A mesh of `num_data` x `num_node` devices.

  Args:
    num_data: shards of the rays.
    num_node: shards of the node pool.
    devices: the devices to use, in order; None: all there are.

  Returns:
    Mesh with the axes `DATA` and `NODE`.

  Raises:
    InputError: the two do not multiply to the devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  if min(num_data, num_node) < 1 or num_data * num_node != len(devices):
    raise errors.InputError(
        f'mesh: num_data x num_node: got {num_data} x {num_node}, expected'
        f' positive numbers that multiply to the {len(devices)} devices'
    )
  # Written out: the default in jax 0.10 is Explicit, which shard_map's plain
  # arguments do not fit.
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.sharding.Mesh(
      np.asarray(devices, dtype=object).reshape(num_data, num_node),
      (DATA, NODE),
      axis_types=auto,
  )
