"""A tiny model, octree and ray batch that training tests share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_field, node_pool, scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.training import gradients, priors
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import step_options as options_lib

NUM_PHOTOS = 4
RENDER = render_rays.RenderOptions(num_samples=(12, 8))
STEP = options_lib.StepOptions(
    num_prior_points=4, lr_decay_steps=100, background=(0.2, 0.2, 0.2)
)


def octree() -> tree_lib.Octree:
  """Three levels, nine nodes."""
  cells = [
      np.zeros((1, 3), int),
      np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0]]),
      np.array([[0, 0, 0], [1, 1, 1], [2, 0, 1], [3, 3, 0]]),
  ]
  return tree_lib.from_coords(
      cells, center=np.array([3.0, -2, 1]), side=4.0, grid_size=16
  )


def spec(implementation=None, appearance_dim=3) -> scene_model.ModelSpec:
  """Static facts of the tiny model."""
  tree = octree()
  return scene_model.ModelSpec(
      field=node_field.field_spec(
          num_grid_scales=3,
          table_size=256,
          num_features=2,
          base_resolution=4,
          finest_resolution=tree.grid_size,
          hidden_width=16,
          num_geometry=15,
          appearance_dim=appearance_dim,
      ),
      root_side=tree.side,
      root_gsd=tree.root_gsd,
      max_level=tree.num_levels - 1,
      appearance_dim=appearance_dim,
      implementation=implementation,
  )


def cameras() -> cameras_lib.Cameras:
  """Four cameras around the root."""
  center = octree().center
  offsets = np.array([[4, 0, 3], [0, 4, 3], [-4, 0, 3], [0, -0.5, 4.0]])
  return cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=30.0,
              width=40,
              height=30,
              cam_to_world=cameras_lib.look_at(center + o, center),
          )
          for o in offsets
      ]
  )


def surroundings(num_slots=None) -> gradients.Surroundings:
  """Device arrays of the tiny scene."""
  tree = octree()
  slots = node_pool.identity_slots(tree.num_nodes, num_slots or tree.num_nodes)
  return gradients.Surroundings(
      tree=scene_model.tree_arrays(tree, slots),
      joins=jnp.asarray(tree.level, jnp.int32),
      cameras=scene_model.device_cameras(cameras(), tree),
      inner=jnp.asarray(priors.inner_nodes(tree)),
      sample_aabb=jnp.asarray([[0.0, 0, 0], [1, 1, 1]]),
  )


def state(options=STEP, num_slots=None, model=None, seed=0):
  """A state whose tables are large enough to have real gradients."""
  model = model or spec()
  made = state_lib.init_state(
      jax.random.key(seed),
      model,
      num_slots=num_slots or octree().num_nodes,
      num_photos=NUM_PHOTOS,
      dense_optimizer=step_lib.dense_optimizer(options),
      refine_poses=options.refine_poses,
  )
  nodes = dict(made.params['nodes'])
  nodes['table'] = nodes['table'] * 1e4
  return made._replace(params={**made.params, 'nodes': nodes})


def batch(num_rays=32, seed=0) -> gradients.RayBatch:
  """Random pixels with random colours, one of them masked."""
  rng = np.random.default_rng(seed)
  return gradients.RayBatch(
      photo_idx=jnp.asarray(rng.integers(NUM_PHOTOS, size=num_rays), jnp.int32),
      pix=jnp.asarray(
          rng.uniform([0, 0], [40, 30], (num_rays, 2)), jnp.float32
      ),
      pixel_size=jnp.asarray(2.0 ** rng.integers(0, 3, num_rays), jnp.float32),
      rgb=jnp.asarray(rng.uniform(size=(num_rays, 3)), jnp.float32),
      valid=jnp.arange(num_rays) != 3,
      distance=jnp.asarray(
          rng.uniform(2.0, 6.0, num_rays) * (np.arange(num_rays) % 4 == 0),
          jnp.float32,
      ),
  )


@functools.lru_cache
def train_step(model=None, options=STEP):
  """A jitted step; tests share what is compiled already."""
  return step_lib.make_train_step(model or spec(), RENDER, options)


def run_steps(state, num_steps, *, options=STEP, model=None, first=0, size=32):
  """Runs steps; returns (state, metrics of the last)."""
  step = train_step(model, options)
  around = surroundings(state.params['nodes']['table'].shape[0])
  metrics = None
  for k in range(first, first + num_steps):
    key = jax.random.key(7, impl='rbg')
    state, metrics = step(state, batch(size, k), around, key)
  return state, metrics


replace = dataclasses.replace
