"""What a step would take on many devices: counts times assumed speeds.

Nothing here is measured but the counts; `docs/scaling.md` states the
assumptions, and each has a name.
"""

import dataclasses
import math
from typing import Any

from infnerf_jax.sharding import traffic


@dataclasses.dataclass(frozen=True)
class Machine:
  """Assumed speeds of one device and its links.

  Attributes:
    flops: sustained by small matrix products, single precision, a second.
    memory: bytes a second that lookups and updates at random rows move.
    near: bytes a second to devices of the same host.
    far: bytes a second to those of other hosts.
    host_devices: devices of a host.
    latency: seconds of one collective among two devices; grows with the
      logarithm of their number.
  """

  flops: float = 2e13
  memory: float = 1e12
  near: float = 1.5e11
  far: float = 2e10
  host_devices: int = 8
  latency: float = 2e-5


@dataclasses.dataclass(frozen=True)
class Workload:
  """A training step, by default of the paper's sizes.

  Attributes:
    num_rays: of the batch.
    num_samples: of a ray, by sampling round.
    num_prior_points: where the priors look.
    num_scales: of the hash grid.
    num_features: of a table's row.
    density_weights: numbers of the density MLP.
    color_weights: of the colour MLP.
    num_nodes: of the tree.
    num_replicated: of them on all node shards.
    dense_size: numbers in appearance and poses.
    imbalance: samples of the busiest device over the mean.
  """

  num_rays: int = 65_536
  num_samples: tuple[int, ...] = (192, 96, 48)
  num_prior_points: int = 532_480
  num_scales: int = 16
  num_features: int = 2
  density_weights: int = 3_072
  color_weights: int = 8_320
  num_nodes: int = 4_096
  num_replicated: int = 4
  dense_size: int = 160_000
  imbalance: float = 1.1


# Bytes that placing, compositing and differentiating a sample move beside the
# node field: about forty numbers, read and written.
_PLACED_BYTES = 320
# Bytes that a gathered sample's turn in the sorted update moves.
_SORTED_BYTES = 64


def sizes(work: Workload, num_data: int, num_node: int) -> traffic.StepSizes:
  """The sizes that the bytes of a step follow."""
  owned = work.num_nodes - work.num_replicated
  return traffic.StepSizes(
      num_data=num_data,
      num_node=num_node,
      num_rays=work.num_rays,
      num_samples=work.num_samples,
      num_prior_points=work.num_prior_points,
      encoded_dim=work.num_scales * work.num_features,
      capacity=work.num_replicated + -(-owned // num_node),
      num_replicated=work.num_replicated,
      mlp_size=work.density_weights + work.color_weights,
      dense_size=work.dense_size,
  )


def _sample_seconds(work: Workload, machine: Machine):
  """Seconds of a sample: (density alone, density and colour with gradients)."""
  # Eight corners a scale; a gradient reads, adds and writes them again.
  corners = 8 * work.num_scales * work.num_features * 4
  density = 2 * work.density_weights / machine.flops + corners / machine.memory
  weights = work.density_weights + work.color_weights
  both = 6 * weights / machine.flops + 4 * corners / machine.memory
  return density, both


def step_seconds(
    work: Workload, machine: Machine, num_data: int, num_node: int
) -> dict[str, float]:
  """Seconds of a step's parts on a mesh, and their sum.

  Args:
    work: the step.
    machine: assumed speeds.
    num_data: D.
    num_node: M.

  Returns:
    'fields' (node fields, divided among all devices), 'placing' (sampling and
    compositing, divided among data shards), 'update' (sorting all gathered
    samples), 'wires', 'latency' and 'step'.
  """
  devices = num_data * num_node
  uneven = work.imbalance if num_node > 1 else 1.0
  density, both = _sample_seconds(work, machine)
  *proposals, last = (work.num_rays * count for count in work.num_samples)
  placed = sum(proposals) + last
  # A prior's point has a density with gradients.
  prior = 3 * density * work.num_prior_points
  fields = density * sum(proposals) + both * last + prior
  exchanges = traffic.step_exchanges(sizes(work, num_data, num_node))
  wires = latency = 0.0
  for exchange in exchanges:
    members, far = _members(exchange.axes, num_data, num_node, machine)
    passes = 2 if exchange.kind == 'all-reduce' else 1
    sent = passes * (members - 1) / members * exchange.buffer
    wires += sent / (machine.far if far else machine.near)
    latency += machine.latency * math.log2(members)
  parts = {
      'fields': fields * uneven / devices,
      'placing': placed / num_data * _PLACED_BYTES / machine.memory,
      'update': (last + work.num_prior_points) * _SORTED_BYTES / machine.memory,
      'wires': wires,
      'latency': latency,
  }
  return {**parts, 'step': sum(parts.values())}


def _members(axes, num_data, num_node, machine):
  """(devices that exchange, whether they lie on several hosts)."""
  # Devices of a node group lie side by side; groups follow one another.
  size = {'data': num_data, 'node': num_node}
  members = math.prod(size[axis] for axis in axes)
  reach = num_node if axes == ('node',) else num_data * num_node
  return members, reach > machine.host_devices and members > 1


def host_mesh(machine: Machine, num_devices: int) -> tuple[int, int]:
  """(data, node): the nodes over the devices of a host, the rays over hosts."""
  num_node = math.gcd(num_devices, machine.host_devices)
  return num_devices // num_node, num_node


def best_mesh(
    work: Workload, machine: Machine, num_devices: int
) -> tuple[int, int]:
  """(data, node) of the fastest mesh whose rays divide."""
  shapes = [
      (num_data, num_devices // num_data)
      for num_data in range(1, num_devices + 1)
      if num_devices % num_data == 0 and work.num_rays % num_data == 0
  ]
  return min(
      shapes, key=lambda shape: step_seconds(work, machine, *shape)['step']
  )


def project(
    num_devices: int,
    *,
    work: Workload = Workload(),
    machine: Machine = Machine(),
    grows: bool = False,
    mesh: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Rays a second on many devices against those of one.

  Args:
    num_devices: of the run.
    work: of one device.
    machine: assumed speeds.
    grows: the batch grows with the devices; else it stays.
    mesh: (data, node); None: see `host_mesh`.

  Returns:
    'devices', 'mesh', 'speedup' (of rays a second), 'share' (rows on a
    device), 'bytes' (sent by a device) and the seconds of `step_seconds`.
  """
  one = step_seconds(work, machine, 1, 1)['step'] / work.num_rays
  if grows:
    work = dataclasses.replace(work, num_rays=work.num_rays * num_devices)
  mesh = mesh or host_mesh(machine, num_devices)
  seconds = step_seconds(work, machine, *mesh)
  found = sizes(work, *mesh)
  return {
      'devices': num_devices,
      'mesh': list(mesh),
      'num_rays': work.num_rays,
      'speedup': one * work.num_rays / seconds['step'],
      'share': found.capacity / work.num_nodes,
      'bytes': traffic.wire_bytes(found),
      'seconds': seconds,
  }
