"""The embedded default: a procedural city, made by the project itself.

  python -m experiments.train --config=configs/quickstart.py --workdir=DIR

About 5 minutes on two cores with AVX-512, 34.5 dB on unseen photos at level 0
and more at the coarser ones (results/quickstart.json).
`:quicktest` is a run of seconds for tests, `:demo` one of a minute.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  """Config; `arg` may set `quicktest`, `demo`, `extent` (m), `photos`."""
  values = common.parse_arg(
      arg, quicktest=False, demo=False, extent=72.0, photos=100
  )
  config = common.base()
  config.data.city = city = ml_collections.ConfigDict()
  city.seed = 0
  city.extent = values.extent  # metres
  city.num_photos = values.photos
  city.width, city.height = 256, 192  # pixels
  city.exposure_variation = 0.0
  config.num_steps = 8000
  # Two octaves above the scene for the coarse pixels of the highest photos.
  # Below, only the tallest roofs, seen from the lowest altitude, would open a
  # level: 67 nodes for a fourteenth of the samples learned next to nothing.
  config.root_octaves = 2
  config.target_depth = config.max_depth = 4
  config.octree_growth_schedule = (0.04, 0.08, 0.12, 0.2)
  config.field.log2_table_size = 15
  # Cells of half a footprint: sharper, and nodes see two pyramid levels.
  config.sampling.level_bias = -1.0
  config.data.detail_candidates = 8
  config.data.pyramid_ray_share = (0.6, 0.16, 0.13, 0.11)
  config.sampling.box_margin = 1.5  # oblique photos see fields far outside
  if values.demo:
    city.num_photos = 40
    city.width, city.height = 128, 96
    config.num_steps = config.checkpoint_every = 500
    config.preview_every = 0
    config.field.log2_table_size = 13
  if values.quicktest:
    city.num_photos = 12
    config.data.downscale = 4.0
    config.num_pyramid_levels = 2
    config.data.pyramid_ray_share = (0.8, 0.2)
    config.num_steps = 40
    config.batch_size = 256
    config.sampling.num_samples = (24, 12)
    config.field.log2_table_size = 12
    config.field.num_grid_scales = 4
    config.field.hidden_width = 16
    config.target_depth = 2
    config.checkpoint_every = 20
    config.preview_every = 20
    config.logging.log_every = 10
  return config


def sweep(add):
  """The tree against one node of as many parameters; two losses."""
  add()
  add(**{
      'max_depth': 0,
      'root_octaves': 0,
      'grid_size': 448,
      'field.log2_table_size': 20,
  })
  add(lambda_regularization=0.0)
  add(lambda_depth=0.0)
