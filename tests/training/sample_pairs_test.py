"""What was seen of samples: counted as a slow loop does, and kept."""

from typing import NamedTuple

import numpy as np
import pytest

from infnerf_jax.training import sample_pairs

_NODES, _EVERY = 7, sample_pairs._EVERY


class _Phase(NamedTuple):
  first: int
  last: int
  group: int


class _Plan:
  """Two groups of rounds."""

  phases = [
      _Phase(0, 20, 0), _Phase(20, 60, 0), _Phase(60, 80, 1), _Phase(80, 99, 1)
  ]  # fmt: skip

  def phase_at(self, step):
    return sum(step >= phase.first for phase in self.phases) - 1


def _rays(step):
  """[5, 1 + 4] nodes; some rays without a plan, some samples nowhere."""
  return np.random.default_rng(step).integers(-1, _NODES, (5, 5), np.int32)


def _slow(first, last):
  rays, pairs = np.zeros(_NODES), {}
  for step in range(first, last):
    if step % _EVERY == 0:
      for planned, *actual in _rays(step).tolist():
        if planned >= 0:
          rays[planned] += 1
          for node in actual:
            if node >= 0:
              pairs[planned, node] = pairs.get((planned, node), 0) + 1
  return rays, pairs


def _run(lookout, first, last):
  for step in range(first, last):
    lookout.before(step, _Plan(), lambda: np.full(_NODES, 10 * step))  # noqa: B023
    lookout.add(step, _rays(step))


def _assert_seen(seen, first, last):
  rays, pairs = _slow(first, last)
  assert seen.num_steps == last - first
  np.testing.assert_array_equal(seen.trained, 10 * (last - first))
  np.testing.assert_array_equal(seen.rays, rays)
  found = zip(seen.planned, seen.actual, strict=True)
  assert dict(zip(found, seen.count, strict=True)) == pairs


def test_phases_are_planned_from_what_was_seen_some_steps_before():
  lookout = sample_pairs.Lookout(_NODES, 8)
  _run(lookout, 0, 99)
  assert lookout.of_phase(0) is None and lookout.of_phase(2) is None
  # Of other nodes that took part nothing counts.
  _assert_seen(lookout.of_phase(3), 60, 72)


@pytest.mark.parametrize('killed', [5, 12, 15, 33, 70])
def test_a_run_that_goes_on_has_seen_the_same(killed):
  whole, part = (sample_pairs.Lookout(_NODES, 8) for _ in range(2))
  _run(part, 0, killed)
  arrays = {**part.arrays('pairs'), 'other': np.ones(3)}
  again = sample_pairs.Lookout(_NODES, 8)
  again.restore('pairs', arrays)
  assert list(arrays) == ['other']
  end = 58 if killed < 58 else 99
  _run(again, killed, end)
  _run(whole, 0, end)
  number = _Plan().phase_at(end - 1)
  mine, reference = again.of_phase(number), whole.of_phase(number)
  for a, b in zip(mine, reference, strict=True):
    np.testing.assert_array_equal(a, b)
