"""Benchmark suites by name; each is a list of rows."""

import dataclasses
import json
import pathlib
from typing import Any, Callable

from infnerf_jax import errors
from infnerf_jax.evaluation.bench import (
    breakdown,
    contests,
    frame,
    frame_rows,
    harness,
    paged_rows,
    pictures,
    shapes,
    view_rows,
)
from infnerf_jax.evaluation.complexity import plots
from infnerf_jax.evaluation.complexity import suite as complexity
from infnerf_jax.evaluation.scaling import suite as scaling

# Ratios by CPU time, one thread, that training and inference must reach
# against the module as one writes it: stacked parameters, autograd. The other
# formulations are reported beside it, without a promise.
_TRAIN_TARGETS = {'small': 5.0, 'paper': 10.0}
_RENDER_TARGET = 12.0
_THREADS_TARGET = 1.6
_SLOTS_TARGET = 1.2

_NOTES = {
    'stacked': (
        'one parameter for all nodes; a node is indexed; autograd; fused Adam'
    ),
    'per_node': 'parameters of their own for each node; autograd; fused Adam',
    'hand_written': (
        'embedding_bag and a backward pass by hand into persistent buffers'
    ),
}


@dataclasses.dataclass(frozen=True)
class Context:
  """What a suite runs on.

  Attributes:
    shapes: by name: those of the promise, or tiny ones in a test.
    efforts: how long each is measured.
    parts: of a step that the suite `kernels` measures.
    gpu: frame, training batch and step of its rows on a GPU.
    cpu: the same on the CPU; None: not measured.
    tiny: shapes that measure nothing.
    scenes: LoadedScenes: `complexity` looks at all of them.
    map_path: FILE.tif of a capture that `maps` looks at, None: it makes one.
    canvas_size: (width, height) of `canvas`, None: the promised one.
    folder: for large files, None: the machine's own for temporary ones.
    paged: config of the run that the suite `out_of_core` measures.
    growing: config of the runs whose growth the suite `scaling` measures.
  """

  shapes: dict[str, shapes.StepShape]
  efforts: dict[str, contests.Effort]
  parts: tuple[str, ...] = breakdown.PARTS
  gpu: frame_rows.DeviceContext = frame_rows.DeviceContext()
  cpu: frame_rows.DeviceContext | None = None
  tiny: bool = False
  scenes: tuple[Any, ...] = ()
  map_path: Any = None
  canvas_size: tuple[int, int] | None = None
  folder: str | None = None
  paged: Any = None
  growing: Any = None

  @property
  def scene(self) -> Any:
    """The first of the scenes, which other suites look at, or None."""
    return self.scenes[0] if self.scenes else None


def default_context() -> Context:
  """The promised shapes."""
  return Context(
      shapes={k: shapes.SHAPES[k] for k in ('small', 'paper')},
      efforts={
          'small': contests.Effort(rounds=5),
          # Steps of seconds: one call a turn.
          'paper': contests.Effort(rounds=3, warmup=1),
      },
  )


def tiny_context() -> Context:
  """Seconds instead of minutes, for tests."""
  effort = contests.Effort(rounds=1, warmup=1, turn_seconds=0.0)
  return Context(
      shapes={'small': shapes.SHAPES['tiny']},
      efforts={'small': effort},
      parts=('hash_forward', 'mlp_adam'),
      gpu=frame_rows.DeviceContext(
          shape=frame.TINY, train=shapes.SHAPES['tiny'], effort=effort
      ),
      tiny=True,
  )


def with_cpu_frame(context: Context, width: int) -> Context:
  """`context` whose kernels are measured on the CPU's frame too.

  Args:
    context: tiny or not.
    width: pixels of the frame's side.

  Returns:
    Context.

  Raises:
    InputError: no such width.
  """
  largest = frame.TINY if context.tiny else frame.FRAME
  if not 1 <= width <= largest.width:
    raise errors.InputError(
        f'--cpu_frame: got {width}, expected 1 to {largest.width}'
    )
  cpu = frame_rows.cpu_context(
      dataclasses.replace(largest, width=width, rays_per_block=width * width),
      context.shapes['small'],
      context.efforts['small'],
  )
  return dataclasses.replace(context, cpu=cpu)


def _ours(step: str, implementation: str = 'native') -> contests.Peer:
  return contests.Peer(
      implementation, f'jax_steps:{step}', {'implementation': implementation}
  )


def _torch(step: str, formulation: str, target, optimizer=None):
  name, arguments = f'torch {formulation}', {'formulation': formulation}
  if optimizer:
    name += f' {optimizer} Adam'
    arguments['optimizer'] = optimizer
  return contests.Peer(
      name, f'torch_peer:{step}', arguments, target, _NOTES[formulation]
  )


def _xla(step: str) -> contests.Peer:
  return dataclasses.replace(
      _ours(step, 'xla'), note='the fallback of the same kernels'
  )


def _train_peers(target):
  step = 'train_step'
  return [
      _torch(step, 'stacked', target, 'dense'),
      _torch(step, 'per_node', None, 'dense'),
      _torch(step, 'hand_written', None, 'dense'),
      _torch(step, 'hand_written', None, 'lazy'),
      _xla(step),
  ]


def _render_peers(target):
  step = 'inference_step'
  return [
      # Without gradients stacked and per-node parameters are the same work.
      _torch(step, 'per_node', target),
      _torch(step, 'hand_written', None),
      _xla(step),
  ]


def _second_core(name, shape, step, effort):
  """The native backend with two threads against itself with one."""
  # By the clock, which a busy neighbour stops: more turns than CPU time needs.
  effort = dataclasses.replace(effort, rounds=3 * effort.rounds)
  return contests.two_workers(
      f'{name}/native 2 threads vs 1/wall',
      'ms',
      (_ours(step), shape, 2),
      (_ours(step), shape, 1),
      effort,
      clock='wall',
      target=_THREADS_TARGET,
  )


def _resident_nodes(shape, effort):
  """A step must cost what its samples cost, not what is resident."""
  few = dataclasses.replace(shape, num_nodes=64, num_slots=64)
  many = dataclasses.replace(few, num_slots=512)
  return contests.two_workers(
      'train/small/64 vs 512 resident nodes/cpu',
      'ms',
      (_ours('train_step'), few, 1),
      (_ours('train_step'), many, 1),
      effort,
      clock='cpu',
      target=_SLOTS_TARGET,
      rule='<=',
      note='the same samples in 64 nodes; ratio: 512 over 64',
  )


def _steps(prefix, step, peers_of, context: Context, targets):
  """Rows of a step against peers, with one and with two threads."""
  rows = []
  for key, shape in context.shapes.items():
    name, effort = f'{prefix}/{key}', context.efforts[key]
    peers = peers_of(targets[key])
    rows += contests.against_peers(name, shape, _ours(step), peers, effort)
    # With two threads the ratio is reported; the promise is for one.
    rows += contests.against_peers(
        name,
        shape,
        _ours(step),
        [dataclasses.replace(peers[0], target=None)],
        effort,
        threads=2,
    )
    rows.append(_second_core(name, shape, step, effort))
  return rows


def run_train(context: Context) -> list[harness.Row]:
  """Training steps, resident nodes, where the time goes, waiting for input."""
  rows = _steps('train', 'train_step', _train_peers, context, _TRAIN_TARGETS)
  rows.append(
      _resident_nodes(context.shapes['small'], context.efforts['small'])
  )
  for key, shape in context.shapes.items():
    rows += breakdown.rows(f'train/{key}', shape, context.efforts[key])
  return rows


def run_render(context: Context) -> list[harness.Row]:
  """Inference."""
  targets = dict.fromkeys(context.shapes, _RENDER_TARGET)
  return _steps('render', 'inference_step', _render_peers, context, targets)


def run_kernels(context: Context) -> list[harness.Row]:
  """Parts of a step on the CPU; ops of frame and batch on a GPU."""
  rows = []
  for key, shape in context.shapes.items():
    rows += breakdown.backends(
        f'kernels/{key}', shape, context.efforts[key], context.parts
    )
  rows += frame_rows.rows('kernels/gpu', context.gpu)
  if context.cpu is not None:
    name = f'kernels/cpu {context.cpu.shape.width}'
    rows += frame_rows.rows(name, context.cpu)
  return rows


def run_complexity(context: Context) -> list[harness.Row]:
  """What a view costs as scenes grow; the last row holds the series."""
  series = complexity.measure(tiny=context.tiny, scenes=context.scenes)
  return complexity.rows(series) + [
      harness.make_row(
          SERIES, len(series['node_counts']), 'sizes', detail=series,
          note='what the plot shows',
      )
  ]  # fmt: skip


def run_scaling(context: Context) -> list[harness.Row]:
  """Memory, samples and bytes of many devices; the last row: the series."""
  series = scaling.measure(tiny=context.tiny, config=context.growing)
  return scaling.rows(series)


def run_pictures(context: Context) -> list[harness.Row]:
  """A run's pictures: the fast renderer, and popping by blending."""
  if not context.scenes:
    return [
        harness.missing_row('pictures', 'ms', 'no --workdir of a trained run')
    ]
  return pictures.rows(context.scenes[0])


def run_out_of_core(context: Context) -> list[harness.Row]:
  """A run whose nodes do not fit, beside one whose do."""
  if context.paged is None:
    return [harness.missing_row('out_of_core', 'MB', 'no config to run')]
  return paged_rows.rows(context.paged)


SERIES = 'complexity/series'
PLOTS = {SERIES: plots.plot, scaling.SERIES: scaling.plot}
SUITES: dict[str, Callable[[Context], list[harness.Row]]] = {
    'train': run_train,
    'render': run_render,
    'kernels': run_kernels,
    'complexity': run_complexity,
    'scaling': run_scaling,
    'pictures': run_pictures,
    'view': view_rows.run,
    'out_of_core': run_out_of_core,
}


def add(name: str, run_suite: Callable[[Context], list[harness.Row]]) -> None:
  """Makes a suite of a higher layer known.

  Args:
    name: of the suite.
    run_suite: gives its rows.
  """
  SUITES[name] = run_suite


def run(suite: str, context: Context | None = None) -> dict:
  """Runs a suite.

  Args:
    suite: one of `SUITES`, or 'all'.
    context: shapes and effort, the promised ones where None.

  Returns:
    {'suite', 'machine', 'rows'}, JSON values.

  Raises:
    InputError: no such suite.
  """
  if suite != 'all' and suite not in SUITES:
    raise errors.InputError(
        f'--suite: got {suite!r}, expected one of {", ".join(SUITES)} or all'
    )
  context = context or default_context()
  names = list(SUITES) if suite == 'all' else [suite]
  rows = [row for name in names for row in SUITES[name](context)]
  return {
      'suite': suite,
      'machine': harness.machine(),
      'rows': [dataclasses.asdict(row) for row in rows],
  }


def write(result: dict, path) -> None:
  """Writes a result as JSON, and a PNG beside it where there is a plot."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=1) + '\n')
  for row in result['rows']:
    if row['name'] in PLOTS:
      # One picture of the file's name; a second beside it by its own.
      name = path.with_suffix('.png')
      if result['suite'] == 'all':
        name = path.with_name(f'{path.stem}_{row["name"].split("/")[0]}.png')
      PLOTS[row['name']](row['detail'], name)


def _achieved(detail: dict) -> str:
  """Bytes and operations a second, with their shares of the device's peaks."""
  text = ''
  for what, unit in (('bytes', 'GB/s'), ('flop', 'GFLOP/s')):
    rate = detail.get(f'{what}_per_second')
    if rate:
      text += f', {rate / 1e9:.4g} {unit}'
      share = detail.get(f'share_of_peak_{what}')
      text += '' if share is None else f' ({share:.1%} of peak)'
  return text


def table(result: dict) -> str:
  """The rows as lines to read."""
  number = lambda x: '-' if x is None else f'{x:.4g}'
  lines = []
  for row in result['rows']:
    passed = {True: 'passed', False: 'FAILED', None: ''}[row['passed']]
    target = f'{row["rule"]} {row["target"]:g}' if row['target'] else ''
    note = row['note'] if row['value'] is None else row['unit']
    note += _achieved(row['detail'])
    lines.append(
        f'{row["name"]:64s} {number(row["value"]):>9s}'
        f' {number(row["reference"]):>9s} {number(row["ratio"]):>7s}'
        f' {target:>8s} {passed:6s} {note}'
    )
  return '\n'.join(lines)
