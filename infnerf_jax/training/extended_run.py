"""Tree, photos, options and state of a run that photos were added to."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.models import node_pool
from infnerf_jax.octree import build, extend
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import joining
from infnerf_jax.scene import split as split_lib
from infnerf_jax.storage import leaves
from infnerf_jax.training import (
    coverage,
    growth,
    optimizer,
    retraining,
    run_files,
    settings,
)
from infnerf_jax.training import extension as extension_lib
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step_options as options_lib

# Of the root's side: poses that differ by more are others.
_POSE_TOLERANCE = 1e-6


def extend_tree(
    config,
    extension: extension_lib.Extension,
    base: run_files.RunFiles,
    joined: joining.Joined,
) -> build.BuiltOctree:
  """The run's tree with the nodes that the added scenes justify.

  Args:
    config: of the run.
    extension: of the run.
    base: the run as it was.
    joined: all scenes.

  Returns:
    BuiltOctree.

  Raises:
    InputError: a scene that cannot be added.
  """
  octree, aabb = base.octree, base.sample_aabb
  num_known = len(extension.base_paths)
  for path, part in zip(
      extension.paths[num_known:], joined.parts[1 + num_known :], strict=True
  ):
    octree, aabb = extend.extend_octree(
        octree,
        aabb,
        part,
        settings.build_options(config),
        pixel_size=extension.downscale,
        name=f'config.data.extra_paths: {path}',
    )
  report = {
      'points': len(joined.scene.points.positions),
      'nodes_by_level': np.bincount(octree.level).tolist(),
      'extension': {'nodes_new': int(is_new(octree, base.octree).sum())},
      'grid_size': octree.grid_size,
      'root_side': octree.side,
      'root_gsd': octree.root_gsd,
  }
  return build.BuiltOctree(octree, aabb, report)


def is_new(octree: tree_lib.Octree, base: tree_lib.Octree) -> np.ndarray:
  """[N] bool nodes that the tree as it was lacks."""
  keys = tree_lib.node_key(octree.level, octree.coord)
  return extend.rows_of_keys(base, keys) < 0


def check_photos(base: run_files.RunFiles, scene, path) -> None:
  """Refuses photos that are no longer those of the run.

  Args:
    base: the run as it was.
    scene: of all usable photos.
    path: of the run's scene, for messages.

  Raises:
    InputError: names or poses differ.
  """
  count = len(base.photo_names)
  names = scene.photos.names[:count]
  if names != base.photo_names:
    odd = sorted(set(base.photo_names) - set(scene.photos.names))
    odd = odd or sorted(set(names) - set(base.photo_names))
    raise errors.InputError(
        f'{path}: photos: got {odd[0]} present in one only, expected the'
        f' {count} usable photos that the run was trained with'
    )
  pose = np.asarray(scene.cameras.cam_to_world)[:count]
  moved = np.abs(pose - base.cameras.cam_to_world).max(axis=(1, 2))
  if moved.max() > _POSE_TOLERANCE * max(base.octree.side, 1.0):
    raise errors.InputError(
        f'{path}: photo {names[int(moved.argmax())]}: pose: got one that'
        f' differs by {moved.max():.3g}, expected the poses that the run was'
        ' trained with'
    )


def split_photos(config, base: run_files.RunFiles, names) -> split_lib.Split:
  """The run's own split, with one of the added photos of their own.

  Args:
    config: of the run.
    base: the run as it was.
    names: of all photos.

  Returns:
    Split.
  """
  count, data = len(base.photo_names), config.data
  added = tuple(names[count:])

  def listed(path):
    wanted = set(split_lib.read_list(path)) if path else set()
    return tuple(name for name in added if name in wanted) or None

  found = split_lib.split_photos(
      added,
      # A list that names none of them leaves them all to training.
      test_every=0 if data.test_list else data.test_every,
      train_list=listed(data.train_list),
      test_list=listed(data.test_list),
      validation_every=data.validation_every,
  )
  return split_lib.Split(
      *(
          np.concatenate([base.split[part], rows + count]).astype(np.int64)
          for part, rows in found._asdict().items()
      )
  )


def find_retraining(config, run) -> retraining.Retraining:
  """What learns, and from which photos.

  Args:
    config: of the run.
    run: setup.Run, without it.
  """
  plan, octree = run.plan, run.plan.built.octree
  count, total = len(plan.base.photo_names), len(plan.scene.photos.names)
  num_levels = run.pyramid.sizes.shape[1]
  shown = coverage.Photographed(
      run.observations,
      plan.scene.cameras,
      run.surroundings,
      plan.spec,
      run.render_options.level_policy,
      [plan.downscale * 2.0**level for level in range(num_levels)],
  )
  touched = retraining.touched_nodes(shown, np.arange(count, total))
  touched |= is_new(octree, plan.base.octree)
  maps = coverage.node_maps(shown)
  train = run.split.train
  return retraining.Retraining(
      learns=retraining.with_ancestors(octree, touched),
      new_photos=np.arange(total) >= count,
      new_rows=train[train >= count],
      old_rows=train[train < count],
      maps=maps,
  )


def step_options(
    options: options_lib.StepOptions,
    extension: extension_lib.Extension,
    config,
) -> options_lib.StepOptions:
  """Options of the steps since photos were added: schedules begin anew.

  Args:
    options: as the config says.
    extension: of the run.
    config: of the run.
  """
  first = extension.first_step
  length = config.num_steps - first
  rehearsal = growth.rehearsal_steps(config.growth_rehearsal, length)
  return dataclasses.replace(
      options,
      first_step=first,
      lr_decay_steps=config.num_steps,
      depth_width_steps=length // 2,
      growth_steps=(first + rehearsal,),
      growth_rehearsal=rehearsal,
  )


def growth_of_stage(config, stage: extension_lib.Stage):
  """When the nodes of a checkpoint join.

  Args:
    config: of the run.
    stage: what the checkpoint belongs to.

  Returns:
    ([N] entry of the schedule at which each joins, steps of the schedule).
  """
  octree = stage.files.octree
  if not stage.is_last:
    # Photos are added to finished runs.
    return np.zeros(octree.num_nodes, np.int32), ()
  options = settings.step_options(config)
  if stage.extension is None:
    return octree.level, options.growth_steps
  base = run_files.read(stage.extension.folder).octree
  options = step_options(options, stage.extension, config)
  return is_new(octree, base), options.growth_steps


def carry_state(
    stored: dict[str, Any],
    template: state_lib.TrainState,
    octree: tree_lib.Octree,
    base: run_files.RunFiles,
    key,
    spec,
) -> state_lib.TrainState:
  """The state of the run as it was, in the rows of the extended tree.

  Args:
    stored: nested arrays of the checkpoint; a row a node of the tree as it was.
    template: shapes of the extended run's state.
    octree: extended.
    base: the run as it was.
    key: PRNG key of initial parameters.
    spec: FieldSpec.

  Returns:
    TrainState of NumPy arrays; new nodes as they are initialised.
  """
  keys = tree_lib.node_key(base.octree.level, base.octree.coord)
  rows = extend.rows_of_keys(octree, keys)
  new = np.flatnonzero(is_new(octree, base.octree))
  fresh = node_pool.init_rows(key, jnp.asarray(new, jnp.int32), spec)
  fresh = leaves.named_leaves(
      {
          'params': {'nodes': fresh},
          'opt_state': {'nodes': optimizer.init_nodes(fresh)},
      }
  )
  num_photos, train = len(base.photo_names), base.split['train']
  stored = leaves.named_leaves(stored)
  carried = {}
  for name, want in leaves.named_leaves(template).items():
    old, value = stored[name], np.zeros(want.shape, want.dtype)
    if name in fresh:
      value[rows] = old[: len(rows)]
      value[new] = np.asarray(fresh[name])
    elif want.shape:
      value[:num_photos] = old
      if name == 'params/appearance' and len(train):
        # What photos that nobody has seen are rendered with.
        value[num_photos:] = old[train].mean(axis=0)
    else:
      value = old
    carried[name] = value
  return leaves.into_template(carried, template)
