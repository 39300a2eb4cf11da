"""Bytes that devices exchange in a step: formulas, for planning and tests.

`docs/scaling.md` explains the exchanges. A buffer is what one device gives to
an all-reduce, or gets from an all-gather; what crosses its wire is by the ring
algorithms of NCCL at most twice the buffer, or once.
"""

import dataclasses
import math
import re
from typing import NamedTuple

from infnerf_jax.sharding import mesh as mesh_lib

_FLOAT = 4
_WIDTH = {'f32': 4, 's32': 4, 'u32': 4, 'pred': 1, 'f64': 8, 's64': 8}
_DATA, _NODE = (mesh_lib.DATA,), (mesh_lib.NODE,)
_BOTH = _DATA + _NODE


@dataclasses.dataclass(frozen=True)
class StepSizes:
  """What the bytes of a step follow.

  Attributes:
    num_data: data shards.
    num_node: node shards.
    num_rays: of the whole batch.
    num_samples: a ray's samples, by sampling round.
    num_prior_points: points at which the priors look.
    encoded_dim: features of a sample, grid scales x features of one.
    capacity: rows of a node shard, C.
    num_replicated: of them alike on all, T.
    mlp_size: numbers in a node's MLPs.
    dense_size: numbers in appearance and poses.
  """

  num_data: int
  num_node: int
  num_rays: int
  num_samples: tuple[int, ...]
  num_prior_points: int
  encoded_dim: int
  capacity: int
  num_replicated: int
  mlp_size: int
  dense_size: int


class Exchange(NamedTuple):
  """One collective of a step.

  Attributes:
    name: what is exchanged.
    kind: 'all-reduce' or 'all-gather'.
    axes: over which axes of the mesh.
    buffer: bytes.
  """

  name: str
  kind: str
  axes: tuple[str, ...]
  buffer: int


def num_prior_points(options) -> int:
  """Points of the priors of a step.

  Args:
    options: with the fields of `training.step_options.StepOptions`; a tree
      without inner nodes has no level consistency, which is not seen here.
  """
  drawn = options.num_prior_nodes * options.num_prior_points
  # A parent's point for each of eight children, and seven in the child.
  consistency = 64 * drawn if options.lambda_regularization else 0
  return consistency + (drawn if options.lambda_transparency else 0)


def step_exchanges(sizes: StepSizes) -> list[Exchange]:
  """The collectives of a step without rehearsal, scalars apart.

  Args:
    sizes: see there.

  Returns:
    Exchanges; those over one device alone are left out.
  """
  rays = sizes.num_rays // sizes.num_data
  last = sizes.num_samples[-1]
  features, points = sizes.encoded_dim, sizes.num_prior_points
  reduce, gather = 'all-reduce', 'all-gather'
  found = [
      (f'densities, round {k}', reduce, _NODE, rays * count)
      for k, count in enumerate(sizes.num_samples[:-1])
  ]
  found += [
      ('densities and colours, last round', reduce, _NODE, 4 * rays * last),
      ('densities of priors', reduce, _BOTH, points),
      (
          'feature gradients for replicas',
          gather,
          _NODE,
          -(-rays // sizes.num_node) * sizes.num_node * last * features,
      ),
      (
          'positions, slots and feature gradients',
          gather,
          _DATA,
          sizes.num_rays * last * (3 + 1 + features),
      ),
      ('feature gradients of priors', reduce, _BOTH, points * features),
      ('MLP gradients', reduce, _DATA, sizes.capacity * sizes.mlp_size),
      (
          'MLP gradients of replicas',
          reduce,
          _NODE,
          sizes.num_replicated * sizes.mlp_size,
      ),
      ('gradients of appearance and poses', reduce, _BOTH, sizes.dense_size),
  ]
  size = {mesh_lib.DATA: sizes.num_data, mesh_lib.NODE: sizes.num_node}
  return [
      Exchange(name, kind, axes, _FLOAT * count)
      for name, kind, axes, count in found
      if count and any(size[axis] > 1 for axis in axes)
  ]


def buffer_bytes(sizes: StepSizes) -> dict[str, int]:
  """Bytes of all buffers of a step, by kind of collective."""
  total = dict.fromkeys(('all-reduce', 'all-gather'), 0)
  for exchange in step_exchanges(sizes):
    total[exchange.kind] += exchange.buffer
  return total


def collective_bytes(program: str) -> dict[str, int]:
  """Bytes of the results of a compiled program's collectives, by kind.

  Args:
    program: text of the compiled module (`compiled.as_text()`).

  Returns:
    {'all-reduce': bytes, 'all-gather': bytes}.

  Raises:
    ValueError: there are collectives of other kinds.
  """
  others = r' (all-to-all|collective-permute|reduce-scatter)(?:-start)?\('
  if surplus := re.search(others, program):
    raise ValueError(f'got {surplus[1]}, expected all-reduce and all-gather')
  found = dict.fromkeys(('all-reduce', 'all-gather'), 0)
  for result, kind in re.findall(
      r' = (.*?) (all-reduce|all-gather)(?:-start)?\(', program
  ):
    for dtype, shape in re.findall(r'(\w+)\[([\d,]*)\]', result):
      count = math.prod(int(n) for n in shape.split(',') if n)
      found[kind] += _WIDTH[dtype] * count
  return found


def wire_bytes(sizes: StepSizes) -> float:
  """Bytes that each device sends in a step, by ring algorithms."""
  size = {mesh_lib.DATA: sizes.num_data, mesh_lib.NODE: sizes.num_node}
  total = 0.0
  for exchange in step_exchanges(sizes):
    members = 1
    for axis in exchange.axes:
      members *= size[axis]
    passes = 2 if exchange.kind == 'all-reduce' else 1
    total += passes * (members - 1) / members * exchange.buffer
  return total
