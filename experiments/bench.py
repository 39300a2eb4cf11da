"""Benchmarks, each against a reference or a peer in the same run.

python -m experiments.bench --suite=train --out=FILE.json

Suites: train (about 5 minutes on two cores), render (2), kernels (2),
complexity (6; draws FILE.png beside), scaling (3, of which counts only: any
load will do; draws FILE.png), pictures (3; of --workdir), maps (3; of
--workdir), canvas (an hour, 40 GB of disk; less with --canvas), view (1; of
--workdir, in Chromium), out_of_core (15; trains configs/out_of_core.py twice),
all.
FILE.json holds the machine and a list of rows {name, value, unit, reference,
ratio, target, passed, ...}; what cannot run here (no torch, no GPU) is a
row that says so. The peer needs torch, which nothing else does. Measure on a
machine that does nothing else. On an NVIDIA GPU kernels also measures each op,
a frame of 1024 x 1024 rays at tree depth 8 and training, against torch on the
same GPU; --cpu_frame=WIDTH does so with the CPU's kernels on a frame of
WIDTH x WIDTH.
"""

import dataclasses
import os

from absl import flags

from configs import growing, out_of_core
from infnerf_jax import command, errors
from infnerf_jax.accuracy import canvas_suite
from infnerf_jax.accuracy import suite as maps
from infnerf_jax.evaluation.bench import suites

suites.add('maps', maps.run)
suites.add('canvas', canvas_suite.run)
_SUITE = flags.DEFINE_string(
    'suite', 'all', f'One of {", ".join(suites.SUITES)} or all.'
)
_OUT = flags.DEFINE_string('out', None, 'JSON file to write.')
_TINY = flags.DEFINE_bool(
    'tiny', False, 'Tiny shapes: shows that it runs, measures nothing.'
)
_CPU_FRAME = flags.DEFINE_integer(
    'cpu_frame',
    0,
    'Of kernels: also a frame this many pixels wide, and a training batch, on'
    ' the CPU; 0: none.',
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Trained run, or several with commas between: of pictures, maps, canvas and'
    ' view the first, of complexity all.',
)
_MAP = flags.DEFINE_string(
    'map', None, 'FILE.tif of --workdir that maps looks at; default: makes one.'
)
_CANVAS = flags.DEFINE_string(
    'canvas', '50000x44000', 'WIDTHxHEIGHT of the map that canvas makes.'
)


def _canvas_size():
  try:
    width, height = (int(n) for n in _CANVAS.value.split('x'))
  except ValueError:
    width = height = 0
  if min(width, height) < 1:
    raise errors.InputError(
        f'--canvas: got {_CANVAS.value!r}, expected WIDTHxHEIGHT in pixels'
    )
  return width, height


def main(argv) -> None:
  """Runs a suite, writes its rows and prints them."""
  del argv
  if not _OUT.value:
    raise errors.InputError('--out: got nothing, expected a JSON file')
  context = suites.tiny_context() if _TINY.value else suites.default_context()
  if _CPU_FRAME.value:
    context = suites.with_cpu_frame(context, _CPU_FRAME.value)
  size = 'quicktest' if _TINY.value else None
  context = dataclasses.replace(
      context,
      paged=out_of_core.get_config(size),
      growing=growing.get_config(size),
      map_path=_MAP.value,
      canvas_size=_canvas_size(),
      folder=os.path.dirname(os.path.abspath(_OUT.value)),
  )
  if _WORKDIR.value:
    import infnerf_jax

    scenes = tuple(map(infnerf_jax.load, _WORKDIR.value.split(',')))
    context = dataclasses.replace(context, scenes=scenes)
  result = suites.run(_SUITE.value, context)
  suites.write(result, _OUT.value)
  print(suites.table(result))
  print(f'wrote {_OUT.value}')


if __name__ == '__main__':
  command.run(main)
