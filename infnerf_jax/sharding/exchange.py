"""What devices tell each other in a step: values of samples, never rows.

Every function takes a `Shard` and runs inside `jax.shard_map`, or takes None
and is then the identity of a single device: callers need no cases.

All node shards of one data shard hold the same rays, place the same samples
and form the same losses; each evaluates the samples of its own nodes. So a
cotangent of the combined values is known on every node shard already: it
flows back to the owner without a message (`combine`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from infnerf_jax.sharding import mesh as mesh_lib

_BOTH = (mesh_lib.DATA, mesh_lib.NODE)


class Shard(NamedTuple):
  """What a device holds of the node pool.

  Attributes:
    local_slot: [num_slots] int32, its row of each slot, -1: another's.
    replicated: [T] int32, slots whose rows are alike on all node shards:
      local rows 0 to T - 1.
  """

  local_slot: jax.Array
  replicated: jax.Array

  @property
  def num_replicated(self) -> int:
    return self.replicated.shape[0]


def rows_of_slots(shard: Shard | None, slot):
  """Local rows of slots, -1 where another shard owns the node.

  Args:
    shard: of this device.
    slot: [...] int32 of the whole pool, -1: none.

  Returns:
    [...] int32.
  """
  if shard is None:
    return slot
  return shard.local_slot.at[slot].get(
      mode='fill', fill_value=-1, wrap_negative_indices=False
  )


def own_rows(shard: Shard | None, slot, turn, *, on_all_data=False):
  """Local rows of the samples that this device evaluates, else -1.

  Exactly one node shard gets each sample: the owner of its node, or for a
  replicated node the shard whose turn it is.

  Args:
    shard: of this device.
    slot: [S] int32 of the whole pool, -1: none.
    turn: [S] int32 >= 0, the same on all devices that hold the sample.
    on_all_data: whether all data shards hold these samples and share them
      out by turn, too; else they are this data shard's alone.

  Returns:
    [S] int32.
  """
  if shard is None:
    return slot
  local = rows_of_slots(shard, slot)
  if on_all_data:
    num_data = jax.lax.axis_size(mesh_lib.DATA)
    theirs = turn % num_data != jax.lax.axis_index(mesh_lib.DATA)
    local, turn = jnp.where(theirs, -1, local), turn // num_data
  num_node = jax.lax.axis_size(mesh_lib.NODE)
  on_turn = turn % num_node == jax.lax.axis_index(mesh_lib.NODE)
  return jnp.where((local >= shard.num_replicated) | on_turn, local, -1)


def combine(shard: Shard | None, values, *, on_all_data=False):
  """Values of all samples from those that each device evaluated.

  Skipped samples are zero, so the sum has the owner's bits. The derivative is
  the identity: see the module's docstring.

  Args:
    shard: of this device.
    values: [S, ...], zero where another device evaluates.
    on_all_data: see `own_rows`.

  Returns:
    [S, ...], the same on all devices that hold the samples.
  """
  if shard is None:
    return values
  return _combine(_BOTH if on_all_data else (mesh_lib.NODE,), values)


def _sum(values, axes):
  """A pytree summed over axes; nothing is exchanged with oneself."""
  axes = tuple(axis for axis in axes if jax.lax.axis_size(axis) > 1)
  return jax.lax.psum(values, axes) if axes else values


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _combine(axes, values):
  return _sum(values, axes)


def _combine_fwd(axes, values):
  return _sum(values, axes), None


def _combine_bwd(axes, residual, cotangent):
  del axes, residual
  return (cotangent,)


_combine.defvjp(_combine_fwd, _combine_bwd)


def uniform(shard: Shard | None, key, shape, **limits):
  """Uniform numbers of this data shard's rays, as one device draws them.

  Args:
    shard: of this device.
    key: PRNG key.
    shape: leading axis: this data shard's rays.
    **limits: of `jax.random.uniform`.

  Returns:
    float32 of `shape`: its rows of the whole batch's draw.
  """
  if shard is None:
    return jax.random.uniform(key, shape, **limits)
  num_data = jax.lax.axis_size(mesh_lib.DATA)
  whole = (shape[0] * num_data,) + tuple(shape[1:])
  # Generators cannot begin in the middle; drawing is cheap beside a sample.
  drawn = jax.random.uniform(key, whole, **limits)
  first = jax.lax.axis_index(mesh_lib.DATA) * shape[0]
  return jax.lax.dynamic_slice_in_dim(drawn, first, shape[0])


def num_data(shard: Shard | None) -> int:
  """Data shards of the mesh."""
  return 1 if shard is None else jax.lax.axis_size(mesh_lib.DATA)


def sum_over_data(shard: Shard | None, values):
  """Sums a pytree over the data shards; node shards have the same sums."""
  if shard is None:
    return values
  return _sum(values, (mesh_lib.DATA,))


def sum_over_all(shard: Shard | None, values):
  """Sums a pytree to which every device adds its own samples' part."""
  if shard is None:
    return values
  return _sum(values, _BOTH)


def sum_rows(shard: Shard | None, rows):
  """Sums gradients of local rows over all who evaluated their nodes.

  Args:
    shard: of this device.
    rows: pytree of [C, ...], by local slot.

  Returns:
    The same pytree: owned rows summed over data shards, replicated rows over
    all devices.
  """
  if shard is None:
    return rows
  rows = sum_over_data(shard, rows)
  num = shard.num_replicated
  top = _sum(jax.tree.map(lambda x: x[:num], rows), (mesh_lib.NODE,))
  return jax.tree.map(lambda x, new: x.at[:num].set(new), rows, top)


def _from_turns(gradient, num_rays):
  """Each ray's gradients from the node shard whose turn it was.

  Args:
    gradient: [L, R * S, F]; the turn of ray r is r modulo node shards.
    num_rays: R.

  Returns:
    [L, R * S, F].
  """
  num_node = jax.lax.axis_size(mesh_lib.NODE)
  if num_node == 1:
    return gradient
  num_scales, _, num_features = gradient.shape
  by_ray = gradient.reshape(num_scales, num_rays, -1, num_features)
  by_ray = jnp.pad(by_ray, ((0, 0), (0, -num_rays % num_node), (0, 0), (0, 0)))
  turns = by_ray.shape[1] // num_node
  # [L, turns, node shards, S, F]
  by_turn = by_ray.reshape((num_scales, turns, num_node) + by_ray.shape[2:])
  mine = jax.lax.dynamic_index_in_dim(
      by_turn, jax.lax.axis_index(mesh_lib.NODE), axis=2, keepdims=False
  )
  by_turn = jax.lax.all_gather(mine, mesh_lib.NODE, axis=2)
  by_ray = by_turn.reshape(by_ray.shape)[:, :num_rays]
  return by_ray.reshape(gradient.shape)


def gather_features(
    shard: Shard | None, position, slot, gradient, *, num_rays: int
):
  """Feature gradients of all rays that may change this device's rows.

  Owned rows: those of all data shards. Replicated rows: of all devices, so
  that all replicas add the same numbers in the same order.

  Args:
    shard: of this device.
    position: [S, 3] of this data shard's samples, ray by ray.
    slot: [S] int32 of the whole pool.
    gradient: [L, S, F], zero where another device evaluates; those of
      replicated nodes took turns by ray.
    num_rays: of this data shard, with as many samples each.

  Returns:
    (position [D * S, 3], local slot [D * S], gradient [L, D * S, F]) for D
    data shards; the order is that of the rays of a single device.
  """
  if shard is None:
    return position, slot, gradient
  local = rows_of_slots(shard, slot)
  replicated = (local >= 0) & (local < shard.num_replicated)
  gradient = jnp.where(
      replicated[:, None], _from_turns(gradient, num_rays), gradient
  )
  if num_data(shard) == 1:
    return position, local, gradient
  gather = functools.partial(
      jax.lax.all_gather, axis_name=mesh_lib.DATA, tiled=True
  )
  return gather(position), gather(local), gather(gradient, axis=1)


def gather_rays(shard: Shard | None, values):
  """A pytree of [R, ...] of this data shard's rays, of all of them in order."""
  if num_data(shard) == 1:
    return values
  gather = functools.partial(
      jax.lax.all_gather, axis_name=mesh_lib.DATA, tiled=True
  )
  return jax.tree.map(gather, values)


def sum_features(shard: Shard | None, position, slot, gradient):
  """As `gather_features`, of samples that all data shards hold."""
  if shard is None:
    return position, slot, gradient
  return position, rows_of_slots(shard, slot), _sum(gradient, _BOTH)


def all_true(shard: Shard | None, flags):
  """Whether every device's flag is True, for each of a pytree of [] bool."""
  if shard is None:
    return flags
  count = lambda flag: _sum((~flag).astype(jnp.int32), _BOTH)
  return jax.tree.map(lambda flag: count(flag) == 0, flags)


def counts_of_devices(shard: Shard | None, count):
  """[num_data, num_node] of a scalar that differs by device."""
  if shard is None:
    return count.reshape(1, 1)
  by_node = jax.lax.all_gather(count, mesh_lib.NODE)
  return jax.lax.all_gather(by_node, mesh_lib.DATA)
