"""Comparisons that suites are made of: rows from interleaved contestants."""

import contextlib
import dataclasses
from typing import Any

from infnerf_jax.evaluation.bench import harness, shapes

_UNITS = {'cpu': 'rays/s of CPU time', 'wall': 'rays/s'}


@dataclasses.dataclass(frozen=True)
class Effort:
  """How long to measure.

  Attributes:
    rounds: turns of each contestant.
    warmup: calls before.
    turn_seconds: length of a turn.
  """

  rounds: int = 5
  warmup: int = 2
  turn_seconds: float = 0.4

  def options(self) -> dict[str, Any]:
    """Keywords of `harness.interleave`."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Peer:
  """Someone to be compared with.

  Attributes:
    name: in rows.
    factory: 'module:function' for a worker.
    arguments: of the factory.
    target: ratio by CPU time to reach, None: only reported.
    note: what a reader must know.
  """

  name: str
  factory: str
  arguments: dict[str, Any]
  target: float | None = None
  note: str = ''


def against_peers(
    name: str,
    shape: shapes.StepShape,
    ours: Peer,
    peers: list[Peer],
    effort: Effort,
    *,
    threads: int = 1,
) -> list[harness.Row]:
  """Rows of rays per CPU second and per second of the clock.

  One peer at a time lives beside ours, so that memory holds two contestants.

  Args:
    name: prefix of rows.
    shape: sizes.
    ours: contestant.
    peers: each gives two rows.
    effort: how long.
    threads: of everybody.

  Returns:
    Rows; those of who cannot run say why.
  """
  name = f'{name}/{threads}_thread{"s" if threads > 1 else ""}'
  title = lambda peer: f'{name}/{ours.name} vs {peer.name}'
  try:
    with _worker(ours, shape, threads) as worker:
      return [
          row
          for peer in peers
          for row in _against_peer(
              title(peer), shape, worker, peer, effort, threads
          )
      ]
  except harness.Unavailable as error:
    reason = f'{ours.name}: {error}'
    return [_missing(title(peer), peer, reason) for peer in peers]


def _missing(title, peer, reason):
  return harness.missing_row(
      f'{title}/cpu', _UNITS['cpu'], reason, target=peer.target
  )


def _against_peer(title, shape, worker, peer, effort, threads):
  """Rows by both clocks of our running worker against a peer."""
  try:
    with _worker(peer, shape, threads) as other:
      pair = [(worker, ''), (other, '')]
      timings = harness.interleave(pair, **effort.options())
  except harness.Unavailable as error:
    return [_missing(title, peer, f'{peer.name}: {error}')]
  return [
      _contest_row(
          f'{title}/{clock}',
          unit,
          timings,
          clock,
          shape.num_rays,
          peer.target if clock == 'cpu' else None,
          peer.note,
      )
      for clock, unit in _UNITS.items()
  ]


def _worker(peer: Peer, shape, threads):
  return harness.Worker(
      peer.factory,
      threads=threads,
      shape=shapes.as_dict(shape),
      **peer.arguments,
  )


def _contest_row(name, unit, timings, clock, num_rays, target, note):
  """Ours, the first timing, against the second."""
  ours, theirs = timings
  return harness.make_row(
      name,
      num_rays / ours.median(clock),
      unit,
      reference=num_rays / theirs.median(clock),
      ratio=harness.paired_ratio(ours, theirs, clock),
      target=target,
      note=note,
      detail={
          'ours': harness.milliseconds(ours),
          'reference': harness.milliseconds(theirs),
          'rounds': len(ours.cpu),
      },
  )


def two_workers(
    name: str,
    unit: str,
    first: tuple[Peer, shapes.StepShape, int],
    second: tuple[Peer, shapes.StepShape, int],
    effort: Effort,
    *,
    clock: str,
    target: float,
    rule: str = '>=',
    note: str = '',
) -> harness.Row:
  """The second's time over the first's.

  Args:
    name: of the row.
    unit: of the times, milliseconds.
    first: (contestant, sizes, threads); the row's value.
    second: the same; the row's reference.
    effort: how long.
    clock: 'cpu' or 'wall'.
    target: of the ratio.
    rule: '>=', or '<=' where the first is the base and must not be beaten by
      more than `target`.
    note: for the reader.

  Returns:
    Row whose ratio is second over first.
  """
  try:
    with contextlib.ExitStack() as stack:
      pair = [
          (stack.enter_context(_worker(*contestant)), '')
          for contestant in (first, second)
      ]
      timings = harness.interleave(pair, **effort.options())
  except harness.Unavailable as error:
    return harness.missing_row(name, unit, str(error), target=target, rule=rule)
  one, two = timings
  return harness.make_row(
      name,
      1e3 * one.median(clock),
      unit,
      reference=1e3 * two.median(clock),
      ratio=harness.paired_ratio(one, two, clock),
      target=target,
      rule=rule,
      note=note,
      detail={
          'value': harness.milliseconds(one),
          'reference': harness.milliseconds(two),
          'rounds': len(one.cpu),
      },
  )
