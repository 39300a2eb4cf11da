"""Growth of the octree in training: which levels take part, and warm starts.

Capacity is fixed and a node that does not take part yet is one that is not
resident: its nearest ancestor stands in for it. Before a level joins, its
nodes rehearse: they learn from what their ancestors answer at the samples
that will soon be theirs, so that the loss does not jump when they take over.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import render_rays, stand_ins
from infnerf_jax.sharding import exchange
from infnerf_jax.training import optimizer

# Raw densities below this are as empty as can be; above, as solid.
_RAW_RANGE = (-3.0, 12.0)
# Raw densities spread over tens, colours over one.
_RAW_WEIGHT = 0.02
_ALL_LEVELS = 64
# Below the photometric gradients: Adam does not feel a loss's scale, but second
# moments from large gradients would hold the nodes still after they join.
_GRADIENT_SCALE = 1e-5


class RehearsalGradients(NamedTuple):
  """Of the nodes that rehearse.

  Attributes:
    features: FeatureGradient; samples that nobody rehearses have slot -1.
    mlp: gradients of both MLPs.
    loss: mean over the samples that are rehearsed, 0 where there are none;
      of a data shard, its part of the mean over all.
  """

  features: optimizer.FeatureGradient
  mlp: Any
  loss: jax.Array


def steps_of_schedule(schedule, num_steps: int) -> tuple[int, ...]:
  """Steps at which levels join.

  Args:
    schedule: entry i is when level i + 1 joins, the last entry when all deeper
      ones do; entries below 1 are shares of `num_steps`.
    num_steps: of the run.

  Returns:
    Increasing steps.

  Raises:
    InputError: a schedule that does not increase or is negative.
  """
  steps = tuple(
      round(entry * num_steps) if entry < 1 else int(entry)
      for entry in schedule
  )
  if any(entry < 0 for entry in schedule) or any(
      later < earlier for earlier, later in zip(steps, steps[1:], strict=False)
  ):
    raise errors.InputError(
        f'config.octree_growth_schedule: got {tuple(schedule)}, expected steps'
        ' or shares of num_steps that increase'
    )
  return steps


def rehearsal_steps(rehearsal: float, num_steps: int) -> int:
  """Steps for which nodes rehearse; below 1 they are a share of `num_steps`."""
  return round(rehearsal * num_steps) if rehearsal < 1 else int(rehearsal)


def active_level(step, growth_steps: tuple[int, ...]):
  """Deepest level that takes part in a step (an array or a number)."""
  if not growth_steps:
    return _ALL_LEVELS
  num = sum((step >= at) * 1 for at in growth_steps)
  return num + (num == len(growth_steps)) * _ALL_LEVELS


def phase_starts(growth_steps: tuple[int, ...]) -> list[int]:
  """First steps of the phases in which the same levels take part."""
  return sorted({0, *growth_steps})


def active_tree(
    tree: scene_model.TreeArrays, joins, step, growth_steps
) -> scene_model.TreeArrays:
  """The tree whose nodes that join later are not resident yet.

  Args:
    tree: all nodes.
    joins: [N] int32 entry of the schedule at which each joins, from 1; their
      levels, where levels join one after the other.
    step: of the run.
    growth_steps: see `steps_of_schedule`.

  Returns:
    TreeArrays; parts are device arrays where the inputs are.
  """
  if not growth_steps:
    return tree
  xp = np if isinstance(tree.slot_of_node, np.ndarray) else jnp
  limit = active_level(step, growth_steps)
  joined = joins <= limit
  slots = xp.where(joined, tree.slot_of_node, -1)
  active = None if tree.active is None else tree.active & joined
  return tree._replace(slot_of_node=slots, active=active)


def _relocate(key, nodes, tree, spec, rays, t, policy):
  model = scene_model.SceneModel(tree, nodes, None, None)
  return render_rays.locate_samples(key, model, spec, rays, t, policy=policy)


def rehearse(
    key,
    nodes,
    spec: scene_model.ModelSpec,
    now: scene_model.TreeArrays,
    soon: scene_model.TreeArrays,
    rays: cameras_lib.Rays,
    samples: render_rays.Samples,
    appearance,
    policy,
) -> RehearsalGradients:
  """Nodes that join soon learn their ancestors' answers (distillation).

  Args:
    key: of the samples' footprints.
    nodes: stacked parameters.
    spec: static facts.
    now: the tree as it takes part.
    soon: the tree as it will; the same where nothing joins soon.
    rays: [R].
    samples: [R, S] of the last round.
    appearance: [R, A].
    policy: footprint to level.

  Returns:
    RehearsalGradients.
  """
  t = samples.t
  old_id, old_slot, _, old_position = _relocate(
      key, nodes, now, spec, rays, t, policy
  )
  new_id, new_slot, _, position = _relocate(
      key, nodes, soon, spec, rays, t, policy
  )
  takes_over = (new_id != old_id) & (new_slot >= 0) & (samples.slot >= 0)
  if soon.active is not None:
    # What is an absent descendant's is not for its ancestor to learn.
    own = stand_ins.whole_tree(soon)
    own_id = _relocate(key, nodes, own, spec, rays, t, policy)[0]
    takes_over &= own_id == new_id
  slot = jnp.where(takes_over, new_slot, -1).reshape(-1)
  old_slot = jnp.where(takes_over, old_slot, -1).reshape(-1)
  position = position.reshape(-1, 3)
  ray_idx = node_evaluation.ray_of_samples(t)
  inputs = jax.lax.stop_gradient(render_rays.ray_inputs(rays, appearance))
  count = exchange.sum_over_data(now.shard, jnp.sum(takes_over))
  count = jnp.maximum(count, 1)
  raw, rgb = node_evaluation.node_colors(
      nodes,
      now,
      old_position.reshape(-1, 3),
      old_slot,
      ray_idx,
      inputs,
      spec=spec,
  )

  def loss(trainable):
    got_raw, got_rgb = node_evaluation.node_colors(
        {'table': nodes['table'], **trainable['mlp']},
        now,
        position,
        slot,
        ray_idx,
        inputs,
        spec=spec,
        probe=trainable['probe'],
    )
    difference = jnp.clip(got_raw, *_RAW_RANGE) - jnp.clip(raw, *_RAW_RANGE)
    # Beyond the range only the way back counts.
    outside = (got_raw < _RAW_RANGE[0]) | (got_raw > _RAW_RANGE[1])
    difference += jnp.where(
        outside & (jnp.abs(difference) > 0),
        got_raw - jnp.clip(got_raw, *_RAW_RANGE),
        0.0,
    )
    error = _RAW_WEIGHT * difference**2
    error += jnp.sum((got_rgb - rgb) ** 2, axis=-1)
    mean = jnp.sum(jnp.where(slot >= 0, error, 0.0)) / count
    return _GRADIENT_SCALE * mean, mean

  grid = spec.field.grid
  trainable = {
      'mlp': {'density': nodes['density'], 'color': nodes['color']},
      'probe': jnp.zeros((grid.num_grid_scales, t.size, grid.num_features)),
  }
  grads, value = jax.grad(loss, has_aux=True)(trainable)
  features = optimizer.FeatureGradient(position, slot, grads['probe'])
  return RehearsalGradients(features, grads['mlp'], value)


def no_rehearsal(
    nodes, spec: scene_model.ModelSpec, num_samples: int
) -> RehearsalGradients:
  """What `rehearse` gives where nothing joins: zeros that no row follows."""
  grid = spec.field.grid
  features = optimizer.FeatureGradient(
      jnp.zeros((num_samples, 3)),
      jnp.full(num_samples, -1, jnp.int32),
      jnp.zeros((grid.num_grid_scales, num_samples, grid.num_features)),
  )
  mlp = {'density': nodes['density'], 'color': nodes['color']}
  zeros = jax.tree.map(jnp.zeros_like, mlp)
  return RehearsalGradients(features, zeros, jnp.float32(0))
