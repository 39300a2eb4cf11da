"""The training step over a mesh: the single device's step, exactly.

The state's rows are those of all node shards one after another: on each the
replicated nodes first, then its own, then spare rows. `shard_state` and
`gather_state` go between that order and the tree's, which checkpoints keep:
so a run may go on with another mesh.
"""

from typing import Any, Callable

import jax
import numpy as np

from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays
from infnerf_jax.sharding import exchange
from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.sharding import partition as partition_lib
from infnerf_jax.training import gradients
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import step_options as options_lib

_P = jax.sharding.PartitionSpec
_ROWS, _RAYS, _ALL = _P(mesh_lib.NODE), _P(mesh_lib.DATA), _P()


def state_specs(options: options_lib.StepOptions) -> state_lib.TrainState:
  """Partition specs of a TrainState (a prefix of its pytree)."""
  dense = {'appearance': _ALL}
  if options.refine_poses:
    dense['poses'] = _ALL
  return state_lib.TrainState(
      step=_ALL,
      params={'nodes': _ROWS, **dense},
      opt_state={'nodes': _ROWS, 'dense': _ALL},
      skipped=_ALL,
      skipped_in_row=_ALL,
  )


def surroundings_specs() -> gradients.Surroundings:
  """Partition specs of sharded Surroundings (a prefix of their pytree)."""
  tree = scene_model.TreeArrays(_ALL, _ALL, exchange.Shard(_ROWS, _ALL), _ALL)
  return gradients.Surroundings(tree, _ALL, _ALL, _ALL, _ALL, _ALL, _ALL)


def place(x, mesh: jax.sharding.Mesh, spec: jax.sharding.PartitionSpec):
  """A global array from a host array of the same content."""
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    data = place(jax.random.key_data(x), mesh, spec)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
  x = np.asarray(x)
  # A callback: in a run of several processes each makes its own part only.
  return jax.make_array_from_callback(
      x.shape, jax.sharding.NamedSharding(mesh, spec), lambda at: x[at]
  )


def place_everywhere(tree, mesh: jax.sharding.Mesh):
  """Copies a pytree of arrays to every device of the mesh."""
  return jax.tree.map(lambda x: place(x, mesh, _ALL), tree)


def shard_batch(
    batch: gradients.RayBatch, mesh: jax.sharding.Mesh
) -> gradients.RayBatch:
  """Deals a batch's rays out to the data shards, in order.

  Args:
    batch: [R] rays of the whole step.
    mesh: see `sharding.mesh`.

  Returns:
    The same batch as arrays over the mesh.

  Raises:
    ValueError: R is no multiple of the data shards.
  """
  num_rays, num_data = batch.valid.shape[0], mesh.shape[mesh_lib.DATA]
  if num_rays % num_data:
    raise ValueError(
        f'batch_size: got {num_rays}, expected a multiple of the {num_data}'
        ' data shards'
    )
  return jax.tree.map(lambda x: place(x, mesh, _RAYS), batch)


def shard_surroundings(
    surroundings: gradients.Surroundings,
    partition: partition_lib.Partition,
    mesh: jax.sharding.Mesh,
) -> gradients.Surroundings:
  """Surroundings whose tree says what each device holds.

  Args:
    surroundings: of a single device, with a slot for every node.
    partition: of the tree's nodes, whose rows are the slots.
    mesh: as many node shards as the partition has.

  Returns:
    Surroundings on the mesh.
  """
  check_mesh(partition, mesh)
  num_nodes = surroundings.tree.slot_of_node.shape[0]
  if partition.local_slot.shape[1] != num_nodes:
    raise ValueError(
        f'partition: got {partition.local_slot.shape[1]} nodes, expected the'
        f" tree's {num_nodes}"
    )
  top = np.flatnonzero(partition.shard_of_node < 0)
  shard = place_shard(partition.local_slot, top, mesh)
  placed = place_everywhere(
      surroundings._replace(tree=surroundings.tree._replace(shard=None)), mesh
  )
  return placed._replace(tree=placed.tree._replace(shard=shard))


def place_shard(local_slot, replicated, mesh) -> exchange.Shard:
  """What each device holds of the slots.

  Args:
    local_slot: [M, num_slots] int32 rows of each node shard, -1: another's.
    replicated: [T] slots that are rows 0 to T - 1 of all.
    mesh: of M node shards.
  """
  return exchange.Shard(
      place(local_slot.reshape(-1), mesh, _ROWS),
      place(np.asarray(replicated, np.int32), mesh, _ALL),
  )


def check_mesh(
    partition: partition_lib.Partition, mesh: jax.sharding.Mesh
) -> None:
  """Refuses a partition for another number of node shards."""
  num_node = mesh.shape[mesh_lib.NODE]
  if partition.num_shards != num_node:
    raise ValueError(
        f'partition: got {partition.num_shards} shards, expected the'
        f" mesh's {num_node}"
    )


def map_state(state: state_lib.TrainState, rows, dense) -> state_lib.TrainState:
  """Applies one function to what has a row a node, another to the rest."""
  nodes = lambda x: jax.tree.map(rows, x)
  params = {
      name: nodes(x) if name == 'nodes' else jax.tree.map(dense, x)
      for name, x in state.params.items()
  }
  return state_lib.TrainState(
      step=dense(state.step),
      params=params,
      opt_state={
          'nodes': nodes(state.opt_state['nodes']),
          'dense': jax.tree.map(dense, state.opt_state['dense']),
      },
      skipped=dense(state.skipped),
      skipped_in_row=dense(state.skipped_in_row),
  )


def shard_state(
    state: state_lib.TrainState,
    partition: partition_lib.Partition,
    mesh: jax.sharding.Mesh,
) -> state_lib.TrainState:
  """Puts each node's rows, moments included, where the node lives.

  Args:
    state: a row a node, in the tree's order.
    partition: of these nodes.
    mesh: as many node shards as the partition has.

  Returns:
    TrainState over the mesh; spare rows are zero.
  """
  check_mesh(partition, mesh)
  node_of_row = partition.node_of_local.reshape(-1)
  sharding = jax.sharding.NamedSharding(mesh, _ROWS)

  def rows(x):
    x = np.asarray(x)

    def part(at):
      nodes = node_of_row[at[0]]
      values = x[np.maximum(nodes, 0)]
      values[nodes < 0] = 0
      return values

    shape = (len(node_of_row),) + x.shape[1:]
    return jax.make_array_from_callback(shape, sharding, part)

  return map_state(state, rows, lambda x: place(x, mesh, _ALL))


def gather_state(
    state: state_lib.TrainState, partition: partition_lib.Partition
) -> state_lib.TrainState:
  """The state in the tree's order, on the host; inverse of `shard_state`.

  Args:
    state: over a mesh whose devices all belong to this process.
    partition: with which it was sharded.

  Returns:
    TrainState of NumPy arrays.
  """
  owners = partition_lib.owner_rows(partition)
  rows = lambda x: np.asarray(x)[owners]
  return map_state(state, rows, np.asarray)


def make_sharded_train_step(
    mesh: jax.sharding.Mesh,
    spec: scene_model.ModelSpec,
    render_options: render_rays.RenderOptions,
    options: options_lib.StepOptions,
) -> Callable[..., tuple[state_lib.TrainState, step_lib.StepMetrics]]:
  """Jits `train_step` over a mesh; the state is donated.

  Args:
    mesh: see `sharding.mesh`.
    spec: static facts of the model.
    render_options: sampling.
    options: losses and optimiser; `ray_microbatch` counts a data shard's rays.

  Returns:
    (state, batch, surroundings, key) to (state, StepMetrics), with arguments
    from `shard_state`, `shard_batch`, `shard_surroundings` and
    `place_everywhere`.

  Raises:
    ValueError: microbatches that the node shards cannot take turns in.
  """
  num_node = mesh.shape[mesh_lib.NODE]
  if options.ray_microbatch % num_node:
    raise ValueError(
        f'ray_microbatch: got {options.ray_microbatch}, expected a multiple of'
        f' the {num_node} node shards'
    )

  def step(state, batch, surroundings, key) -> Any:
    return step_lib.train_step(
        state,
        batch,
        surroundings,
        key,
        spec=spec,
        render_options=render_options,
        options=options,
    )

  specs = state_specs(options)
  # The checker cannot follow native and Triton calls, nor that sums which
  # only owners add to are the same everywhere.
  sharded = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(specs, _RAYS, surroundings_specs(), _ALL),
      out_specs=(specs, _ALL),
      check_vma=False,
  )
  return jax.jit(sharded, donate_argnums=0)
