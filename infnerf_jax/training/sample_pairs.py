"""Where samples were seen to fall, beside the nodes in which rays should end.

What a paging run's next rounds are planned from. All processes count the same.
"""

from typing import Any, Callable

import numpy as np

from infnerf_jax.storage import leaves
from infnerf_jax.training import ray_shares, residency

# Every so many steps are looked at: thousands of samples a step are enough.
_EVERY = 4
# Parts that are put together at a time.
_MAX_PARTS = 16
# Steps whose counts may still be on the device.
_MAX_WAITING = 2


class PairTally:
  """Counts of (planned node, node of a sample) since the tree is as it is."""

  def __init__(self, num_nodes: int):
    """Begins with nothing."""
    self._num_nodes = num_nodes
    self.restart(0, np.zeros(num_nodes, np.int64))

  def restart(self, step: int, trained: np.ndarray) -> None:
    """Forgets: other nodes take part from here on.

    Args:
      step: the next one.
      trained: [N] samples that each node has learned of before.
    """
    self._first, self._before = step, np.array(trained, np.int64)
    self._rays = np.zeros(self._num_nodes, np.int64)
    self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    self._parts, self._waiting = [], []

  def add(self, step: int, nodes_of_rays) -> None:
    """Counts a step's [R, 1 + S] `StepMetrics.nodes_of_rays`."""
    if step % _EVERY:
      return
    self._waiting.append(nodes_of_rays)
    if len(self._waiting) > _MAX_WAITING:
      self._count(self._waiting.pop(0))

  def _count(self, nodes_of_rays) -> None:
    nodes = np.asarray(nodes_of_rays).astype(np.int64)
    planned, actual = nodes[:, 0], nodes[:, 1:]
    known = planned >= 0
    self._rays += np.bincount(planned[known], minlength=self._num_nodes)
    keys = planned[:, None] * self._num_nodes + actual
    keys = keys[known[:, None] & (actual >= 0)]
    self._parts.append(np.unique(keys, return_counts=True))
    if len(self._parts) >= _MAX_PARTS:
      self._put_together()

  def _put_together(self) -> None:
    keys, counts = zip((self._keys, self._counts), *self._parts, strict=True)
    self._keys, at = np.unique(np.concatenate(keys), return_inverse=True)
    self._counts = np.bincount(at, np.concatenate(counts)).astype(np.int64)
    self._parts = []

  def seen(self, step: int, trained: np.ndarray) -> ray_shares.Seen:
    """What there is to plan from.

    Args:
      step: the next one.
      trained: [N] samples that each node has learned of in all steps.
    """
    arrays = self.arrays()
    planned, actual = np.divmod(arrays['keys'], self._num_nodes)
    return ray_shares.Seen(
        step - self._first,
        trained - self._before,
        arrays['rays'].copy(),
        planned,
        actual,
        arrays['counts'],
    )

  def arrays(self) -> dict[str, np.ndarray]:
    """All that `restore` needs."""
    self._drain()
    return {
        'first': np.int64(self._first),
        'before': self._before,
        'rays': self._rays,
        'keys': self._keys,
        'counts': self._counts,
    }

  def restore(self, arrays: dict[str, Any]) -> None:
    """Goes on from what `arrays` gave."""
    self.restart(int(arrays['first']), arrays['before'])
    self._rays = np.array(arrays['rays'], np.int64)
    self._keys = np.array(arrays['keys'], np.int64)
    self._counts = np.array(arrays['counts'], np.int64)

  def _drain(self) -> None:
    waiting, self._waiting = self._waiting, []
    for nodes in waiting:
      self._count(nodes)
    self._put_together()


class Lookout:
  """What each phase of a plan is made from: the steps before it.

  A phase is planned some steps before it begins: batches are drawn ahead, in a
  thread of their own, which must not have to wait for steps that wait for it.
  """

  _TALLY, _SEEN = 'tally', 'seen'

  def __init__(self, num_nodes: int, num_ahead: int):
    """Has seen nothing.

    Args:
      num_nodes: N.
      num_ahead: steps before a phase up to which it is planned from.
    """
    self._tally, self._num_ahead = PairTally(num_nodes), num_ahead
    self._seen: dict[int, ray_shares.Seen] = {}

  def of_phase(self, number: int) -> ray_shares.Seen | None:
    """What a phase is planned from, None: nothing but what was foretold."""
    return self._seen.get(number)

  def before(
      self, step: int, plan: residency.Plan, trained: Callable[[], np.ndarray]
  ) -> None:
    """Notes what there is to note before a step.

    Args:
      step: about to be done; all are told, in order.
      plan: of the run.
      trained: [N] samples that each node has learned of so far.
    """
    phases, now = plan.phases, plan.phase_at(step)
    present, after = phases[now], now + 1
    begins = now == 0 or phases[now - 1].group != present.group
    if begins and step == present.first:
      self._tally.restart(step, trained())
    if after == len(phases) or phases[after].group != present.group:
      return
    if step == phases[after].first - self._num_ahead:
      # Of phases that are over nothing is kept.
      seen = {n: x for n, x in self._seen.items() if n == now}
      self._seen = {**seen, after: self._tally.seen(step, trained())}

  def add(self, step: int, nodes_of_rays) -> None:
    """Counts a step's [R, 1 + S] `StepMetrics.nodes_of_rays`."""
    self._tally.add(step, nodes_of_rays)

  def arrays(self, prefix: str) -> dict[str, np.ndarray]:
    """All that `restore` needs, by name."""
    seen = {str(number): x._asdict() for number, x in self._seen.items()}
    parts = {self._TALLY: self._tally.arrays(), self._SEEN: seen}
    named = leaves.named_leaves({prefix: parts})
    return {name: np.asarray(x) for name, x in named.items()}

  def restore(self, prefix: str, arrays: dict[str, Any]) -> None:
    """Takes its own out of named arrays, if they are among them."""
    mine = [name for name in arrays if name.startswith(prefix + '/')]
    if not mine:
      return
    parts = leaves.nested({name: arrays.pop(name) for name in mine})[prefix]
    self._tally.restore(parts[self._TALLY])
    self._seen = {
        int(number): ray_shares.Seen(
            **{**seen, 'num_steps': int(seen['num_steps'])}
        )
        for number, seen in parts.get(self._SEEN, {}).items()
    }
