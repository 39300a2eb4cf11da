"""What the store of a run that pages its nodes says beside their rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors, json_files, provenance
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.storage import node_store, row_store
from infnerf_jax.training import paging, setup
from infnerf_jax.training import workdir as workdir_lib


def views(run, appearance) -> dict[str, np.ndarray]:
  """Arrays of the photos, as rendering from a store wants them.

  Args:
    run: set-up.
    appearance: [P, A] embeddings.
  """
  scene = run.plan.scene
  arrays = {f'camera_{k}': v for k, v in scene.cameras._asdict().items()}
  arrays['names'] = np.array(scene.photos.names, dtype=np.str_)
  arrays['appearance'] = np.array(appearance, np.float32)
  for part, rows in run.split._asdict().items():
    arrays[f'split_{part}'] = np.asarray(rows, np.int64)
  return arrays


def header(config, workdir, run) -> node_store.Header:
  """What the store of a run says of itself.

  Args:
    config: of the run.
    workdir: its folder.
    run: set-up.
  """
  plan, field = run.plan, run.plan.spec.field
  octree = plan.built.octree
  row = jax.eval_shape(
      lambda: paging.initial_row(jax.random.key(0), jnp.int32(0), field)
  )
  try:
    frame = json_files.read_json(
        setup.scene_folder(config, workdir) / 'scene.json'
    )
  except errors.InputError:
    frame = None
  finest = np.flatnonzero(octree.level == octree.level.max())
  centers = tree_lib.node_aabb(octree, finest).mean(axis=-2)
  focus = finest[np.argmin(np.linalg.norm(centers - octree.center, axis=-1))]
  return node_store.Header(
      generation=0,
      views_version=0,
      num_nodes=0,
      nodes_by_level=(),
      center=(0.0, 0.0, 0.0),
      side=0.0,
      grid_size=0,
      sample_aabb=tuple(
          map(tuple, np.asarray(plan.built.sample_aabb).tolist())
      ),
      appearance_dim=plan.spec.appearance_dim,
      field=dataclasses.asdict(field),
      groups=(
          node_store.parameter_group(field, 'float32'),
          row_store.moment_group(row[node_store.MOMENTS]),
      ),
      focus=(int(octree.level[focus]), *map(int, octree.coord[focus])),
      config=workdir_lib.config_to_json(config),
      downscale=float(plan.downscale),
      georeference=frame,
      provenance=provenance.describe(),
  )
