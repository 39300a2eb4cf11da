"""A sharded state's rows: made where they live, moved, and brought together.

No device and no process but the one that asks for it ever holds all rows: they
pass in pieces.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.sharding import partition as partition_lib
from infnerf_jax.training import optimizer, sharded_step
from infnerf_jax.training import state as state_lib

_P = jax.sharding.PartitionSpec
_ROWS, _ALL = _P(mesh_lib.NODE), _P()
# Of a piece of rows, which every device holds for a moment.
_PIECE_BYTES = 2**26


def init_state(
    key,
    spec: scene_model.ModelSpec,
    partition: partition_lib.Partition,
    mesh: jax.sharding.Mesh,
    *,
    num_photos: int,
    dense_optimizer: optax.GradientTransformation,
    refine_poses: bool = False,
) -> state_lib.TrainState:
  """State before the first step, each row made on the devices that own it.

  Args:
    key: PRNG key.
    spec: model.
    partition: of the tree's nodes, whose rows are the slots.
    mesh: as many node shards as the partition has.
    num_photos: rows of the appearance table.
    dense_optimizer: for everything but the node fields.
    refine_poses: whether photos have a learned motion.

  Returns:
    TrainState over the mesh, the same as `state.init_state` sharded.
  """
  sharded_step.check_mesh(partition, mesh)

  def make(row):
    used = row >= 0
    nodes = node_pool.init_rows(key, jnp.maximum(row, 0), spec.field)
    blank = lambda x: jnp.where(
        used.reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.zeros_like(x)
    )
    nodes = jax.tree.map(blank, nodes)
    return nodes, optimizer.init_nodes(nodes)

  row = sharded_step.place(partition.node_of_local.reshape(-1), mesh, _ROWS)
  nodes, moments = jax.jit(
      jax.shard_map(
          make, mesh=mesh, in_specs=_ROWS, out_specs=_ROWS, check_vma=False
      )
  )(row)
  dense = state_lib.init_dense(spec, num_photos, refine_poses=refine_poses)
  everywhere = lambda tree: sharded_step.place_everywhere(tree, mesh)
  zero = np.int32(0)
  return state_lib.TrainState(
      step=everywhere(zero),
      params={'nodes': nodes, **everywhere(dense)},
      opt_state={
          'nodes': moments,
          'dense': everywhere(dense_optimizer.init(dense)),
      },
      skipped=everywhere(zero),
      skipped_in_row=everywhere(zero),
  )


def _piece_rows(x, mesh) -> int:
  """Rows of a shard that pass at once."""
  num_node = mesh.shape[mesh_lib.NODE]
  row_bytes = x.dtype.itemsize * math.prod(x.shape[1:])
  rows = _PIECE_BYTES // max(1, num_node * row_bytes)
  return int(min(max(1, rows), x.shape[0] // num_node))


def _pieces(x, mesh):
  """(rows at once, first local row of each piece); the last may overlap."""
  count, capacity = _piece_rows(x, mesh), x.shape[0]
  capacity //= mesh.shape[mesh_lib.NODE]
  return count, [
      min(start, capacity - count) for start in range(0, capacity, count)
  ]


def _piece(x, start, count):
  """[M * count, ...] rows of all node shards from a local row on."""
  piece = jax.lax.dynamic_slice_in_dim(x, start, count)
  return jax.lax.all_gather(piece, mesh_lib.NODE, tiled=True)


@functools.lru_cache
def _collector(mesh, count):
  return jax.jit(
      jax.shard_map(
          lambda x, start: _piece(x, start, count),
          mesh=mesh,
          in_specs=(_ROWS, _ALL),
          out_specs=_ALL,
          check_vma=False,
      )
  )


def _first_has_all(mesh) -> bool:
  """Whether the first process holds every node shard by itself."""
  here = [
      column
      for (_, column), device in np.ndenumerate(mesh.devices)
      if device.process_index == 0
  ]
  return len(set(here)) == mesh.shape[mesh_lib.NODE]


def _own_shards(x, partition):
  """[N, ...] in the tree's order, from the shards of this process."""
  num_nodes = partition.local_slot.shape[1]
  out = np.zeros((num_nodes,) + x.shape[1:], x.dtype)
  for shard in x.addressable_shards:
    at = (shard.index[0].start or 0) // partition.capacity
    nodes = partition.node_of_local[at]
    out[nodes[nodes >= 0]] = np.asarray(shard.data)[nodes >= 0]
  return out


def _collect(x, partition, mesh, keep):
  """[N, ...] in the tree's order; None where it is not to be kept."""
  out = None
  if keep:
    out = np.zeros((partition.local_slot.shape[1],) + x.shape[1:], x.dtype)
  count, starts = _pieces(x, mesh)
  for start in starts:
    piece = _collector(mesh, count)(x, np.int32(start))
    piece.block_until_ready()  # one at a time
    if keep:
      nodes = partition.node_of_local[:, start : start + count].reshape(-1)
      values = np.asarray(piece.addressable_data(0))
      out[nodes[nodes >= 0]] = values[nodes >= 0]
  return out


def collect_state(
    state: state_lib.TrainState,
    partition: partition_lib.Partition,
    mesh: jax.sharding.Mesh,
) -> state_lib.TrainState | None:
  """The state in the tree's order on the first process's host.

  All processes must call it.

  Args:
    state: over the mesh.
    partition: with which it was sharded.
    mesh: of one process or of several.

  Returns:
    TrainState of NumPy arrays; None on the other processes.
  """
  first = jax.process_index() == 0
  if _first_has_all(mesh):
    if not first:
      return None
    rows = lambda x: _own_shards(x, partition)
  else:
    rows = lambda x: _collect(x, partition, mesh, first)
  dense = lambda x: np.asarray(x.addressable_data(0))
  found = sharded_step.map_state(state, rows, dense)
  return found if first else None


@functools.lru_cache
def _mover(mesh, count):
  def move(new, x, start, rows):
    piece = _piece(x, start, count)
    return new.at[rows[0]].set(piece, mode='drop')

  return jax.jit(
      jax.shard_map(
          move,
          mesh=mesh,
          in_specs=(_ROWS, _ROWS, _ALL, _ROWS),
          out_specs=_ROWS,
          check_vma=False,
      ),
      donate_argnums=0,
  )


def zeros(shapes, mesh: jax.sharding.Mesh):
  """Rows of all node shards that hold nothing.

  Args:
    shapes: pytree of arrays' shapes and types.
    mesh: over whose node shards their rows lie.
  """
  make = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  sharding = jax.sharding.NamedSharding(mesh, _ROWS)
  return jax.jit(make, out_shardings=sharding)()


def _move(x, old, new, mesh):
  """Rows of one partition as those of another."""
  shape = (new.num_shards * new.capacity,) + x.shape[1:]
  moved = zeros(jax.ShapeDtypeStruct(shape, x.dtype), mesh)
  count, starts = _pieces(x, mesh)
  for start in starts:
    nodes = old.node_of_local[:, start : start + count].reshape(-1)
    rows = np.where(nodes >= 0, new.local_slot[:, nodes], -1)
    # Behind the last row: dropped. Negative ones would count from the end.
    rows = np.where(rows >= 0, rows, new.capacity).astype(np.int32)
    rows = sharded_step.place(rows, mesh, _ROWS)
    moved = _mover(mesh, count)(moved, x, np.int32(start), rows)
  return moved


def move_state(
    state: state_lib.TrainState,
    old: partition_lib.Partition,
    new: partition_lib.Partition,
    mesh: jax.sharding.Mesh,
) -> state_lib.TrainState:
  """The state by another partition; no process ever holds all of it.

  Args:
    state: over the mesh, sharded by `old`.
    old: partition.
    new: partition of the same nodes.
    mesh: as many node shards as both have.

  Returns:
    TrainState sharded by `new`; spare rows are zero.
  """
  if np.array_equal(old.node_of_local, new.node_of_local):
    return state
  rows = lambda x: _move(x, old, new, mesh)
  return sharded_step.map_state(state, rows, lambda x: x)


def live_bytes() -> dict[int, int]:
  """Bytes of all live arrays on each device of this process, by its id."""
  held = {device.id: 0 for device in jax.local_devices()}
  for array in jax.live_arrays():
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
      continue  # its data is an array of its own
    size = array.dtype.itemsize * math.prod(
        array.sharding.shard_shape(array.shape)
    )
    for device in array.sharding.addressable_devices:
      if device.id in held:
        held[device.id] += size
  return held
