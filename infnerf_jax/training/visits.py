"""When nodes are resident in a round, and which of them are so together."""

from typing import NamedTuple, Sequence

import numpy as np

from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.training import tracks as tracks_lib


class Visits(NamedTuple):
  """Runs of stages in which nodes are resident; V of them, E stages in all.

  An entry is a visit in one of its stages; those of a visit stand together.

  Attributes:
    of_node: [N, 2] visits of each node, -1: none. A window that begins its
      round amid some nodes meets them again at the end.
    first: [V] stages.
    last: [V] behind the last ones.
    start: [V] entry of each visit's first stage.
    node: [E] of each entry.
    stage: [E].
    stays: [N] bool, resident in all stages.
  """

  of_node: np.ndarray
  first: np.ndarray
  last: np.ndarray
  start: np.ndarray
  node: np.ndarray
  stage: np.ndarray
  stays: np.ndarray


class Overlaps(NamedTuple):
  """Entries of planned nodes in which nodes of their samples are resident.

  Attributes:
    pair: [J] row of the NodePairs.
    begin: [J] first entry of the planned node.
    end: [J] behind the last one.
  """

  pair: np.ndarray
  begin: np.ndarray
  end: np.ndarray


def of_round(
    tracks: Sequence[tracks_lib.Track], pinned: np.ndarray, num_nodes: int
) -> Visits:
  """Visits of a round.

  Args:
    tracks: with windows that slide along them.
    pinned: nodes that are always resident.
    num_nodes: N.
  """
  num_stages = len(tracks[0].passed)
  parts = [(pinned, np.zeros(len(pinned)), np.full(len(pinned), num_stages))]
  for track in tracks:
    start = track.passed - track.window // 2  # [S], increasing
    length = len(track.nodes)
    place = np.arange(-length, 2 * length)
    first = np.searchsorted(start, place - track.window, side='right')
    last = np.searchsorted(start, place, side='right')
    seen = first < last
    nodes = track.nodes[place[seen] % length]
    parts.append((nodes, first[seen], last[seen]))
  node, first, last = (
      np.concatenate(x).astype(np.int64) for x in zip(*parts, strict=True)
  )
  order = np.argsort(node, kind='stable')
  node, first, last = node[order], first[order], last[order]
  turn = np.arange(len(node)) - np.searchsorted(node, node)
  of_node = np.full((num_nodes, 2), -1, np.int64)
  of_node[node, turn] = np.arange(len(node))
  length = last - first
  start = np.cumsum(length) - length
  stage = np.arange(length.sum()) - np.repeat(start - first, length)
  stays = np.zeros(num_nodes, bool)
  stays[pinned] = True
  return Visits(
      of_node, first, last, start, np.repeat(node, length), stage, stays
  )


def overlaps(visits: Visits, pairs: focus_lib.NodePairs) -> Overlaps:
  """When both nodes of a pair are resident.

  Args:
    visits: of a round.
    pairs: planned and actual nodes.
  """
  parts = []
  for i in range(2):
    for j in range(2):
      mine = visits.of_node[pairs.planned, i]
      other = visits.of_node[pairs.actual, j]
      pair = np.flatnonzero((mine >= 0) & (other >= 0))
      mine, other = mine[pair], other[pair]
      begin = np.maximum(visits.first[mine], visits.first[other])
      end = np.minimum(visits.last[mine], visits.last[other])
      both = begin < end
      shift = (visits.start - visits.first)[mine]
      parts.append(
          (pair[both], (begin + shift)[both], (end + shift)[both])
      )  # fmt: skip
  return Overlaps(*map(np.concatenate, zip(*parts, strict=True)))
