"""A whole training step on the frame's tree: rays a second, as users have it.

Locating, self-proposals, losses, priors and updates included, unlike
jax_steps.train_step, whose samples are given.
"""

from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.evaluation.bench import (
    batch,
    frame,
    frame_steps,
    jax_steps,
    shapes,
)
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.render import render_rays
from infnerf_jax.training import gradients, priors
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import step_options as options_lib

_PHOTOS = 8
_PIXELS = 1024  # of a photo's side


def _cameras(octree) -> cameras_lib.Cameras:
  """Photos around the camera's foot of the frame, from 2 to 250 metres."""
  made = []
  foot = octree.root_min + octree.side * np.array([0.5, 0.5, frame.PLANE])
  for i, angle in enumerate(np.linspace(0, 2 * np.pi, _PHOTOS, False)):
    away = 2.0**i * np.array([np.cos(angle), np.sin(angle), 1.0])
    made.append(
        cameras_lib.make_camera(
            focal=float(_PIXELS),
            width=_PIXELS,
            height=_PIXELS,
            cam_to_world=cameras_lib.look_at(foot + 2 * away, foot),
        )
    )
  return cameras_lib.stack(made)


def _batch(num_rays: int) -> gradients.RayBatch:
  rng = np.random.default_rng(3)
  return gradients.RayBatch(
      photo_idx=jnp.asarray(rng.integers(_PHOTOS, size=num_rays), jnp.int32),
      pix=jnp.asarray(rng.uniform(0, _PIXELS, (num_rays, 2)), jnp.float32),
      pixel_size=jnp.ones(num_rays),
      rgb=jnp.asarray(rng.uniform(size=(num_rays, 3)), jnp.float32),
      valid=jnp.ones(num_rays, bool),
      distance=jnp.zeros(num_rays),
  )


def train_rate(
    shape, *, max_level: int, implementation: str | None, platform: str
) -> Callable[[], float]:
  """A training step to call again and again.

  Args:
    shape: fields of StepShape; the frame's tree says how many nodes.
    max_level: depth of the tree.
    implementation: of the kernels.
    platform: where JAX must run.

  Returns:
    Function of nothing that does one step and returns the loss.
  """
  frame_steps.require_platform(platform)
  shape = shapes.StepShape(**shape)
  octree = frame.make_tree(max_level)
  slots = node_pool.identity_slots(octree.num_nodes, octree.num_nodes)
  field = jax_steps.field_spec(shape)
  spec = scene_model.ModelSpec(
      field=field,
      root_side=octree.side,
      root_gsd=octree.root_gsd,
      max_level=max_level,
      appearance_dim=shape.appearance_dim,
      implementation=implementation,
  )
  around = gradients.Surroundings(
      tree=scene_model.tree_arrays(octree, slots),
      joins=jnp.asarray(octree.level, jnp.int32),
      cameras=scene_model.device_cameras(_cameras(octree), octree),
      inner=jnp.asarray(priors.inner_nodes(octree)),
      sample_aabb=jnp.asarray([[0.0] * 3, [1.0] * 3]),
  )
  options = options_lib.StepOptions()
  state = state_lib.init_state(
      jax.random.key(0),
      spec,
      num_slots=octree.num_nodes,
      num_photos=_PHOTOS,
      dense_optimizer=step_lib.dense_optimizer(options),
  )
  rounds = render_rays.RenderOptions(
      num_samples=(batch.NUM_PROPOSALS, shape.num_samples)
  )
  step = step_lib.make_train_step(spec, rounds, options)
  rays, key = _batch(shape.num_rays), jax.random.key(7, impl='rbg')

  def run():
    nonlocal state
    state, metrics = step(state, rays, around, key)
    jax.block_until_ready((state, metrics))
    return float(metrics.loss)

  return run


def field_rate(
    shape, *, implementation: str | None, platform: str
) -> Callable[[], float]:
  """The field's part of a step, see jax_steps.train_step."""
  frame_steps.require_platform(platform)
  return jax_steps.train_step(shape, implementation=implementation)
