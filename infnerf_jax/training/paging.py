"""Moves rows of a training state between slots and disk as a plan says.

A step waits for what its plan wants resident and for nothing else: rows that
come are read ahead by one thread, rows that leave are copied out of their slot
and written by another. How fast either is changes no bit.
"""

import collections
import concurrent.futures
import threading
import time
from typing import Any, Callable

import jax
import numpy as np

from infnerf_jax.models import node_pool
from infnerf_jax.sharding import processes
from infnerf_jax.storage import leaves, node_store, row_store
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import optimizer, residency, slot_rows
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

  Every process goes through the whole plan, and moves the rows that its own
  devices hold; of those that several hold, one writes. What one process wrote
  another reads behind a barrier, which all of them see coming.

  Attributes:
    seconds_waited: for reads that were not done, and for writes behind.
  """

  def __init__(
      self,
      store: row_store.RowStore,
      plan: residency.Plan,
      keys: np.ndarray,
      first_row: Callable[[int], Rows],
      mesh: jax.sharding.Mesh,
  ):
    """Holds nothing yet.

    Args:
      store: where rows go.
      plan: what is resident when.
      keys: [N] int64 node_keys.
      first_row: row of a node that was never written.
      mesh: of the plan's node shards.
    """
    self._store, self._plan = store, plan
    self._keys, self._first_row = keys, first_row
    self._template = jax.eval_shape(lambda: first_row(0))
    self._slots = slot_rows.SlotRows(mesh, plan.capacity, self._template)
    self._me = processes.index()
    self._node_of_slot = np.full(plan.capacity.num_rows, -1, np.int64)
    self._slot_of: dict[int, int] = {}
    self._dirty = np.zeros(plan.capacity.num_rows, bool)
    self._entered = None
    self._reader = concurrent.futures.ThreadPoolExecutor(1, 'read_ahead')
    self._writer = concurrent.futures.ThreadPoolExecutor(1, 'write_behind')
    self._ahead = collections.OrderedDict()
    self._behind: dict[int, concurrent.futures.Future] = {}
    self._room = threading.Semaphore(capacity_lib.NUM_BEHIND)
    self._writers: dict[int, int] = {}  # since the last barrier
    self._num_barriers = 0
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
    coming = self._due(stage, step)
    if stage.index != self._entered or coming:
      parts = self._slots.take_apart(rows)
      if stage.index != self._entered:
        self._begin(parts, stage)
      for slot, node in coming:
        self._exchange(parts, slot, node)
      rows = self._slots.put_together(parts, rows)
    # This step is about to change them.
    self._dirty[stage.node_of_slot >= 0] = True
    self._read_ahead(stage)
    return rows

  def collect(self, rows: Rows) -> None:
    """Writes every row that has changed and waits for the disk.

    All processes must call it; the store may be committed when it returns.
    """
    parts = self._slots.take_apart(rows)
    for slot in np.flatnonzero(self._dirty).tolist():
      self._write_behind(parts, slot)
    concurrent.futures.wait(self._ahead.values())
    self._settle()

  def _due(self, stage, step):
    """What of a stage's exchange is not done yet before a step."""
    # Spread evenly over the stage, the last ones with its last step.
    done, steps = step - stage.first + 1, max(stage.last - stage.first, 1)
    due = stage.coming[: -(-len(stage.coming) * done // steps)]
    return [x for x in due if self._node_of_slot[x[0]] != x[1]]

  def _begin(self, parts, stage) -> None:
    """Enters a stage: brings in what it wants resident and is not there."""
    if self._entered is None or stage.index[0] != self._entered[0]:
      # What was read ahead for stages that no longer come.
      concurrent.futures.wait(self._ahead.values())
      self._ahead.clear()
    self._entered = stage.index
    wanted = np.flatnonzero(
        (stage.node_of_slot >= 0) & (stage.node_of_slot != self._node_of_slot)
    ).tolist()
    # Nodes that change places free them all before the first one comes.
    for slot in wanted:
      self._leave(parts, int(stage.node_of_slot[slot]))
      self._give_up(parts, slot)
    for slot in wanted:
      self._exchange(parts, slot, int(stage.node_of_slot[slot]))
      # Or rows pile up behind a step that is still running.
      jax.block_until_ready(list(parts.values()))

  def _exchange(self, parts, slot, node) -> None:
    """Puts a node's row into a slot, and what was there on its way out."""
    self._leave(parts, node)
    self._give_up(parts, slot)
    holders = self._slots.holders(slot)
    if self._is_apart(node, holders):
      self._settle()
    if self._me in holders:
      self._slots.put(parts, slot, self._take(node))
    self._node_of_slot[slot], self._slot_of[node] = node, slot

  def _leave(self, parts, node) -> None:
    """Empties the slot that a node is in: it goes to another by way of disk."""
    if node in self._slot_of:
      self._give_up(parts, self._slot_of[node])

  def _give_up(self, parts, slot) -> None:
    """Empties a slot."""
    node = int(self._node_of_slot[slot])
    if node < 0:
      return
    if self._dirty[slot]:
      self._write_behind(parts, slot)
    self._node_of_slot[slot] = -1
    del self._slot_of[node]

  def _write_behind(self, parts, slot) -> None:
    """Copies a row out of its slot and has it written, by one process."""
    node = int(self._node_of_slot[slot])
    self._dirty[slot] = False
    self._writers[node] = self._slots.writer(slot)
    if self._writers[node] != self._me:
      self._store.note_written(int(self._keys[node]))
      return
    start = time.monotonic()
    self._room.acquire()
    self.seconds_waited += time.monotonic() - start
    row = self._slots.get(parts, slot)
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

  def _is_apart(self, node, holders) -> bool:
    """Whether some of who want a row may not see yet who wrote it."""
    return node in self._writers and holders != {self._writers[node]}

  def _settle(self) -> None:
    """Waits until the disk has what all processes wrote; all must call it."""
    for future in list(self._behind.values()):
      future.result()
    self._behind.clear()
    self._num_barriers += 1
    processes.barrier(f'rows {self._num_barriers}')
    self._writers.clear()

  def _read_ahead(self, stage) -> None:
    """Orders reads of what the exchange needs next."""
    following = self._plan.stage_at(stage.last) if stage.coming else stage
    for slot, node in stage.coming + following.coming:
      if len(self._ahead) >= capacity_lib.NUM_AHEAD:
        return
      holders = self._slots.holders(slot)
      if self._me not in holders or self._is_apart(node, holders):
        continue
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
