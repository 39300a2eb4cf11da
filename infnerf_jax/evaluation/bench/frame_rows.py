"""Rows of kernels on a GPU: ours against eager PyTorch and plain XLA.

A frame's ops, a training batch's ops, and rays a second of training. The same
code measures the CPU's kernels, on a smaller frame and without targets.
"""

import dataclasses
from typing import Callable

from infnerf_jax.evaluation.bench import (
    batch,
    contests,
    frame,
    harness,
    shapes,
)

# Ratios to eager PyTorch that the method's description claims of its CUDA
# kernels, 1024 x 1024 at depth 8 on an RTX 4090, and its time of a frame.
TARGETS = {
    'locate': None,
    'traverse': 14.6,
    'hash_lookup': 19.8,
    'node_field': 17.6,
    'composite': 16.0,
    'frame': 16.8,
}
BATCH_OPS = (
    'hash_lookup gradient',
    'node_field gradient',
    'composite gradient',
    'sparse_adam',
)
_FRAME_MS = 17.4
# What nerfacc and nerfacto report of an A100, by a part of the device's name.
_RAYS_PER_SECOND = {'H100': 500e3, 'H200': 500e3, '': 300e3}

# Makers' figures: bytes a second of memory, FLOP/s of dense half precision
# with sums in float32. By a part of the device's name.
PEAKS = {
    'H200': (4.8e12, 989e12),
    'H100': (3.35e12, 989e12),
    'A100': (2.04e12, 312e12),
    'RTX 4090': (1.01e12, 165e12),
}


def _sides(kind: str, implementation: str | None):
  """Ours, eager PyTorch and the XLA form of a contest."""
  ours = f'{kind}_steps:{kind}_parts'
  return (
      contests.Peer(
          implementation or 'ours', ours, {'implementation': implementation}
      ),
      contests.Peer('torch eager', f'torch_{kind}:{kind}_parts', {}),
      contests.Peer('xla', ours, {'implementation': 'xla'}),
  )


@dataclasses.dataclass(frozen=True)
class DeviceContext:
  """What the kernels' rows are measured on.

  Attributes:
    shape: of the frame.
    train: of a training batch.
    effort: how long.
    platform: 'gpu' or 'cpu'.
    goals: whether ratios and times have the GPU's targets.
    frame_sides: ours, whose functions are named like TARGETS, then peers, of
      whom the first has the targets.
    batch_sides: likewise, of BATCH_OPS.
    trainer: contestant that does whole training steps.
    field_trainer: one whose samples are given.
  """

  shape: frame.FrameShape = frame.FRAME
  train: shapes.StepShape = shapes.StepShape(num_rays=1 << 14)
  effort: contests.Effort = contests.Effort(rounds=5)
  platform: str = 'gpu'
  goals: bool = True
  frame_sides: tuple[contests.Peer, ...] = _sides('frame', 'triton')
  batch_sides: tuple[contests.Peer, ...] = _sides('batch', 'triton')
  trainer: contests.Peer = contests.Peer(
      'triton', 'train_rate:train_rate', {'implementation': 'triton'}
  )
  field_trainer: contests.Peer = contests.Peer(
      'triton', 'train_rate:field_rate', {'implementation': 'triton'}
  )


def cpu_context(
    shape: frame.FrameShape, train: shapes.StepShape, effort: contests.Effort
) -> DeviceContext:
  """The same on the CPU, by the backends that it takes by itself."""
  ours = {'implementation': None}
  return DeviceContext(
      shape=shape,
      train=train,
      effort=effort,
      platform='cpu',
      goals=False,
      frame_sides=_sides('frame', None),
      batch_sides=_sides('batch', None),
      trainer=contests.Peer('ours', 'train_rate:train_rate', ours),
      field_trainer=contests.Peer('ours', 'train_rate:field_rate', ours),
  )


def rows(name: str, context: DeviceContext) -> list[harness.Row]:
  """Rows of every op, of the whole frame and of training, by the clock.

  Args:
    name: prefix of rows.
    context: sizes and effort.

  Returns:
    Rows; where there is no such device or no torch they say so.
  """
  side, train = context.shape.width, context.train
  pixels = (
      f'{side} x {side} rays, depth {context.shape.max_level},'
      f' {context.train.num_grid_scales} grid scales'
  )
  count = train.num_rays * train.num_samples
  goals = TARGETS if context.goals else dict.fromkeys(TARGETS)
  made = _contest(
      name,
      context,
      context.frame_sides,
      context.shape,
      goals,
      lambda samples: frame.works(context.shape, side**2, samples),
      pixels,
  )
  made.append(_frame_time(name, context, made))
  made += _contest(
      name,
      context,
      context.batch_sides,
      train,
      dict.fromkeys(BATCH_OPS),
      lambda counted: batch.works(train, count, counted),
      f'{train.num_rays} rays x {train.num_samples} samples',
  )
  return made + _training(name, context)


def _worker(peer: contests.Peer, context: DeviceContext, shape, **more):
  return harness.Worker(
      peer.factory,
      threads=4 if context.platform == 'gpu' else 1,
      platform=context.platform,
      shape=dataclasses.asdict(shape),
      **peer.arguments,
      **more,
  )


def _title(name, op, ours, peer):
  return f'{name}/{op}/{ours.name} vs {peer.name}'


def _contest(name, context, sides, shape, goals, works: Callable, about: str):
  """Rows of all ops: our worker against each peer.

  Args:
    name: prefix of rows.
    context: effort and platform.
    sides: ours, then peers; the first of these has the goals.
    shape: of the workers.
    goals: targets by op.
    works: ops' work by name, from what a function counted.
    about: note of every row.

  Returns:
    Rows.
  """
  ours, *peers = sides
  goals_of = [goals if i == 0 else dict.fromkeys(goals) for i in range(9)]
  made = []
  try:
    with _worker(ours, context, shape) as worker:
      for peer, goal in zip(peers, goals_of):
        made += _against(
            name, context, ours, worker, peer, shape, goal, works, about
        )
  except _NOT_RUN as error:
    for peer, goal in zip(peers, goals_of):
      made += _missing(name, ours, peer, goal, error)
  return made


def _missing(name, ours, peer, goals, error):
  return [
      harness.missing_row(
          _title(name, op, ours, peer), 'ms', error, target=goal
      )
      for op, goal in goals.items()
  ]


def _against(name, context, ours, worker, peer, shape, goals, works, about):
  """A row an op of our running worker against a peer."""
  try:
    with _worker(peer, context, shape) as other:
      turns = [(w, op) for op in goals for w in (worker, other)]
      timings = harness.interleave(turns, **context.effort.options())
  except _NOT_RUN as error:
    return _missing(name, ours, peer, goals, f'{peer.name}: {error}')
  made = []
  for i, (op, goal) in enumerate(goals.items()):
    first, second = timings[2 * i : 2 * i + 2]
    counted = int(first.values[-1])
    made.append(
        harness.make_row(
            _title(name, op, ours, peer),
            1e3 * first.median('wall'),
            'ms',
            reference=1e3 * second.median('wall'),
            ratio=harness.paired_ratio(first, second, 'wall'),
            target=goal,
            note=f'{about}; {counted} {_COUNTED.get(op, "samples")}',
            detail={
                'ours': harness.milliseconds(first),
                'reference': harness.milliseconds(second),
                'counted_by_reference': second.values[-1],
                **_achieved(works(counted)[op], first, worker.device),
            },
        )
    )
  return made


# A worker that dies, for want of memory say, costs its own rows only.
_NOT_RUN = (harness.Unavailable, RuntimeError)
_COUNTED = {'sparse_adam': 'rows updated'}


def _achieved(work: frame.Work, timing, device: str) -> dict:
  """Bytes and operations a second, and shares of the device's peaks."""
  seconds = timing.median('wall')
  found = {
      'device': device,
      'bytes_per_second': work.num_bytes / seconds,
      'flop_per_second': work.flops / seconds,
  }
  for part, (bandwidth, flops) in PEAKS.items():
    if part in device:
      found['share_of_peak_bytes'] = found['bytes_per_second'] / bandwidth
      found['share_of_peak_flop'] = found['flop_per_second'] / flops
      break
  return found


def _frame_time(name, context, made) -> harness.Row:
  """The frame's own time, as it was beside the first peer that ran."""
  title = f'{name}/frame/time'
  goal = _FRAME_MS if context.goals else None
  of_frame = [r for r in made if r.name.startswith(f'{name}/frame/')]
  ran = [r for r in of_frame if r.value]
  if not ran:
    reason = of_frame[0].note.removeprefix('not run: ')
    return harness.missing_row(title, 'ms', reason, target=goal, rule='<=')
  return harness.make_row(
      title,
      ran[0].value,
      'ms',
      ratio=ran[0].value,
      target=goal,
      rule='<=',
      note=ran[0].note,
      detail=ran[0].detail,
  )


def _training(name: str, context: DeviceContext) -> list[harness.Row]:
  """Rays a second of whole training steps, and of their field's part.

  What a rate is of stands in its name: rates of other work are other rates.
  """
  shape, depth = context.train, dict(max_level=context.shape.max_level)
  whole = f'{batch.NUM_PROPOSALS} density + {shape.num_samples} field samples'
  field = f'0 density + {shape.num_samples} field samples'
  return [
      _rate(
          f'{name}/train, {whole} a ray/{context.trainer.name}',
          context,
          lambda: _worker(context.trainer, context, shape, **depth),
          'placing, losses, priors and updates included',
          context.goals,
      ),
      _rate(
          f'{name}/train, {field} a ray/{context.field_trainer.name}',
          context,
          lambda: _worker(context.field_trainer, context, shape),
          'samples are given, no priors',
          False,
      ),
  ]


def _rate(title, context, start, note, has_goal: bool) -> harness.Row:
  """A row of rays a second of the worker that `start` makes."""
  goal = _RAYS_PER_SECOND[''] if has_goal else None
  try:
    with start() as worker:
      (timing,) = harness.interleave([(worker, '')], **context.effort.options())
  except _NOT_RUN as error:
    return harness.missing_row(title, 'rays/s', error, target=goal)
  if has_goal:
    goal = next(g for d, g in _RAYS_PER_SECOND.items() if d in worker.device)
  rate = context.train.num_rays / timing.median('wall')
  return harness.make_row(
      title,
      rate,
      'rays/s',
      ratio=rate,
      target=goal,
      note=note,
      detail={'ours': harness.milliseconds(timing), 'device': worker.device},
  )
