"""Rows of the frame on a GPU: ours against eager PyTorch and plain XLA."""

import dataclasses

from infnerf_jax.evaluation.bench import contests, frame, harness, shapes

# Ratios to eager PyTorch that the method's description claims of its CUDA
# kernels, 1024 x 1024 at depth 8 on an RTX 4090, and its time of a frame.
TARGETS = {
    'traverse': 14.6,
    'hash_lookup': 19.8,
    'node_field': 17.6,
    'composite': 16.0,
    'frame': 16.8,
}
_FRAME_MS = 17.4
_RAYS_PER_SECOND = 300e3

# Makers' figures: bytes a second of memory, FLOP/s of dense half precision
# with sums in float32. By a part of the device's name.
PEAKS = {
    'H200': (4.8e12, 989e12),
    'H100': (3.35e12, 989e12),
    'A100': (2.04e12, 312e12),
    'RTX 4090': (1.01e12, 165e12),
}


_OPS = {
    'triton': ('frame_steps:frame_parts', {'implementation': 'triton'}),
    'xla': ('frame_steps:frame_parts', {'implementation': 'xla'}),
    'torch eager': ('torch_frame:frame_parts', {}),
}


@dataclasses.dataclass(frozen=True)
class GpuContext:
  """What the GPU's rows are measured on.

  Attributes:
    shape: of the frame.
    train: of a training step.
    effort: how long.
    platform: 'gpu'; 'cpu' lets tests run all of it.
    ours: contestant whose functions are named like TARGETS.
    peers: the first has the targets.
    trainer: contestant that trains.
  """

  shape: frame.FrameShape = frame.FRAME
  train: shapes.StepShape = shapes.StepShape(num_rays=1 << 14)
  effort: contests.Effort = contests.Effort(rounds=5)
  platform: str = 'gpu'
  ours: contests.Peer = contests.Peer('triton', *_OPS['triton'])
  peers: tuple[contests.Peer, ...] = (
      contests.Peer('torch eager', *_OPS['torch eager']),
      contests.Peer('xla', *_OPS['xla']),
  )
  trainer: contests.Peer = contests.Peer(
      'triton', 'frame_steps:train_rate', {'implementation': 'triton'}
  )


def tiny_context(effort: contests.Effort) -> GpuContext:
  """Shapes that measure nothing."""
  return GpuContext(
      shape=frame.TINY, train=shapes.SHAPES['tiny'], effort=effort
  )


def _worker(peer: contests.Peer, context: GpuContext, shape):
  return harness.Worker(
      peer.factory,
      threads=4,
      platform=context.platform,
      shape=dataclasses.asdict(shape),
      **peer.arguments,
  )


def rows(name: str, context: GpuContext) -> list[harness.Row]:
  """Rows of every op and of the whole frame, by the clock.

  Args:
    name: prefix of rows.
    context: sizes and effort.

  Returns:
    Rows; where there is no GPU or no torch they say so.
  """
  made = []
  try:
    with _worker(context.ours, context, context.shape) as worker:
      for i, peer in enumerate(context.peers):
        goals = TARGETS if i == 0 else dict.fromkeys(TARGETS)
        made += _against(name, context, worker, peer, goals)
  except harness.Unavailable as error:
    made = _missing(name, context, context.peers[0], TARGETS, error)
    for peer in context.peers[1:]:
      goals = dict.fromkeys(TARGETS)
      made += _missing(name, context, peer, goals, error)
  made.append(_frame_time(name, made))
  return made + [_training(name, context)]


def _title(name, op, context, peer):
  return f'{name}/{op}/{context.ours.name} vs {peer.name}'


def _missing(name, context, peer, goals, error):
  return [
      harness.missing_row(
          _title(name, op, context, peer), 'ms', error, target=goal
      )
      for op, goal in goals.items()
  ]


def _against(name, context, worker, peer, goals):
  """A row an op of our running worker against a peer."""
  try:
    with _worker(peer, context, context.shape) as other:
      turns = [(w, op) for op in goals for w in (worker, other)]
      timings = harness.interleave(turns, **context.effort.options())
  except harness.Unavailable as error:
    return _missing(name, context, peer, goals, f'{peer.name}: {error}')
  made = []
  for i, (op, goal) in enumerate(goals.items()):
    first, second = timings[2 * i : 2 * i + 2]
    made.append(
        harness.make_row(
            _title(name, op, context, peer),
            1e3 * first.median('wall'),
            'ms',
            reference=1e3 * second.median('wall'),
            ratio=harness.paired_ratio(first, second, 'wall'),
            target=goal,
            note='; '.join(_note(context, first)),
            detail={
                'ours': harness.milliseconds(first),
                'reference': harness.milliseconds(second),
                'samples_of_reference': second.values[-1],
                **_achieved(context, op, first, worker.device),
            },
        )
    )
  return made


def _note(context, timing):
  shape = context.shape
  yield f'{shape.width} x {shape.width} rays, depth {shape.max_level}'
  yield f'{int(timing.values[-1])} samples after empty space is left out'


def _achieved(context, op, timing, device) -> dict:
  """Bytes and operations a second, and shares of the device's peaks."""
  num_rays = context.shape.width**2
  work = frame.works(context.shape, num_rays, int(timing.values[-1]))[op]
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


def _frame_time(name, made) -> harness.Row:
  """The frame's own time, as it was beside the first peer that ran."""
  title = f'{name}/frame/time'
  ran = [r for r in made if r.name.startswith(f'{name}/frame/') and r.value]
  if not ran:
    note = next(r.note for r in made if f'{name}/frame/' in r.name)
    reason = note.removeprefix('not run: ')
    return harness.missing_row(title, 'ms', reason, target=_FRAME_MS, rule='<=')
  return harness.make_row(
      title,
      ran[0].value,
      'ms',
      ratio=ran[0].value,
      target=_FRAME_MS,
      rule='<=',
      note=ran[0].note,
      detail=ran[0].detail,
  )


def _training(name: str, context: GpuContext) -> harness.Row:
  """Rays a second of training steps."""
  title, shape = f'{name}/train/{context.trainer.name}', context.train
  try:
    with _worker(context.trainer, context, shape) as worker:
      (timing,) = harness.interleave([(worker, '')], **context.effort.options())
  except harness.Unavailable as error:
    return harness.missing_row(title, 'rays/s', error, target=_RAYS_PER_SECOND)
  rate = shape.num_rays / timing.median('wall')
  return harness.make_row(
      title,
      rate,
      'rays/s',
      ratio=rate,
      target=_RAYS_PER_SECOND,
      note=f'{shape.num_samples} field samples a ray, no density queries',
      detail={'ours': harness.milliseconds(timing), 'device': worker.device},
  )
