"""The mesh's axes, and what it refuses."""

import jax
import pytest

from infnerf_jax import errors
from infnerf_jax.sharding import mesh as mesh_lib


def test_axes_are_named_and_auto():
  mesh = mesh_lib.make_mesh(1, 1, jax.devices()[:1])
  assert mesh.axis_names == (mesh_lib.DATA, mesh_lib.NODE)
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    'num_data,num_node', [(2, 1), (1, 3), (0, 1), (-1, -1)]
)
def test_devices_that_do_not_fit_are_refused(num_data, num_node):
  with pytest.raises(errors.InputError) as caught:
    mesh_lib.make_mesh(num_data, num_node, jax.devices()[:1])
  message = str(caught.value)
  assert f'got {num_data} x {num_node}' in message and '1 devices' in message
  assert '\n' not in message
