"""In which stages a paging run draws which rays, so that no node misses out.

A ray's samples lie in several nodes and train those that are resident when it
is drawn. So it matters in which of the stages in which its own node is resident
a ray is drawn, and some rays are drawn more often than others, so that a node
most of whose samples would be lost has more of them.

What is sought are the shares of the stages that leave the node that gets least
of its samples as much as possible. It is a linear programme of many nodes: a
few rounds of multiplicative weights come near enough. Each round values a
node's samples by how little of them it has, and moves rays to the stages in
which they bring the most valuable samples.
"""

from typing import NamedTuple, Sequence

import numpy as np

from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.training import visits as visits_lib

_NUM_ITERATIONS = 40
# Rays that end in a node are drawn so often in a round, beside ordinary
# batches; their losses have the reciprocal weight.
_ROUND_GAIN = (0.5, 2.0)
_GAIN = (1 / 1.5, 1.5)  # over all rounds that are planned together
_GAIN_POWER = 0.2
# Of a node's rays in a round a stage draws at most so many times its even part:
# batches that show little at a time teach the nodes that many rays cross badly.
_MOST_AT_A_TIME = 1.5
# Of a stage's length beside the mean: nodes come and go evenly.
_LENGTH = (0.5, 2.0)
_SHARPNESS = 5.0
# What samples are worth falls with the share that a node has of its own.
_WORTH_POWER, _MAX_WORTH = 6, 50.0
_LEAST_SHARE = 0.1
# Nodes with fewer samples are not what a plan is judged by.
_MIN_SAMPLES = 1000
# Rays for which what was foretold counts, beside those that were seen.
_FORETOLD_RAYS = 4.0


class Seen(NamedTuple):
  """What steps so far showed of the samples of nodes.

  Attributes:
    num_steps: steps since the tree is as it is.
    trained: [N] samples that each node has learned of in them.
    rays: [N] that were planned to end in each node, of the rays looked at.
    planned: [K] nodes.
    actual: [K] nodes of samples.
    count: [K] samples there of the rays looked at.
  """

  num_steps: int
  trained: np.ndarray
  rays: np.ndarray
  planned: np.ndarray
  actual: np.ndarray
  count: np.ndarray


def with_seen(
    pairs: focus_lib.NodePairs, mass: np.ndarray, num_rays: float, seen: Seen
) -> focus_lib.NodePairs:
  """Pairs as they were foretold, corrected by what was seen.

  Args:
    pairs: with samples of a step, as foretold.
    mass: [N] share of the rays that end in each node.
    num_rays: of a step.
    seen: so far.
  """
  rays = num_rays * np.maximum(mass, 1e-12)
  foretold = _FORETOLD_RAYS * pairs.share / rays[pairs.planned]
  num_nodes = len(mass)
  keys = np.concatenate([
      pairs.planned * num_nodes + pairs.actual,
      seen.planned * num_nodes + seen.actual,
  ])  # fmt: skip
  keys, at = np.unique(keys, return_inverse=True)
  count = np.bincount(at, np.concatenate([foretold, seen.count]))
  planned, actual = np.divmod(keys, num_nodes)
  share = count / (seen.rays + _FORETOLD_RAYS)[planned] * rays[planned]
  return focus_lib.NodePairs(planned, actual, share)


class _Problem(NamedTuple):
  """Rounds that are planned together; E entries of all of them.

  Attributes:
    node: [E].
    round: [E].
    stage: [E] numbers that differ from round to round.
    stays: [E] bool, of nodes that are always resident.
    pair: [J] rows of the pairs.
    begin: [J] entries, see `visits.Overlaps`.
    end: [J].
  """

  node: np.ndarray
  round: np.ndarray
  stage: np.ndarray
  stays: np.ndarray
  pair: np.ndarray
  begin: np.ndarray
  end: np.ndarray


def _problem(visits, pairs) -> _Problem:
  parts, num_entries, num_stages = [], 0, 0
  for i, v in enumerate(visits):
    both = visits_lib.overlaps(v, pairs)
    parts.append(
        _Problem(
            v.node,
            np.full(len(v.node), i),
            v.stage + num_stages,
            v.stays[v.node],
            both.pair,
            both.begin + num_entries,
            both.end + num_entries,
        )
    )
    num_entries += len(v.node)
    num_stages += int(v.stage.max()) + 1
  return _Problem(*map(np.concatenate, zip(*parts, strict=True)))


def spread(
    visits: Sequence[visits_lib.Visits],
    num_steps: Sequence[int],
    mass: np.ndarray,
    pairs: focus_lib.NodePairs | None,
    seen: Seen | None = None,
) -> list[np.ndarray]:
  """Deals the rays that end in each node out to the stages of coming rounds.

  Args:
    visits: of each round.
    num_steps: of each round.
    mass: [N] share of ordinary batches' rays that end in each node.
    pairs: with samples of a step; None: a ray's samples lie where it ends.
    seen: so far; what nodes miss is made up for.

  Returns:
    [E] of each round: of a round's ordinary rays that end in the entry's node
    the share that its stage draws.
  """
  even = [_even(v) for v in visits]
  if pairs is None:
    return even
  problem = _problem(visits, pairs)
  edges = np.cumsum([len(v.node) for v in visits])[:-1]
  w = _solve(problem, np.concatenate(even), num_steps, mass, pairs, seen)
  return np.split(w, edges)


def _even(visits):
  count = np.bincount(visits.node, minlength=len(visits.of_node))
  return 1 / count[visits.node]


def _solve(problem, w, num_steps, mass, pairs, seen):
  """[E] the best shares of all iterations."""
  num_nodes, steps = len(mass), np.asarray(num_steps, np.float64)
  wanted = np.bincount(pairs.actual, pairs.share, num_nodes)
  before = 0 if seen is None else seen.trained
  total = wanted * (steps.sum() + (0 if seen is None else seen.num_steps))
  known = total >= _MIN_SAMPLES
  if not known.any():
    known = total > 0
  planned, actual = pairs.planned[problem.pair], pairs.actual[problem.pair]
  samples = pairs.share[problem.pair] * steps[problem.round[problem.begin]]
  of_a_ray = pairs.share[problem.pair] / np.maximum(mass[planned], 1e-12)
  gain, best, found = np.ones(num_nodes), -1.0, w
  for _ in range(_NUM_ITERATIONS):
    sums = np.concatenate([[0.0], np.cumsum(w)])
    got = samples * (sums[problem.end] - sums[problem.begin])
    got = before + np.bincount(actual, got, num_nodes)
    share = got / np.maximum(total, 1e-12)
    least = np.sort(share[known])[: 1 + known.sum() // 200].mean()
    if least > best:
      best, found = least, w
    worth = _worth(share, total)
    value = np.zeros(len(w) + 1)
    value[:] = np.bincount(problem.begin, of_a_ray * worth[actual], len(w) + 1)
    value -= np.bincount(problem.end, of_a_ray * worth[actual], len(w) + 1)
    value = np.maximum(np.cumsum(value)[:-1], 0)
    w, gain = _move(problem, w, value, gain, steps, mass)
  return found


def _worth(share, total):
  """[N] of a sample, beside the mean; 0 where a node has none."""
  worth = 1 / np.maximum(share, _LEAST_SHARE) ** _WORTH_POWER
  worth = np.where(total > 0, worth, 0)
  mean = (worth * total).sum() / max(total.sum(), 1e-12)
  return np.minimum(worth / max(mean, 1e-12), _MAX_WORTH)


def _move(problem, w, value, gain, steps, mass):
  """(shares, gains) after rays have moved to where they are worth more."""
  node, num_nodes, num_rounds = problem.node, len(mass), len(steps)
  most = np.zeros(num_nodes)
  np.maximum.at(most, node, value)
  relative = value / np.maximum(most, 1e-12)[node]
  w = w * np.exp(_SHARPNESS * (relative - 1))
  w = np.maximum(w, 1e-9)
  # Rays of a node that are worth more than others' are drawn more often.
  mean = np.bincount(node, w * value, num_nodes) / np.maximum(
      np.bincount(node, w, num_nodes), 1e-12
  )
  of_all = (mean * mass).sum() / max(mass.sum(), 1e-12)
  relative = np.maximum(mean / max(of_all, 1e-12), 1e-9) ** _GAIN_POWER
  gain = np.where(mass > 0, gain * relative, 1.0)
  gain = np.clip(gain / max((gain * mass).sum(), 1e-12), *_GAIN)
  # Stages of about equal lengths.
  moves = w * mass[node] * ~problem.stays
  length = np.bincount(problem.stage, moves)
  length = length / max(length.mean(), 1e-12)
  over = length / np.clip(length, *_LENGTH)
  w = w / np.sqrt(np.maximum(over, 1e-3))[problem.stage]
  # What is always resident learns in all steps alike, of all that it shows.
  w = np.where(problem.stays, np.clip(length, *_LENGTH)[problem.stage], w)
  # What each round draws, beside its ordinary batches.
  cell = node * num_rounds + problem.round
  drawn = np.bincount(cell, w, num_nodes * num_rounds)
  drawn = np.maximum(drawn.reshape(num_nodes, num_rounds), 1e-12)
  part = steps / steps.sum()
  rate = drawn * (gain / (drawn @ part))[:, None]
  rate = np.clip(rate, *_ROUND_GAIN)
  rate /= np.maximum(mass @ rate, 1e-12)
  w = w / drawn.reshape(-1)[cell]
  limit = (
      _MOST_AT_A_TIME
      / np.bincount(cell, minlength=len(drawn.reshape(-1)))[cell]
  )
  for _ in range(3):
    w = np.minimum(w, limit)
    w /= np.bincount(cell, w)[cell]
  return w * rate.reshape(-1)[cell], gain
