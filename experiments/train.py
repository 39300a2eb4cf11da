"""Trains a scene; the same command resumes.

python -m experiments.train --config=configs/quickstart.py --workdir=DIR
"""

from absl import flags
from ml_collections import config_flags

from infnerf_jax import command

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with `:name=value,…` behind it.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Only say what the run would do and what it would take.'
)
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
  """Trains, scores and prints what was written."""
  del argv
  config, workdir = _CONFIG.value, _WORKDIR.value
  if _DRY_RUN.value:
    from infnerf_jax.training import dry_run  # jax only where it is needed

    print(dry_run.describe(dry_run.estimate(config, workdir)))
    return
  from infnerf_jax.evaluation import train_and_evaluate
  from infnerf_jax.products import plots

  scores = train_and_evaluate.train_and_evaluate(config, workdir)
  plots.write_plots(workdir)
  print(f'wrote {workdir}: config.json, metrics.jsonl, checkpoints/, plots/')
  if scores:
    print(
        f'wrote {workdir}/eval.json: psnr {scores["psnr"]:.2f} dB,'
        f' ssim {scores["ssim"]:.3f} over {scores["num_photos"]} photos,'
        f' {scores["num_nodes"]} nodes, {scores["num_steps"]} steps'
    )


if __name__ == '__main__':
  command.run(main)
