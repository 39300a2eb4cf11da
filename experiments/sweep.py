"""Runs the sweep of a config file, or prints it for a cluster.

python -m experiments.sweep --config=configs/quickstart.py --workdir=DIR

Runs go to DIR/runs/NAME; what is finished is not repeated. DIR/table.txt and
table.json hold the results, the best first.
"""

import sys

from absl import flags
from ml_collections import config_flags

from infnerf_jax import command, errors

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file with a function sweep(add).'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the sweep.')
_PARALLEL = flags.DEFINE_integer(
    'parallel', 1, 'Trainings at a time.', lower_bound=1
)
_SEEDS = flags.DEFINE_list(
    'seeds', [], 'Each run once with each of these; default: as configured.'
)
_METRIC = flags.DEFINE_string('metric', 'psnr', 'Score that sorts the table.')
_PRINT = flags.DEFINE_enum(
    'print', '', ['', 'commands', 'slurm', 'table'],
    'Run nothing: print commands, a SLURM array script, or what there is.',
)  # fmt: skip
flags.mark_flags_as_required(['config', 'workdir'])


def _runs(path):
  from infnerf_jax.evaluation import sweep

  try:
    seeds = [int(seed) for seed in _SEEDS.value]
  except ValueError:
    raise errors.InputError(
        f'--seeds: got {",".join(_SEEDS.value)!r}, expected whole numbers'
    ) from None
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  return sweep.make_runs(
      sweep.with_seeds(sweep.load_sweep(path), seeds),
      _CONFIG.value, _WORKDIR.value, config_path=path, overrides=overrides,
  )  # fmt: skip


def main(argv):
  """Runs what is missing and prints the table."""
  del argv
  from infnerf_jax.evaluation import sweep, sweep_table

  path, workdir = flags.FLAGS['config'].config_filename, _WORKDIR.value
  runs = _runs(path)
  if _PRINT.value == 'commands':
    print('\n'.join(sweep.shell_command(run) for run in runs))
  elif _PRINT.value == 'slurm':
    parallel = _PARALLEL.value if flags.FLAGS['parallel'].present else 0
    print(sweep.slurm_script(runs, workdir, parallel))
  sweep.write_plan(runs, workdir, path)
  if _PRINT.value in ('commands', 'slurm'):
    return
  failed = {}
  if not _PRINT.value:
    failed = sweep.run_all(
        runs, parallel=_PARALLEL.value,
        on_end=lambda *_: sweep_table.write_table(workdir, _METRIC.value),
    )  # fmt: skip
  print(sweep_table.as_text(sweep_table.write_table(workdir, _METRIC.value)))
  print(f'wrote {workdir}/table.txt, {workdir}/table.json')
  for name, why in failed.items():
    print(f'failed: {name}: {why}', file=sys.stderr)
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  command.run(main)
