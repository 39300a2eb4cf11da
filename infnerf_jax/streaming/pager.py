"""The pager: which nodes are resident, under a hard cap.

Rows of a fixed pool on the device hold nodes; the root keeps slot 0. For every
view the working set is found, coarsened by the smallest level bias that fits,
and what is not resident is read, coarse before fine. What cannot be read is
shown by its nearest ancestor, the root by nothing. Rows that a view does not
need stay, least recently used out first, until their place is wanted.
"""

import collections
import concurrent.futures
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import scene_model
from infnerf_jax.storage import key_values, node_store, tree_pages
from infnerf_jax.streaming import budget as budget_lib
from infnerf_jax.streaming import view_tiles, working_set

# A node that was out of reach is left alone this long, seconds.
_COOL_DOWN = 2.0


class ResidentView(NamedTuple):
  """What a view can be rendered from.

  Attributes:
    tree: device arrays of the view's nodes and their ancestors.
    nodes: stacked parameters by slot.
    bias: octaves by which the view was coarsened to fit.
    num_nodes: nodes of the working set.
    num_resident: those of them that are resident.
    missing: keys that are still to be read.
    damaged: keys whose ancestors stand in for good, with the reason.
    unreachable: keys whose ancestors stand in until a later view asks again.
    read_seconds: how long the tree's pages and the rows were waited for.
    num_read: rows read for this view.
  """

  tree: scene_model.TreeArrays
  nodes: Any
  bias: float
  num_nodes: int
  num_resident: int
  missing: tuple[int, ...]
  damaged: dict[int, str]
  unreachable: tuple[int, ...]
  read_seconds: float
  num_read: int


@functools.partial(jax.jit, donate_argnums=0)
def _put_row(nodes, row, slot):
  """Stacked parameters with one row replaced, in place."""
  put = lambda stack, one: jax.lax.dynamic_update_index_in_dim(
      stack, one, slot, 0
  )
  return jax.tree.map(put, nodes, row)


def _empty_pool(group, num_slots: int):
  """Stacked parameters of the group's shapes, all zero."""
  rows = {
      field.name: jnp.zeros((num_slots,) + field.shape, jnp.float32)
      for field in group.fields
  }
  return node_store.row_to_params(rows)


def local_tree(
    keys, slots, capacity: int
) -> tuple[scene_model.TreeArrays, int]:
  """The part of a tree that a view needs, as device arrays.

  Args:
    keys: [K] int64 of resident nodes.
    slots: [K] their slots.
    capacity: rows of the arrays; doubled until the nodes fit.

  Returns:
    (TreeArrays, capacity): a sample descends to the deepest of the given
    nodes; ancestors that are not given have no slot.
  """
  whole = [np.asarray(keys, np.int64)]
  while len(whole[-1]) and whole[-1].max() > tree_pages.ROOT_KEY:
    above = np.unique(whole[-1] >> 3)
    whole.append(above[above > 0])
  ids = np.unique(np.append(np.concatenate(whole), tree_pages.ROOT_KEY))
  while capacity < len(ids):
    capacity *= 2
  children = np.full((capacity, 8), -1, np.int32)
  row = np.arange(1, len(ids))
  children[np.searchsorted(ids, ids[1:] >> 3), ids[1:] & 7] = row
  slot_of_node = np.full(capacity, -1, np.int32)
  slot_of_node[np.searchsorted(ids, keys)] = slots
  tree = scene_model.TreeArrays(
      jnp.asarray(children), jnp.asarray(slot_of_node)
  )
  return tree, capacity


class Pager:
  """Holds the resident rows of one store; not to be shared among threads."""

  def __init__(
      self,
      store: node_store.NodeStore,
      frame: working_set.Frame,
      budget: budget_lib.Budget,
      *,
      evict_above: float = 1.0,
  ):
    """Makes the pool and reads the root.

    Args:
      store: open.
      frame: where the tree lies and how levels are chosen.
      budget: of bytes.
      evict_above: share of the slots beyond which rows that the view does not
        need are given up after it.
    """
    self.store, self.frame, self.budget = store, frame, budget
    self._group = store.header.group()
    self._nodes = _empty_pool(self._group, budget.num_slots)
    self._slot_of = collections.OrderedDict()  # least recently used first
    self._free = list(range(budget.num_slots - 1, 0, -1))
    self._capacity = 4 * budget.num_slots + 64
    self._in_use: set[int] = {tree_pages.ROOT_KEY}
    self._evict_above = evict_above
    self._readers = concurrent.futures.ThreadPoolExecutor(budget.num_readers)
    self._ahead = concurrent.futures.ThreadPoolExecutor(1)
    self._staged: dict[int, concurrent.futures.Future] = {}
    self._prediction: concurrent.futures.Future | None = None
    self._out_of_reach: dict[int, float] = {}
    self.damaged: dict[int, str] = {}
    self.num_read = self.num_evicted = 0
    self._load([tree_pages.ROOT_KEY], None)

  def close(self) -> None:
    """Stops reading and gives the rows back."""
    for future in self._staged.values():
      future.cancel()
    self._ahead.shutdown(cancel_futures=True)
    self._readers.shutdown(cancel_futures=True)
    self._staged.clear()
    self._nodes = None

  def prepare(
      self,
      tiles: view_tiles.ViewTiles,
      *,
      max_reads: int | None = None,
  ) -> ResidentView:
    """Makes a view's nodes resident.

    Args:
      tiles: the view.
      max_reads: at most this many rows are read; the rest is `missing`.

    Returns:
      ResidentView; it holds until the next call.
    """
    tree, slots = self.store.tree, self.budget.num_slots
    start, before = time.perf_counter(), self.num_read
    wanted = working_set.that_fits(tree, self.frame, tiles, slots)
    keys = wanted.keys.tolist()
    self._in_use = set(keys)
    missing = self._load(keys, max_reads)
    seconds = time.perf_counter() - start
    resident = np.array(
        sorted(key for key in self._in_use if key in self._slot_of), np.int64
    )
    for key in resident.tolist():
      self._slot_of.move_to_end(key)
    self._shrink()
    local, self._capacity = local_tree(
        resident, [self._slot_of[k] for k in resident.tolist()], self._capacity
    )
    return ResidentView(
        tree=local,
        nodes=self._nodes,
        bias=wanted.bias,
        num_nodes=len(keys),
        num_resident=len(set(keys) & set(self._slot_of)),
        missing=tuple(missing),
        damaged={k: self.damaged[k] for k in keys if k in self.damaged},
        unreachable=tuple(
            k for k in keys if k in self._out_of_reach and k not in missing
        ),
        read_seconds=seconds,
        num_read=self.num_read - before,
    )

  def keys_by_slot(self) -> np.ndarray:
    """[num_slots] int64 keys of resident nodes, 0 where a slot is free."""
    keys = np.zeros(self.budget.num_slots, np.int64)
    for key, slot in self._slot_of.items():
      keys[slot] = key
    return keys

  def prefetch(self, tiles: view_tiles.ViewTiles) -> None:
    """Reads behind the caller's back what a view to come will need.

    Args:
      tiles: that view.
    """
    if not self.budget.num_staged:
      return
    if self._prediction is not None and not self._prediction.done():
      return  # still busy with the view before
    self._prediction = self._ahead.submit(self._stage, tiles)

  def memory_report(self) -> dict[str, Any]:
    """Bytes used (by the last view), cached, total; host and device."""
    row, budget = self.budget.row, self.budget
    used = sum(key in self._slot_of for key in self._in_use) * row
    cached = len(self._slot_of) * row - used
    staged = sum(f.done() for f in list(self._staged.values())) * row
    part = lambda used, cached, total: {
        'used': int(used), 'cached': int(cached), 'total': int(total),
        'utilisation': float((used + cached) / max(total, 1)),
    }  # fmt: skip
    host = budget.pictures + budget.programs + self.store.tree.nbytes
    return {
        'cap': budget.cap,
        'device': part(used + budget.rays, cached, budget.device),
        'host': part(host, staged, budget.host),
        'rows': {
            'bytes': row,
            'slots': budget.num_slots,
            'resident': len(self._slot_of),
            'read': self.num_read,
            'evicted': self.num_evicted,
        },
    }

  def _stage(self, tiles):
    """Orders the reads of a view to come; runs beside the caller."""
    tree, slots = self.store.tree, self.budget.num_slots
    wanted = working_set.that_fits(tree, self.frame, tiles, slots)
    keys = wanted.keys.tolist()
    needed = set(keys)
    for key in [k for k in list(self._staged) if k not in needed]:
      if key not in self._in_use:
        self._staged.pop(key).cancel()
    for key in keys:
      if len(self._staged) >= self.budget.num_staged:
        return
      if self._may_read(key) and key not in self._staged:
        self._staged[key] = self._readers.submit(self._read, key)

  def _may_read(self, key) -> bool:
    return (
        key not in self._slot_of
        and key not in self.damaged
        and self._out_of_reach.get(key, 0) < time.monotonic()
    )

  def _load(self, keys, max_reads) -> list[int]:
    """Reads rows in order; what failed is replaced by ancestors."""
    waiting = collections.deque(k for k in keys if self._may_read(k))
    for key in keys:
      if key in self.damaged or key in self._out_of_reach:
        self._want_ancestor(key, waiting)
    under_way, count = collections.deque(), 0
    while waiting or under_way:
      while waiting and len(under_way) < self.budget.num_readers:
        if max_reads is not None and count >= max_reads:
          break
        key, count = waiting.popleft(), count + 1
        future = self._staged.pop(key, None)
        if future is None or future.cancelled():
          future = self._readers.submit(self._read, key)
        under_way.append((key, future))
      if not under_way:
        break
      key, future = under_way.popleft()
      row = self._result(key, future)
      if row is None:
        self._want_ancestor(key, waiting)
      elif key not in self._slot_of:
        self._upload(key, self._take_slot(key), row)
    return list(waiting)

  def _want_ancestor(self, key, waiting) -> None:
    """Asks for the nearest ancestor that may be read instead of a node."""
    key >>= 3
    while key and not (key in self._slot_of or self._may_read(key)):
      key >>= 3
    if not key:
      return  # not even the root: nothing shows there
    self._in_use.add(key)
    if self._may_read(key) and key not in waiting:
      waiting.append(key)

  def _result(self, key, future):
    """A row, or None and a note of what is wrong with it."""
    try:
      row = future.result()
    except key_values.UnreachableError:
      self._out_of_reach[key] = time.monotonic() + _COOL_DOWN
      return None
    except node_store.READ_ERRORS as e:
      missing = isinstance(e, key_values.MissingError)
      self.damaged[key] = 'missing' if missing else str(e)
      return None
    self._out_of_reach.pop(key, None)
    return row

  def _read(self, key):
    return node_store.row_to_params(self.store.read_row(key))

  def _upload(self, key, slot, row) -> None:
    # In place only when nothing else holds the pool's buffers.
    self._nodes = _put_row(self._nodes, row, np.int32(slot))
    self._slot_of[key] = slot
    self.num_read += 1

  def _take_slot(self, key) -> int:
    """A slot for a node; the least recently used row that can go does."""
    if key == tree_pages.ROOT_KEY:
      return 0
    if self._free:
      return self._free.pop()
    for key in self._slot_of:
      if key != tree_pages.ROOT_KEY and key not in self._in_use:
        break
    else:
      # Ancestors that stand in for damaged nodes: the finest row goes.
      key = max(self._slot_of)
      self._in_use.discard(key)
    self.num_evicted += 1
    return self._slot_of.pop(key)

  def _shrink(self) -> None:
    """Gives up rows beyond the share that may stay."""
    most = self._evict_above * self.budget.num_slots
    for key in list(self._slot_of):
      if len(self._slot_of) <= most:
        return
      if key != tree_pages.ROOT_KEY and key not in self._in_use:
        self._free.append(self._slot_of.pop(key))
        self.num_evicted += 1
