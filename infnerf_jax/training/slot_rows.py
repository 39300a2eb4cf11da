"""Rows of the slots of a mesh, one device's at a time.

A row comes and goes on the devices that hold its slot; no other device, and no
other process, takes part.
"""

import functools
from typing import Any

import jax
import numpy as np

from infnerf_jax.training import capacity as capacity_lib

# Leaves of each device of this process.
Parts = dict[jax.Device, list[jax.Array]]


@jax.jit
def _get_row(leaves, slot):
  """A copy of one row, in buffers of its own."""
  at = lambda x: jax.lax.dynamic_index_in_dim(x, slot, 0, keepdims=False)
  return jax.tree.map(at, leaves)


@functools.partial(jax.jit, donate_argnums=0)
def _put_row(leaves, row, slot):
  """Rows with one of them replaced, in place."""
  put = lambda stack, one: jax.lax.dynamic_update_index_in_dim(
      stack, one, slot, 0
  )
  return jax.tree.map(put, leaves, row)


class SlotRows:
  """Which devices hold which rows, and copies of them."""

  def __init__(
      self, mesh: jax.sharding.Mesh, capacity: capacity_lib.Capacity, template
  ):
    """Holds no rows.

    Args:
      mesh: data shards by node shards.
      capacity: of its slots.
      template: a row, or its shapes and types.
    """
    self._devices, self._capacity = mesh.devices, capacity
    self._treedef = jax.tree.structure(template)
    self._me = jax.process_index()

  def writer(self, slot: int) -> int:
    """The process that writes a row: the first of those that hold it."""
    shard = self._capacity.shards_of(slot)[0]
    return self._devices[0, shard].process_index

  def holders(self, slot: int) -> set[int]:
    """The processes that hold a row."""
    return {d.process_index for d in self._holding(slot)}

  def _holding(self, slot):
    shards = self._capacity.shards_of(slot)
    return self._devices[:, shards.start : shards.stop].flat

  def _here(self, slot):
    return [d for d in self._holding(slot) if d.process_index == self._me]

  def take_apart(self, rows) -> Parts:
    """By device; the rows are not to be used any more.

    Args:
      rows: pytree of arrays over the mesh.
    """
    parts = {}
    for leaf in jax.tree.leaves(rows):
      for shard in leaf.addressable_shards:
        parts.setdefault(shard.device, []).append(shard.data)
    return parts

  def put_together(self, parts: Parts, like) -> Any:
    """Inverse of `take_apart`.

    Args:
      parts: of the devices of this process.
      like: the rows that were taken apart.
    """
    leaves = [
        jax.make_array_from_single_device_arrays(
            leaf.shape, leaf.sharding, [part[i] for part in parts.values()]
        )
        for i, leaf in enumerate(jax.tree.leaves(like))
    ]
    return self._treedef.unflatten(leaves)

  def get(self, parts: Parts, slot: int):
    """A copy of a row that this process holds."""
    device = self._here(slot)[0]
    local = np.int32(slot % self._capacity.num_slots)
    return self._treedef.unflatten(_get_row(parts[device], local))

  def put(self, parts: Parts, slot: int, row) -> None:
    """Replaces a row on all devices here that hold it."""
    leaves, local = jax.tree.leaves(row), slot % self._capacity.num_slots
    for device in self._here(slot):
      on_device = jax.device_put(leaves, device)
      parts[device] = _put_row(parts[device], on_device, np.int32(local))
