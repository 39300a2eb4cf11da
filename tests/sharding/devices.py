"""Eight virtual CPU devices, for which a process must be started anew."""

import os

import jax
import pytest

from infnerf_jax.sharding import mesh as mesh_lib

FLAG = '--xla_force_host_platform_device_count=8'
NEEDS_EIGHT = pytest.mark.skipif(
    FLAG not in os.environ.get('XLA_FLAGS', ''),
    reason='runs in a process with eight devices, see eight_devices_test',
)


def mesh(num_data: int, num_node: int) -> jax.sharding.Mesh:
  """A mesh of the first devices."""
  return mesh_lib.make_mesh(
      num_data, num_node, jax.devices()[: num_data * num_node]
  )
