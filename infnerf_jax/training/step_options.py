"""What a training step does."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """What a step does (static).

  Attributes:
    lambda_rgb: weight of the photometric loss.
    lambda_distortion: of the distortion loss.
    lambda_regularization: of level consistency.
    lambda_transparency: of the prior towards empty space.
    lambda_depth: of the distances of rays through sparse points, at the start.
    depth_final: share of it that is left when its bell is narrowest.
    depth_width_initial: width of the bell around such a point at the start,
      as a share of its distance.
    depth_width_final: at the end, in footprints there.
    depth_width_steps: steps between them.
    first_step: from which on they count; photos were added there.
    num_prior_nodes: nodes that each prior draws a step.
    num_prior_points: points in each of them.
    random_background: the expected loss over backgrounds of all colours, so
      that no colour can pass for transparency; else `background`.
    background_ramp_steps: steps over which these backgrounds grow from black
      to all colours: opacity asked for before there is geometry makes fog.
    opaque_end: as in rendering.
    background: rgb behind everything.
    ray_microbatch: rays whose gradients are taken at once, 0 is all.
    lr_initial: learning rate at the start.
    lr_final: at the end of the decay.
    lr_decay_steps: steps of the decay.
    lr_warmup_steps: steps of linear warm-up.
    lr_mlp_factor: rate of the MLPs relative to the tables'.
    lr_appearance_factor: rate of the appearance relative to the tables'.
    adam_eps: Adam's epsilon.
    adam_b1: Adam's first decay.
    adam_b2: Adam's second decay.
    anneal_steps: steps over which proposal weights reach their power.
    growth_steps: steps at which levels of the octree join.
    growth_rehearsal: steps for which nodes rehearse before they join.
    refine_poses: whether the photos' poses are learned too.
    count_by_node: whether samples are counted by node where all are resident.
  """

  lambda_rgb: float = 1.0
  lambda_distortion: float = 0.002
  lambda_regularization: float = 0.0001
  lambda_transparency: float = 0.001
  lambda_depth: float = 0.0
  depth_final: float = 1.0
  depth_width_initial: float = 0.05
  depth_width_final: float = 4.0
  depth_width_steps: int = 0
  first_step: int = 0
  num_prior_nodes: int = 4
  num_prior_points: int = 64
  random_background: bool = True
  background_ramp_steps: int = 0
  opaque_end: bool = False
  background: tuple[float, float, float] = (0.0, 0.0, 0.0)
  ray_microbatch: int = 0
  lr_initial: float = 1e-2
  lr_final: float = 1e-4
  lr_decay_steps: int = 1000
  lr_warmup_steps: int = 0
  lr_mlp_factor: float = 0.1
  lr_appearance_factor: float = 0.1
  adam_eps: float = 1e-15
  adam_b1: float = 0.9
  adam_b2: float = 0.99
  anneal_steps: int = 0
  growth_steps: tuple[int, ...] = ()
  growth_rehearsal: int = 0
  refine_poses: bool = False
  count_by_node: bool = False
