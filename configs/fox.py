"""instant-ngp's fox: 50 frames of a phone video, indoors, at quarter size.

  python -m experiments.train --config=configs/fox.py --workdir=DIR \
      --config.data.path=FOX

29.3 dB on every 8th photo after 5.5 minutes on two cores with AVX-512
(results/fox.json).
"""

from configs import common


def get_config(arg=None):
  """Config; `arg` may set `quicktest` or `steps`."""
  values = common.parse_arg(arg, quicktest=False, steps=7500)
  config = common.base()
  config.num_steps = values.steps
  config.data.downscale = 4.0
  config.target_depth = 1
  config.field.log2_table_size = 16
  config.octree_growth_schedule = (0.1, 0.25)
  config.sampling.level_bias = -1.0
  config.data.pyramid_ray_share = (0.8, 0.1, 0.06, 0.04)
  if values.quicktest:
    config.num_steps = 40
    config.batch_size = 256
    config.sampling.num_samples = (24, 12)
    config.field.log2_table_size = 12
    config.data.downscale = 16.0
  return config


def sweep(add):
  """Poses as given, and refined with the scene."""
  add()
  add(refine_poses=True)
