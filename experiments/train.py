"""Trains a scene; the same command resumes, on other devices too.

python -m experiments.train --config=configs/quickstart.py --workdir=DIR

Several devices: --config.devices.data=D --config.devices.node=M. Several
processes: this command once in each, with --coordinator_address,
--num_processes and --process_id; under SLURM's srun without them; with
--num_processes=N alone it starts N processes on this machine.
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

from infnerf_jax import command, launch

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with `:name=value,…` behind it.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Only say what the run would do and what it would take.'
)
_ADDRESS = flags.DEFINE_string(
    'coordinator_address', None, 'HOST:PORT of process 0.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Processes of the run; alone: starts them here.'
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Number of this process, from 0.'
)
_CPU_DEVICES = flags.DEFINE_integer(
    'cpu_devices', 0, 'Virtual CPU devices of each process; 0: what is here.'
)
_WORKER_TIMEOUT = flags.DEFINE_float(
    'worker_timeout', 60.0, 'Seconds of silence after which a process is dead.'
)
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
  """Trains, scores and prints what was written."""
  del argv
  if _DRY_RUN.value:
    from infnerf_jax.training import dry_run  # jax only where it is needed

    estimated = dry_run.estimate(_CONFIG.value, _WORKDIR.value)
    print(dry_run.describe(estimated))
    return
  job = launch.find_job(
      _ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value, os.environ
  )
  if job and job.process_id is None:
    sys.exit(launch.run_local(job.num_processes, sys.argv[1:]))
  with launch.joined(
      job, timeout=_WORKER_TIMEOUT.value, cpu_devices=_CPU_DEVICES.value
  ):
    _train(_CONFIG.value, _WORKDIR.value, job is None or job.process_id == 0)


def _train(config, workdir, reports):
  from infnerf_jax.evaluation import train_and_evaluate
  from infnerf_jax.products import plots

  scores = train_and_evaluate.train_and_evaluate(config, workdir)
  if reports:
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
