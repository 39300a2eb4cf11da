"""Small runs whose growth the benchmark suite `scaling` measures.

  python -m experiments.bench --suite=scaling --out=results/scaling.json

The suite makes the cities itself: one for levels that join, two fields for
photos that are added to a finished run. A run takes about a minute of one core.
"""

from configs import common, quickstart


def get_config(arg=None):
  """Config; `arg` may set `quicktest`."""
  values = common.parse_arg(arg, quicktest=False)
  if values.quicktest:
    return quickstart.get_config('quicktest')
  config = quickstart.get_config('demo')
  config.batch_size = 512
  config.sampling.num_samples = (32, 16)
  # Of a sixteenth of quickstart's rays: nodes still rehearse with fewer.
  config.growth_rehearsal = 0.15
  return config
