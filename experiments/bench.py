"""Benchmarks, each against a reference or a peer in the same run.

python -m experiments.bench --suite=train --out=FILE.json

Suites: train (about 5 minutes on two cores), render (2), kernels (2),
complexity (6; draws FILE.png beside), scaling (3, of which counts only: any
load will do; draws FILE.png), pictures (3; of --workdir), out_of_core (15;
trains configs/out_of_core.py twice), all.
FILE.json holds the machine and a list of rows {name, value, unit, reference,
ratio, target, passed, ...}; what cannot run here (no torch, no GPU) is a
row that says so. The peer needs torch, which nothing else does. Measure on a
machine that does nothing else. On an NVIDIA GPU kernels also renders a frame of
1024 x 1024 rays at tree depth 8, op by op, against torch on the same GPU.
"""

import dataclasses

from absl import flags

from configs import out_of_core
from infnerf_jax import command, errors
from infnerf_jax.evaluation.bench import suites

_SUITE = flags.DEFINE_string(
    'suite', 'all', f'One of {", ".join(suites.SUITES)} or all.'
)
_OUT = flags.DEFINE_string('out', None, 'JSON file to write.')
_TINY = flags.DEFINE_bool(
    'tiny', False, 'Tiny shapes: shows that it runs, measures nothing.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None,
    'Trained run, or several with commas between: of pictures'
    ' the first, of complexity all.',
)  # fmt: skip


def main(argv) -> None:
  """Runs a suite, writes its rows and prints them."""
  del argv
  if not _OUT.value:
    raise errors.InputError('--out: got nothing, expected a JSON file')
  context = suites.tiny_context() if _TINY.value else suites.default_context()
  paged = out_of_core.get_config('quicktest' if _TINY.value else None)
  context = dataclasses.replace(context, paged=paged)
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
