"""Moves rows of a training state between slots and disk as a plan says.

A step waits for what its plan wants resident and for nothing else: rows that
come are read ahead by one thread, rows that leave are copied out of their slot
and written by another. How fast either is changes no bit.
"""

import collections
import concurrent.futures
import functools
import threading
import time
from typing import Any, Callable

import jax
import numpy as np

from infnerf_jax.models import node_pool
from infnerf_jax.storage import leaves, node_store, row_store
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import optimizer, residency
from infnerf_jax.training import state as state_lib

Rows = dict[str, Any]


def rows_of(state: state_lib.TrainState) -> Rows:
  """What has a row a slot: parameters and optimiser state of the nodes."""
  return {
      node_store.PARAMETERS: state.params['nodes'],
      node_store.MOMENTS: state.opt_state['nodes'],
  }


def with_rows(state: state_lib.TrainState, rows: Rows) -> state_lib.TrainState:
  """The state with other rows."""
  return state._replace(
      params={**state.params, 'nodes': rows[node_store.PARAMETERS]},
      opt_state={**state.opt_state, 'nodes': rows[node_store.MOMENTS]},
  )


@jax.jit
def _get_row(rows, slot):
  """A copy of one row, in buffers of its own."""
  at = lambda x: jax.lax.dynamic_index_in_dim(x, slot, 0, keepdims=False)
  return jax.tree.map(at, rows)


@functools.partial(jax.jit, donate_argnums=0)
def _put_row(rows, row, slot):
  """Rows with one of them replaced, in place."""
  put = lambda stack, one: jax.lax.dynamic_update_index_in_dim(
      stack, one, slot, 0
  )
  return jax.tree.map(put, rows, row)


def initial_row(key, node_id, spec) -> Rows:
  """A node's row before its first step, as `state.init_state` has it.

  Args:
    key: PRNG key of the run's initial parameters.
    node_id: [] row of the tree.
    spec: FieldSpec.
  """
  nodes = node_pool.init_rows(key, node_id[None], spec)
  rows = {
      node_store.PARAMETERS: nodes,
      node_store.MOMENTS: optimizer.init_nodes(nodes),
  }
  return jax.tree.map(lambda x: x[0], rows)


class Pager:
  """Keeps the rows of a run's slots; for one thread.

  Attributes:
    seconds_waited: for reads that were not done, and for writes behind.
  """

  def __init__(
      self,
      store: row_store.RowStore,
      plan: residency.Plan,
      keys: np.ndarray,
      first_row: Callable[[int], Rows],
  ):
    """Holds nothing yet.

    Args:
      store: where rows go.
      plan: what is resident when.
      keys: [N] int64 node_keys.
      first_row: row of a node that was never written.
    """
    self._store, self._plan = store, plan
    self._keys, self._first_row = keys, first_row
    self._template = jax.eval_shape(lambda: first_row(0))
    self._node_of_slot = np.full(plan.capacity.num_slots, -1, np.int64)
    self._slot_of: dict[int, int] = {}
    self._dirty = np.zeros(plan.capacity.num_slots, bool)
    self._entered = None
    self._reader = concurrent.futures.ThreadPoolExecutor(1, 'read_ahead')
    self._writer = concurrent.futures.ThreadPoolExecutor(1, 'write_behind')
    self._ahead = collections.OrderedDict()
    self._behind: dict[int, concurrent.futures.Future] = {}
    self._room = threading.Semaphore(capacity_lib.NUM_BEHIND)
    self.seconds_waited = 0.0

  def close(self) -> None:
    """Ends the threads; what was not collected is lost."""
    for future in self._ahead.values():
      future.cancel()
    self._ahead.clear()
    self._reader.shutdown(cancel_futures=True)
    self._writer.shutdown()

  def enter(self, step: int, rows: Rows) -> Rows:
    """Rows as a step wants them.

    Args:
      step: that is about to be done.
      rows: donated.

    Returns:
      Rows.

    Raises:
      InputError: a row on disk is damaged.
      OSError: the disk is full.
    """
    stage = self._plan.stage_at(step)
    if stage.index != self._entered:
      rows = self._fill(rows, stage)
      if self._entered is None or stage.index[0] != self._entered[0]:
        # What was read ahead for stages that no longer come.
        concurrent.futures.wait(self._ahead.values())
        self._ahead.clear()
      self._entered = stage.index
    if stage.coming:
      # Spread evenly over the stage, the last ones with its last step.
      done, steps = step - stage.first + 1, stage.last - stage.first
      for slot, node in stage.coming[: -(-len(stage.coming) * done // steps)]:
        rows = self._exchange(rows, slot, node)
    # This step is about to change them.
    self._dirty[stage.node_of_slot >= 0] = True
    self._read_ahead(stage)
    return rows

  def collect(self, rows: Rows) -> None:
    """Writes every row that has changed and waits for the disk.

    The store may be committed when this returns.
    """
    for slot in np.flatnonzero(self._dirty):
      self._write_behind(slot, rows)
    for future in list(self._behind.values()):
      future.result()
    self._behind.clear()
    concurrent.futures.wait(self._ahead.values())

  def _fill(self, rows, stage) -> Rows:
    """Brings in what a stage wants resident and is not there yet."""
    wanted = np.flatnonzero(
        (stage.node_of_slot >= 0) & (stage.node_of_slot != self._node_of_slot)
    )
    # A node that changes its place goes by way of the disk.
    for node in stage.node_of_slot[wanted].tolist():
      if node in self._slot_of:
        self._give_up(self._slot_of[node], rows)
    for slot in wanted:
      self._give_up(slot, rows)
    for slot in wanted.tolist():
      rows = self._exchange(rows, slot, int(stage.node_of_slot[slot]))
    return rows

  def _exchange(self, rows, slot, node) -> Rows:
    """Puts a node's row into a slot, and what was there on its way out."""
    if self._node_of_slot[slot] == node:
      return rows
    self._give_up(slot, rows)
    rows = _put_row(rows, self._take(node), np.int32(slot))
    self._node_of_slot[slot], self._slot_of[node] = node, slot
    return rows

  def _give_up(self, slot, rows) -> None:
    """Empties a slot."""
    node = int(self._node_of_slot[slot])
    if node < 0:
      return
    if self._dirty[slot]:
      self._write_behind(slot, rows)
    self._node_of_slot[slot] = -1
    del self._slot_of[node]

  def _write_behind(self, slot, rows) -> None:
    """Copies a row out of its slot and has it written."""
    node = int(self._node_of_slot[slot])
    row = _get_row(rows, np.int32(slot))
    start = time.monotonic()
    self._room.acquire()
    self.seconds_waited += time.monotonic() - start
    self._dirty[slot] = False
    self._check_behind()
    self._behind[node] = self._writer.submit(self._write, node, row)

  def _check_behind(self) -> None:
    """Forgets writes that are done; raises what went wrong."""
    for node, future in list(self._behind.items()):
      if future.done():
        future.result()
        del self._behind[node]

  def _write(self, node, row) -> None:
    try:
      named = {
          group: {
              name: np.asarray(x)
              for name, x in leaves.named_leaves(part).items()
          }
          for group, part in row.items()
      }
      self._store.write(int(self._keys[node]), named)
    finally:
      self._room.release()

  def _read_ahead(self, stage) -> None:
    """Orders reads of what the exchange needs next."""
    following = self._plan.stage_at(stage.last) if stage.coming else stage
    coming = stage.coming + following.coming
    for _, node in coming:
      if len(self._ahead) >= capacity_lib.NUM_AHEAD:
        return
      if node not in self._slot_of and node not in self._ahead:
        self._ahead[node] = self._reader.submit(
            self._read, node, self._behind.get(node)
        )

  def _read(self, node, behind):
    if behind is not None:
      behind.result()
    return self._store.read(int(self._keys[node]))

  def _take(self, node) -> Rows:
    """The newest row of a node that is in no slot."""
    start = time.monotonic()
    future = self._ahead.pop(node, None) or self._reader.submit(
        self._read, node, self._behind.get(node)
    )
    stored = future.result()
    self.seconds_waited += time.monotonic() - start
    if stored is None:
      return self._first_row(node)
    return {
        group: leaves.into_template(stored[group], template)
        for group, template in self._template.items()
    }
