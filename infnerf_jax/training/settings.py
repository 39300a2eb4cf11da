"""From a ConfigDict to the frozen options of the functions below.

The ConfigDict ends here; values that cannot work are refused by name.
"""

import numpy as np

from infnerf_jax import errors
from infnerf_jax.models import node_field, scene_model
from infnerf_jax.octree import build, levels
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.training import growth
from infnerf_jax.training import step_options as options_lib

_POSITIVE = (
    'num_steps',
    'batch_size',
    'checkpoint_every',
    'checkpoints_kept',
    'num_pyramid_levels',
    'data.detail_candidates',
    'data.photo_groups',
    'data.extra_ray_share',
    'field.num_grid_scales',
    'field.log2_table_size',
    'field.num_features',
    'field.base_resolution',
    'field.hidden_width',
    'optimizer.lr_initial',
    'optimizer.lr_final',
    'logging.log_every',
)
_ZERO_OR_MORE = (
    'ray_microbatch',
    'eval_every',
    'preview_every',
    'max_memory_gb',
    'max_depth',
    'grid_size',
    'target_depth',
    'max_gsd',
    'min_gsd',
    'scene_bound',
    'root_octaves',
    'prune_share',
    'num_slots',
    'data.downscale',
    'data.cache_gb',
    'data.test_every',
    'data.validation_every',
    'lambda_rgb',
    'lambda_distortion',
    'lambda_regularization',
    'lambda_transparency',
    'lambda_depth',
    'depth_final',
    'data.point_ray_share',
    'field.appearance_dim',
    'devices.data',
    'devices.node',
)


def check_config(config) -> None:
  """Refuses values that no run can have.

  Raises:
    InputError: names the field, what it got and what is expected.
  """
  for name in _POSITIVE:
    value = _get(config, name)
    if not value > 0:
      raise errors.InputError(f'config.{name}: got {value}, expected above 0')
  for name in _ZERO_OR_MORE:
    value = _get(config, name)
    if not value >= 0:
      raise errors.InputError(f'config.{name}: got {value}, expected >= 0')
  if config.data.extra_ray_share > 1:
    raise errors.InputError(
        f'config.data.extra_ray_share: got {config.data.extra_ray_share},'
        ' expected above 0 and at most 1'
    )
  size = config.ray_microbatch
  if size and config.batch_size % size:
    raise errors.InputError(
        f'config.ray_microbatch: got {size}, expected a divisor of'
        f' batch_size = {config.batch_size}'
    )
  groups = config.data.photo_groups
  if config.batch_size % groups:
    raise errors.InputError(
        f'config.data.photo_groups: got {groups}, expected a divisor of'
        f' batch_size = {config.batch_size}'
    )
  if (
      len(config.data.pyramid_ray_share) < 1
      or not np.all(np.asarray(config.data.pyramid_ray_share) >= 0)
      or not np.sum(config.data.pyramid_ray_share) > 0
  ):
    raise errors.InputError(
        'config.data.pyramid_ray_share: got'
        f' {tuple(config.data.pyramid_ray_share)}, expected shares >= 0 with'
        ' a positive sum'
    )


def _get(config, name):
  for part in name.split('.'):
    config = config[part]
  return config


def training_downscale(config, cameras) -> float:
  """Full-size pixels per training pixel, from the config or the photos."""
  if config.data.downscale:
    return float(config.data.downscale)
  widest = int(np.max(cameras.width))
  return float(max(1, round(widest / config.data.max_width)))


def build_options(config) -> build.BuildOptions:
  """Options of the octree."""
  return build.BuildOptions(
      max_depth=config.max_depth,
      grid_size=config.grid_size,
      target_depth=config.target_depth,
      max_gsd=config.max_gsd,
      min_gsd=config.min_gsd,
      scene_bound=config.scene_bound,
      root_octaves=config.root_octaves,
      use_pruning=config.use_pruning,
      min_points=config.min_points,
      min_cameras=config.min_cameras,
      max_nodes=config.max_nodes,
      box_margin=config.sampling.box_margin,
  )


def model_spec(config, octree: tree_lib.Octree) -> scene_model.ModelSpec:
  """Static facts of the model of a tree."""
  field = config.field
  return scene_model.ModelSpec(
      field=node_field.field_spec(
          num_grid_scales=field.num_grid_scales,
          table_size=2**field.log2_table_size,
          num_features=field.num_features,
          base_resolution=field.base_resolution,
          finest_resolution=octree.grid_size,
          hidden_width=field.hidden_width,
          num_geometry=field.num_geometry,
          appearance_dim=field.appearance_dim,
      ),
      root_side=octree.side,
      root_gsd=octree.root_gsd,
      max_level=octree.num_levels - 1,
      appearance_dim=field.appearance_dim,
      implementation=config.implementation or None,
  )


def render_options(config) -> render_rays.RenderOptions:
  """Options of sampling."""
  sampling = config.sampling
  policy = levels.determine_lod_level
  if sampling.level_bias:
    policy = levels.BiasedPolicy(sampling.level_bias)
  return render_rays.RenderOptions(
      num_samples=tuple(sampling.num_samples),
      near=sampling.near,
      far=sampling.far,
      clip_to_box=sampling.clip_to_box,
      weight_power=sampling.weight_power,
      padding=sampling.padding,
      level_policy=policy,
      proposal_bias=sampling.proposal_bias,
      opaque_end=sampling.opaque_end,
  )


def step_options(config) -> options_lib.StepOptions:
  """Options of a training step."""
  optimizer = config.optimizer
  # Shares of the run are of its schedules' length, so that a run that ends
  # earlier is the beginning of the longer one.
  length = optimizer.lr_decay_steps or config.num_steps
  return options_lib.StepOptions(
      lambda_rgb=config.lambda_rgb,
      lambda_distortion=config.lambda_distortion,
      lambda_regularization=config.lambda_regularization,
      lambda_transparency=config.lambda_transparency,
      num_prior_nodes=config.num_prior_nodes,
      num_prior_points=config.num_prior_points,
      random_background=config.random_background,
      lambda_depth=config.lambda_depth,
      depth_final=config.depth_final,
      depth_width_steps=length // 2,
      background_ramp_steps=round(config.background_ramp * length),
      opaque_end=config.sampling.opaque_end,
      background=tuple(config.background),
      ray_microbatch=config.ray_microbatch,
      lr_initial=optimizer.lr_initial,
      lr_final=optimizer.lr_final,
      lr_decay_steps=length,
      lr_warmup_steps=optimizer.lr_warmup_steps,
      lr_mlp_factor=optimizer.lr_mlp_factor,
      lr_appearance_factor=optimizer.lr_appearance_factor,
      adam_eps=optimizer.adam_eps,
      adam_b1=optimizer.adam_b1,
      adam_b2=optimizer.adam_b2,
      anneal_steps=config.sampling.anneal_steps,
      growth_steps=growth.steps_of_schedule(
          config.octree_growth_schedule, length
      ),
      growth_rehearsal=growth.rehearsal_steps(
          config.growth_rehearsal, length
      ),
      refine_poses=config.refine_poses,
      count_by_node=config.logging.samples_by_node,
  )
