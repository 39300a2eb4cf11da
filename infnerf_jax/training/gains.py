"""More rays to nodes whose samples would otherwise be fewer than their part.

A ray's samples lie not only in the node in which it is planned to end, and some
of the others are not resident then. Which share of its samples a node gets over
a round follows from the plan and from where samples fall beside the planned
nodes; rays that bring samples to nodes that get little are drawn more often, at
the cost of those whose nodes get all of theirs.
"""

import numpy as np

from infnerf_jax.scene import focus as focus_lib

_NUM_ITERATIONS = 10
_POWER = 0.5
# Batches stay near ordinary ones: no ray is drawn that much less or more often.
_LIMITS = (0.5, 2.0)
# Shares beyond these are not believed.
_BELIEVED = (0.2, 5.0)


def together(
    pairs: focus_lib.NodePairs, rays: np.ndarray, resident: np.ndarray
) -> np.ndarray:
  """[K] share of a planned node's rays in whose stages a node is resident.

  Args:
    pairs: [K] planned nodes and nodes of samples.
    rays: [S, N] of each node's rays the share that each stage draws.
    resident: [S, N] bool.
  """
  share = np.zeros(len(pairs.planned))
  for drawn, held in zip(rays, resident, strict=True):
    share += drawn[pairs.planned] * held[pairs.actual]
  return share


def balance(
    pairs: focus_lib.NodePairs, share: np.ndarray, mass: np.ndarray
) -> np.ndarray:
  """[N] factors on the rays of each planned node; their mean by mass is one.

  Args:
    pairs: [K] with the share of all samples that each is.
    share: [K] of these samples that are trained.
    mass: [N] share of the rays that are planned to end in each node.
  """
  num_nodes = len(mass)
  sums = lambda at, values: np.bincount(at, values, num_nodes)
  planned, actual, part = pairs
  wanted, known = sums(actual, part), sums(planned, part)
  gain = np.ones(num_nodes)
  for _ in range(_NUM_ITERATIONS):
    got = sums(actual, gain[planned] * share * part)
    rate = np.where(wanted > 0, got / np.maximum(wanted, 1e-12), 1.0)
    rate /= max(got.sum(), 1e-12)
    worth = 1 / np.clip(rate, *_BELIEVED)
    need = sums(planned, part * worth[actual]) / np.maximum(known, 1e-12)
    gain *= np.where(known > 0, need, 1.0) ** _POWER
    gain = np.clip(gain, *_LIMITS)
    gain /= max((gain * mass).sum(), 1e-12)
  return gain
