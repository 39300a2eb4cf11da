"""A scene of many small nodes for the sharded step, seen by tiny's cameras."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.octree import levels
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.sharding import partition as partition_lib
from infnerf_jax.training import gradients, priors
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from tests.training import tiny

# Two octaves finer than equation 5: rays of these cameras reach all levels.
RENDER = dataclasses.replace(
    tiny.RENDER, level_policy=levels.BiasedPolicy(-2.0)
)
STEP = dataclasses.replace(tiny.STEP, lambda_depth=0.1, refine_poses=True)


def octree(missing=(), num_levels=4) -> tree_lib.Octree:
  """A layer of ground, four children a node: 85 nodes on four levels.

  Args:
    missing: (x, y) cells of level 2 that do not exist, nor their children.
    num_levels: the root's included.
  """
  cells = [np.zeros((1, 3), int)]
  for level in range(1, num_levels):
    side = range(2**level)
    exists = lambda x, y, level=level: (
        level < 2 or (x >> level - 2, y >> level - 2) not in missing
    )
    # The layer lies just under the root's centre.
    z = 2 ** (level - 1) - 1
    ground = [
        (x, y, z) for x, y in itertools.product(side, side) if exists(x, y)
    ]
    cells.append(np.array(ground))
  like = tiny.octree()
  return tree_lib.from_coords(
      cells, center=like.center, side=like.side, grid_size=like.grid_size
  )


def uneven_octree() -> tree_lib.Octree:
  """75 nodes: subtrees of level 1 have 21, 11, 21 and 21."""
  return octree(missing=((0, 2), (0, 3)))


def spec(implementation=None) -> scene_model.ModelSpec:
  """Static facts of the model."""
  return dataclasses.replace(tiny.spec(implementation), max_level=3)


def surroundings(tree: tree_lib.Octree) -> gradients.Surroundings:
  """Device arrays of a single device."""
  slots = node_pool.identity_slots(tree.num_nodes, tree.num_nodes)
  return gradients.Surroundings(
      tree=scene_model.tree_arrays(tree, slots),
      joins=jnp.asarray(tree.level, jnp.int32),
      cameras=scene_model.device_cameras(tiny.cameras(), tree),
      inner=jnp.asarray(priors.inner_nodes(tree)),
      sample_aabb=jnp.asarray([[0.0, 0, 0], [1, 1, 1]]),
  )


def state(tree: tree_lib.Octree, options=STEP, step=0) -> state_lib.TrainState:
  """A state with real gradients, on the host."""
  shapes = jax.eval_shape(
      lambda: state_lib.init_state(
          jax.random.key(0),
          spec(),
          num_slots=tree.num_nodes,
          num_photos=tiny.NUM_PHOTOS,
          dense_optimizer=step_lib.dense_optimizer(options),
          refine_poses=options.refine_poses,
      )
  )
  made = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  rng = np.random.default_rng(0)

  def draw(x):
    # Of He's size in the MLPs, and of order one in the tables.
    scale = 1.0 if x.shape[-1] == 2 else (2 / x.shape[1]) ** 0.5
    return (scale * rng.normal(size=x.shape)).astype(x.dtype)

  nodes = jax.tree.map(draw, made.params['nodes'])
  return made._replace(
      step=np.int32(step), params={**made.params, 'nodes': nodes}
  )


def partition(
    tree: tree_lib.Octree, num_shards: int, *, split_level=None, seed=0
) -> partition_lib.Partition:
  """A partition by made-up sample counts, for all seeds another."""
  samples = np.random.default_rng(seed).exponential(size=tree.num_nodes)
  return partition_lib.make_partition(
      tree.level, tree.parent, samples, num_shards, split_level=split_level
  )
