"""A small scene model with structure, for tests of what renders it."""

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_field, node_pool, scene_model
from infnerf_jax.octree import tree

ROOT_MIN = np.array([100.0, -50.0, 3.0])
SIDE = 4.0


def make_octree() -> tree.Octree:
  """A root, its eight children and eight grandchildren in one corner."""
  octants = np.array(list(np.ndindex(2, 2, 2)))
  return tree.from_coords(
      [np.zeros((1, 3), int), octants, octants + 2],
      center=ROOT_MIN + SIDE / 2,
      side=SIDE,
      grid_size=32,
  )


def make_model(*, appearance_dim=4, num_photos=3, implementation=None, seed=0):
  """(SceneModel, ModelSpec, Octree) of 17 nodes with random content."""
  octree = make_octree()
  field = node_field.field_spec(
      num_grid_scales=4,
      table_size=2**9,
      num_features=2,
      base_resolution=4,
      finest_resolution=octree.grid_size,
      hidden_width=16,
      num_geometry=7,
      appearance_dim=appearance_dim,
  )
  spec = scene_model.ModelSpec(
      field=field,
      root_side=octree.side,
      root_gsd=octree.root_gsd,
      max_level=octree.num_levels - 1,
      appearance_dim=appearance_dim,
      implementation=implementation,
  )
  nodes = jax.jit(node_pool.init_pool, static_argnums=(1, 2))(
      jax.random.key(seed), octree.num_nodes, field
  )
  # Initial features are tiny: these give densities and colours contrast.
  nodes['table'] = nodes['table'] * 2e4
  box = np.stack([ROOT_MIN - 0.5, ROOT_MIN + SIDE + 0.5])
  model = scene_model.SceneModel(
      tree=scene_model.tree_arrays(
          octree, node_pool.identity_slots(octree.num_nodes, octree.num_nodes)
      ),
      nodes=nodes,
      appearance=jnp.zeros((num_photos, appearance_dim)),
      sample_aabb=jnp.asarray(
          scene_model.sample_aabb_in_root_units(octree, box)
      ),
  )
  return model, spec, octree


def make_camera(angle=0.3, *, width=48, height=36, focal=40.0, distance=4.0):
  """A camera that looks at the root's centre."""
  center = ROOT_MIN + SIDE / 2
  offset = [np.cos(angle), np.sin(angle), 0.6]
  return cameras_lib.make_camera(
      focal=focal,
      width=width,
      height=height,
      cam_to_world=cameras_lib.look_at(
          center + distance * np.array(offset), center
      ),
  )
