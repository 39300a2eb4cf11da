"""The mesh of devices: rays over one axis, nodes over the other."""

import jax
import numpy as np

from infnerf_jax import errors

DATA = 'data'
NODE = 'node'


def resolve_shape(
    num_data: int, num_node: int, num_devices: int, num_processes: int
) -> tuple[int, int]:
  """The mesh's shape that `config.devices` asks for.

  Args:
    num_data: config.devices.data, 0: automatic.
    num_node: config.devices.node, 0: automatic.
    num_devices: of all processes, as many each.
    num_processes: 1 or more.

  Returns:
    (data, node). Both automatic: one device in a single process; else the rays
    over processes, the nodes over the devices of each. One automatic: what
    the other leaves of the devices.

  Raises:
    InputError: the numbers do not fit the devices.
  """
  data, node = num_data, num_node
  if not data and not node:
    data = num_processes
    node = num_devices // num_processes if num_processes > 1 else 1
  elif min(data, node) >= 0:
    data = data or num_devices // node
    node = node or num_devices // data
  used = data * node
  # Each process must take part; a single one may leave devices alone.
  fits = used <= num_devices if num_processes == 1 else used == num_devices
  if min(data, node) < 1 or not fits:
    of = f' of {num_processes} processes' if num_processes > 1 else ''
    rule = 'all' if num_processes > 1 else 'at most'
    raise errors.InputError(
        f'config.devices: got data={num_data}, node={num_node}, expected two'
        f' numbers >= 0 (0: automatic) whose product is {rule} the'
        f' {num_devices} devices{of}'
    )
  return data, node


def first_devices(num_data: int, num_node: int) -> jax.sharding.Mesh:
  """A mesh of the first devices, those of a process side by side."""
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  return make_mesh(num_data, num_node, devices[: num_data * num_node])


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
  if 'jax_use_shardy_partitioner' in jax.config.values:
    # With jax 0.11.2 Shardy's clean-up crashes on the step (a null in its
    # pattern for unused inputs). Nothing is left to a partitioner here.
    jax.config.update('jax_use_shardy_partitioner', False)
  # Written out: the default in jax 0.10 is Explicit, which shard_map's plain
  # arguments do not fit.
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.sharding.Mesh(
      np.asarray(devices, dtype=object).reshape(num_data, num_node),
      (DATA, NODE),
      axis_types=auto,
  )
