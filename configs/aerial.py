"""Any drone capture: nadir or oblique, tens to thousands of photos.

  python -m experiments.train --config=configs/aerial.py --workdir=DIR \
      --config.data.path=SCENE

About 5 minutes on two cores with AVX-512 for 60 photos of 1000 pixels, trained
at half size: 34.7 dB on caliterra's test photos (results/caliterra.json).
"""

from configs import common


def get_config(arg=None):
  """Config; `arg` may set `quicktest` or `steps`."""
  values = common.parse_arg(arg, quicktest=False, steps=7500)
  config = common.base()
  config.num_steps = values.steps
  config.target_depth = 2
  config.field.log2_table_size = 16
  config.octree_growth_schedule = (0.1, 0.25)
  # Cells of half a footprint: sharper, and nodes see two pyramid levels.
  config.sampling.level_bias = -1.0
  if values.quicktest:
    config.num_steps = 40
    config.batch_size = 256
    config.sampling.num_samples = (24, 12)
    config.field.log2_table_size = 12
    config.data.max_width = 125
  return config


def sweep(add):
  """Grid sizes: how the tree's shape trades against speed."""
  for target_depth in (2, 3, 4):
    add(target_depth=target_depth)
