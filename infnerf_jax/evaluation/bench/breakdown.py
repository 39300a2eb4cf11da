"""Where a training step's time goes."""

import contextlib

from infnerf_jax.evaluation.bench import contests, harness, shapes

PARTS = (
    'hash_forward',
    'field',
    'hash_backward',
    'mlp_adam',
    'sampling',
    'step',
)
_WAIT_TARGET = 0.05


def _workers(stack, shape, implementation):
  arguments = {'shape': shapes.as_dict(shape), 'implementation': implementation}
  return [
      stack.enter_context(harness.Worker(f'{factory}', **arguments))
      for factory in ('jax_steps:train_parts', 'input_steps:input_parts')
  ]


def rows(
    name: str, shape: shapes.StepShape, effort: contests.Effort
) -> list[harness.Row]:
  """Shares of a step's CPU time by part, native backend, one thread.

  The fused kernels cannot be stopped half-way: the table's Adam is part of
  `hash backward`, and `mlp and composite` is the field's forward and backward
  pass less a hash lookup by itself.

  Args:
    name: prefix of rows.
    shape: sizes.
    effort: how long.

  Returns:
    A row a part, and one of the share of time spent waiting for input.
  """
  unit = 'share of CPU time'
  try:
    with contextlib.ExitStack() as stack:
      parts, inputs = _workers(stack, shape, 'native')
      timed = [(parts, part) for part in PARTS] + [(inputs, 'batch')]
      timings = harness.interleave(timed, **effort.options())
      waited = inputs.run(2, 'wait')['values'][-1]
  except harness.Unavailable as error:
    return [harness.missing_row(f'{name}/share/all', unit, str(error))]
  best = {
      part: timing.best('cpu')
      for part, timing in zip(PARTS + ('input',), timings, strict=True)
  }
  made = _share_rows(name, unit, best)
  made.append(
      harness.make_row(
          f'{name}/share of time waiting for input',
          waited,
          'share of time',
          reference=_WAIT_TARGET,
          ratio=waited,
          target=_WAIT_TARGET,
          rule='<=',
          note='20 native steps behind the prefetcher, batches from a pyramid',
      )
  )
  return made


def _share_rows(name, unit, best):
  """A row a part from its best time."""
  whole = best['step'] + best['sampling'] + best['input']
  mlp = max(best['field'] - best['hash_forward'], 0.0)
  shares = {
      'hash forward': best['hash_forward'],
      'hash backward with its Adam': best['hash_backward'],
      'mlp and composite': mlp,
      'optimiser of mlps': best['mlp_adam'],
      'sampling': best['sampling'],
      'input': best['input'],
  }
  shares['rest'] = whole - sum(shares.values())
  detail = {f'{k}_ms': round(1e3 * v, 3) for k, v in best.items()}
  return [
      harness.make_row(
          f'{name}/share/{part}',
          seconds / whole,
          unit,
          detail=detail,
          note='of field, update, self-proposals (64 samples a ray) and input',
      )
      for part, seconds in shares.items()
  ]


def backends(
    name: str,
    shape: shapes.StepShape,
    effort: contests.Effort,
    parts: tuple[str, ...] = PARTS,
) -> list[harness.Row]:
  """Parts of the native backend against the fallback's, one thread.

  Args:
    name: prefix of rows.
    shape: sizes.
    effort: how long.
    parts: of `PARTS`.

  Returns:
    A row a part.
  """
  arguments = {'shape': shapes.as_dict(shape)}
  try:
    with contextlib.ExitStack() as stack:
      pair = [
          stack.enter_context(
              harness.Worker(
                  'jax_steps:train_parts', implementation=i, **arguments
              )
          )
          for i in ('native', 'xla')
      ]
      timed = [(worker, part) for part in parts for worker in pair]
      timings = harness.interleave(timed, **effort.options())
  except harness.Unavailable as error:
    return [harness.missing_row(f'{name}/native vs xla', 'ms', str(error))]
  made = []
  for i, part in enumerate(parts):
    ours, theirs = timings[2 * i : 2 * i + 2]
    made.append(
        harness.make_row(
            f'{name}/{part}/native vs xla/cpu',
            1e3 * ours.median('cpu'),
            'ms',
            reference=1e3 * theirs.median('cpu'),
            ratio=harness.paired_ratio(ours, theirs, 'cpu'),
            detail={
                'ours': harness.milliseconds(ours),
                'reference': harness.milliseconds(theirs),
            },
        )
    )
  return made
