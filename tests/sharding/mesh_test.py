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


@pytest.mark.parametrize(
    'data, node, devices, processes, want',
    [
        # What a run without a word about devices gets.
        (0, 0, 8, 1, (1, 1)),
        (0, 0, 8, 2, (2, 4)),
        (2, 0, 8, 1, (2, 4)),
        (0, 8, 8, 1, (1, 8)),
        (2, 2, 8, 1, (2, 2)),
        (1, 1, 8, 1, (1, 1)),
        (1, 0, 8, 4, (1, 8)),
        (2, 0, 3, 1, (2, 1)),
    ],
)
def test_shapes_follow_the_config(data, node, devices, processes, want):
  found = mesh_lib.resolve_shape(data, node, devices, processes)
  assert found == want


@pytest.mark.parametrize(
    'data, node, devices, processes',
    [
        (2, 2, 3, 1),
        (5, 0, 4, 1),
        (-1, 0, 4, 1),
        (-2, -2, 4, 1),
        # Every process must take part.
        (1, 1, 4, 2),
        (3, 0, 4, 2),
    ],
)
def test_shapes_that_do_not_fit_are_refused(data, node, devices, processes):
  with pytest.raises(errors.InputError) as caught:
    mesh_lib.resolve_shape(data, node, devices, processes)
  message = str(caught.value)
  assert f'data={data}, node={node}' in message
  assert f'{devices} devices' in message and '\n' not in message
