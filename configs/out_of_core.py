"""The embedded city cut into many small nodes, an eighth of them in memory.

2,184 nodes of 0.47 MB with moments on seven levels.

  python -m experiments.train --config=configs/out_of_core.py --workdir=DIR

What `experiments.bench --suite=out_of_core` measures. `:resident` keeps all
nodes in memory; `:quicktest` is a run of seconds for tests.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  """Config; `arg` may set `quicktest`, `resident`, `extent` (m), `photos`."""
  values = common.parse_arg(
      arg, quicktest=False, resident=False, extent=72.0, photos=100
  )
  config = common.base()
  config.data.city = city = ml_collections.ConfigDict()
  city.seed = 0
  city.extent = values.extent  # metres
  city.num_photos = values.photos
  city.width, city.height = 192, 144  # pixels
  city.exposure_variation = 0.0
  config.num_steps = 2000
  # The rate has fallen before the last rounds of the window end.
  config.optimizer.lr_decay_steps = config.num_steps
  config.checkpoint_every = config.num_steps
  config.preview_every = 0
  # What stands in for absent nodes has learned what they show: their ancestors
  # all fit until level 4 joins.
  config.octree_growth_schedule = (40, 80, 140, 220, 360)
  config.growth_rehearsal = 40  # steps
  config.max_depth, config.grid_size = 6, 16
  config.field.log2_table_size = 13  # 1.02 GB in all, more than the program
  config.sampling.box_margin = 1.5  # oblique photos see fields far outside
  # An eighth of what all nodes take; 0: all are resident.
  config.max_memory_gb = 0.0 if values.resident else 0.127
  if values.quicktest:
    city.num_photos = 12
    city.width, city.height = 64, 48
    config.num_pyramid_levels = 2
    config.data.pyramid_ray_share = (0.8, 0.2)
    config.num_steps = config.optimizer.lr_decay_steps = 40
    config.octree_growth_schedule = (4, 8)
    config.growth_rehearsal = 2
    config.checkpoint_every = 20
    config.batch_size = 128
    config.sampling.num_samples = (12, 6)
    config.field.log2_table_size = 6
    config.field.num_grid_scales = 2
    config.field.hidden_width = 16
    config.grid_size, config.max_depth = 0, 3
    config.logging.log_every = 10
    config.max_memory_gb = 0.0 if values.resident else 6e-4
  return config
