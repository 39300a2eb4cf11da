"""The fields of every config, with units, and the parser of `:name=value`.

Configs import no jax: launching a sweep must stay cheap.
"""

import ml_collections

from infnerf_jax import errors


def base() -> ml_collections.ConfigDict:
  """All fields with their defaults; configs change what they need."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  # Training length is steps, never a clock: runs repeat to the bit.
  config.num_steps = 8000
  # Rays a step (paper: 65,536). At equal numbers of rays many small steps won
  # 1 to 2 dB over a quarter as many of 4,096.
  config.batch_size = 1024
  config.ray_microbatch = 0  # rays whose gradients are taken at once; 0: all
  config.checkpoint_every = 2000  # steps
  config.checkpoints_kept = 2
  config.eval_every = 0  # steps between validation scores; 0: never
  config.preview_every = 4000  # steps between preview pictures; 0: never
  # Cap of the nodes' rows in training (those that it does not hold stay on
  # disk) and of what rendering holds; 0: no cap.
  config.max_memory_gb = 0.0
  config.implementation = ''  # kernels: '' best, 'native', 'xla', 'reference'

  # May differ on resume. Both 0: one device; or of several processes all, the
  # rays dealt out over processes, the nodes over the devices of each.
  config.devices = devices = ml_collections.ConfigDict()
  devices.data = 0  # shards of a batch's rays; 0: what `node` leaves
  devices.node = 0  # shards of the nodes; 0: what `data` leaves

  config.data = data = ml_collections.ConfigDict()
  data.path = ''  # scene folder; '': the procedural city described in `city`
  # More scenes, `SCENE2,SCENE3`, in the same frame. May be added to a finished
  # run: only nodes that they touch are trained from there on.
  data.extra_paths = ''
  data.extra_ray_share = 0.5  # of rays, from photos added to a finished run
  data.downscale = 0.0  # full-size pixels per training pixel; 0: see max_width
  data.max_width = 500  # pixels; what an automatic downscale aims at
  data.cache_gb = 20.0  # decoded photos kept beside the workdir
  data.pyramid_ray_share = (0.7, 0.14, 0.1, 0.06)  # of rays, by level
  data.point_ray_share = 0.2  # of rays, through sparse points
  # Pixels that compete to be a ray: those with more detail win more often.
  data.detail_candidates = 4
  # Groups of photos, each with its own part of every batch: with as many as
  # there are processes, each reads only its own photos.
  data.photo_groups = 1
  data.test_every = 8  # every 8th usable photo by name is a test photo
  data.test_list = ''  # file of names; overrides test_every
  data.train_list = ''  # file of names
  data.validation_every = 0  # of the training photos; 0: no validation split
  data.boundary = ''  # GeoJSON; nothing outside its polygons is trained
  data.max_damaged_fraction = 0.1  # of photos that cannot be decoded

  # Octree (names of the paper's description). Lengths are metres.
  config.num_pyramid_levels = 4
  config.max_depth = 8
  config.grid_size = 0  # cells a node (paper: 2048); 0: from target_depth
  config.target_depth = 3  # deepest level an automatic grid_size aims at
  config.max_gsd = 0.0  # the root's node_gsd; 0: from the root's side
  config.min_gsd = 0.0  # no level is finer; 0: no limit
  config.scene_bound = 0.0  # half the root's side; 0: from the points
  config.root_octaves = 0  # doublings of that side: room for coarser pixels
  config.use_pruning = True
  config.min_points = 0
  config.min_cameras = 3
  config.max_nodes = 4096
  # When a run ends, nodes that give no training ray more than this share of its
  # colour go, where their parents would give no more; 0: none. May differ on
  # resume.
  config.prune_share = 0.02
  # Nodes that are resident at a time; 0: as many as max_memory_gb holds.
  config.num_slots = 0

  # When level i + 1 joins, the last: all deeper ones; below 1: of num_steps.
  # The paper's description: (1000, 5000, 10000); () trains all from the start.
  config.octree_growth_schedule = ()
  # Warm start before joining, steps; below 1: of num_steps.
  config.growth_rehearsal = 0.05

  config.field = field = ml_collections.ConfigDict()
  field.num_grid_scales = 8  # paper: 16
  field.log2_table_size = 14  # paper: 19; small tables stay in the cache
  field.num_features = 2
  field.base_resolution = 4  # paper: 16; coarse cells are what nodes share
  field.hidden_width = 64
  field.num_geometry = 15
  # Paper: 32. On photos whose exposure drifts slowly, scoring with the mean
  # embedding, none is better; set it where photos differ at random.
  field.appearance_dim = 0

  config.sampling = sampling = ml_collections.ConfigDict()
  sampling.num_samples = (48, 24)  # reference: (192, 96, 48)
  sampling.near = 0.03  # of h, half the root's side
  sampling.far = 1000.0  # of h
  sampling.clip_to_box = True  # rays end at the points' box
  sampling.box_margin = 0.25  # of the points' box, horizontally
  sampling.weight_power = 0.9
  sampling.padding = 0.01  # uniform share in every round's weights
  sampling.anneal_steps = 500
  sampling.level_bias = 0.0  # octaves; positive is coarser
  # The last interval of a ray has no end. Without, dark surfaces stay half
  # transparent: a black background shows through.
  sampling.opaque_end = True
  sampling.proposal_bias = 0.0  # octaves by which proposals are coarser

  config.lambda_rgb = 1.0
  config.lambda_distortion = 0.0  # reference: 0.002; it rewards fog here
  config.lambda_regularization = 1e-4  # level consistency (reference: 0.01)
  config.lambda_transparency = 0.0  # reference: 0.001
  config.lambda_depth = 0.01  # rays through sparse points end there
  # Share of it left after half the run: photos rule where points are wrong.
  config.depth_final = 0.01
  config.num_prior_nodes = 4
  config.num_prior_points = 32  # in each node (reference: 2048)

  config.refine_poses = False  # learn a small motion of every photo

  config.optimizer = optimizer = ml_collections.ConfigDict()
  optimizer.lr_initial = 2e-2  # paper: 1e-2
  optimizer.lr_final = 3e-4  # paper: 1e-4
  # Also what shares of the run are of; 0: num_steps.
  optimizer.lr_decay_steps = 0
  optimizer.lr_warmup_steps = 0
  # Each node has MLPs of its own: at the tables' rate many of them die.
  optimizer.lr_mlp_factor = 0.3
  optimizer.lr_appearance_factor = 0.1
  optimizer.adam_b1 = 0.9
  optimizer.adam_b2 = 0.99
  optimizer.adam_eps = 1e-15
  optimizer.max_skipped_in_row = 10  # non-finite steps before the run stops

  config.background = (0.0, 0.0, 0.0)
  # One random colour a batch in training, as in the paper, cost 2 to 4 dB in
  # the first minutes where every ray ends on a surface.
  config.random_background = False
  config.background_ramp = 0.5  # share of num_steps until it has all colours

  config.logging = logging = ml_collections.ConfigDict()
  logging.log_every = 50  # steps
  logging.tensorboard = False
  logging.samples_by_node = False  # since the start, in metrics.jsonl
  logging.wandb_project = ''  # Weights & Biases; '': off
  return config


def parse_arg(arg: str | None, **defaults):
  """Parses `name=value,name=value` behind a config's path.

  Args:
    arg: what stands behind the colon; a bare name sets it to True.
    **defaults: every name that is allowed, with its default; values are
      converted to the default's type.

  Returns:
    ConfigDict of names and values.

  Raises:
    InputError: an unknown name or a value of the wrong type.
  """
  values = dict(defaults)
  for part in filter(None, (arg or '').split(',')):
    name, _, text = part.partition('=')
    if name not in defaults:
      known = ', '.join(sorted(defaults))
      raise errors.InputError(
          f'config argument {name!r}: unknown, expected one of {known}'
      )
    kind = type(defaults[name])
    try:
      if kind is bool:
        values[name] = {
            '': True,
            'true': True,
            '1': True,
            'false': False,
            '0': False,
        }[text.lower()]
      else:
        values[name] = kind(text)
    except (KeyError, ValueError):
      raise errors.InputError(
          f'config argument {name}: got {text!r}, expected {kind.__name__}'
      ) from None
  return ml_collections.ConfigDict(values)
