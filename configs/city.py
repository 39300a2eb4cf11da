"""A procedural city whose model is larger than one machine's memory.

  python -m experiments.train --config=configs/city.py --workdir=DIR --dry_run

A square of 1.2 km, photographed from 42, 84 and 168 m: a tree of nine levels
and some thousand nodes that join level by level, on all devices there are
(README, "Beyond one machine"). `:quicktest` is a run of seconds for tests,
`:extent=…,photos=…` a smaller city. Where the devices do not hold the
nodes, say how much of them each may keep:

  python -m experiments.train --config=configs/city.py --workdir=DIR \
      --config.max_memory_gb=16

A small one, on two virtual devices that keep 0.25 GB each of 2.1 GB:

  python -m experiments.train --workdir=DIR --cpu_devices=2 \
      --config=configs/city.py:extent=150,photos=150,depth=6 \
      --config.devices.node=2 --config.max_memory_gb=0.25 \
      --config.batch_size=512 --config.num_steps=600
"""

import ml_collections

from configs import common


def get_config(arg=None):
  """Config; `arg` may set `quicktest`, `extent` (m), `photos`, `depth`."""
  values = common.parse_arg(
      arg, quicktest=False, extent=1200.0, photos=6000, depth=8
  )
  config = common.base()
  config.data.city = city = ml_collections.ConfigDict()
  city.seed = 0
  city.extent = values.extent  # metres
  city.num_photos = values.photos
  city.width, city.height = 256, 192  # pixels
  city.exposure_variation = 0.0
  city.num_points = 300_000
  config.num_steps = 100_000
  config.batch_size = 8192
  config.checkpoint_every = 5000
  config.preview_every = 20_000
  # Nodes on all devices, each with the whole batch; of several processes,
  # too: the model decides, not the speed.
  config.devices.data = 1
  config.devices.node = 0
  # As in configs/quickstart.py, with a level more for each doubling.
  config.root_octaves = 2
  config.target_depth = config.max_depth = values.depth
  config.max_nodes = 32_768
  config.octree_growth_schedule = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2)
  config.field.log2_table_size = 16
  config.sampling.level_bias = -1.0
  config.sampling.box_margin = 0.25
  config.data.detail_candidates = 8
  config.data.pyramid_ray_share = (0.6, 0.16, 0.13, 0.11)
  if values.quicktest:
    city.extent, city.num_photos, city.num_points = 72.0, 12, 20_000
    config.data.downscale = 4.0
    config.num_pyramid_levels = 2
    config.data.pyramid_ray_share = (0.8, 0.2)
    config.num_steps = 40
    config.batch_size = 256
    config.sampling.num_samples = (24, 12)
    config.field.log2_table_size = 12
    config.field.num_grid_scales = 4
    config.field.hidden_width = 16
    config.target_depth = config.max_depth = 2
    config.octree_growth_schedule = (0.25, 0.5)
    config.checkpoint_every = 20
    config.preview_every = 20
    config.logging.log_every = 10
  return config


def sweep(add):
  """Extents: the model grows with them, a step's cost does not."""
  for doublings in range(3):
    add(
        **{'data.city.extent': 300.0 * 2**doublings},
        max_depth=6 + doublings,
        target_depth=6 + doublings,
    )
