"""What training carries from step to step: one pytree of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.training import optimizer


class TrainState(NamedTuple):
  """All that a checkpoint holds.

  Attributes:
    step: [] int32, steps done (also: the next batch's number).
    params: {'nodes': stacked node fields, 'appearance': [P, A]}, and
      'poses': [P, 6] where poses are refined.
    opt_state: {'nodes': sparse Adam of table and MLPs, 'dense': optax state
      of everything else}.
    skipped: [] int32, steps skipped for being non-finite, in all.
    skipped_in_row: [] int32, likewise since the last good step.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  skipped: jax.Array
  skipped_in_row: jax.Array


def init_state(
    key,
    spec: scene_model.ModelSpec,
    *,
    num_slots: int,
    num_photos: int,
    dense_optimizer: optax.GradientTransformation,
    refine_poses: bool = False,
) -> TrainState:
  """State before the first step.

  Args:
    key: PRNG key.
    spec: model.
    num_slots: rows of the node pool.
    num_photos: rows of the appearance table.
    dense_optimizer: for everything but the node fields.
    refine_poses: whether photos have a learned motion.

  Returns:
    TrainState.
  """
  nodes = jax.jit(node_pool.init_pool, static_argnums=(1, 2))(
      key, num_slots, spec.field
  )
  dense = init_dense(spec, num_photos, refine_poses=refine_poses)
  return TrainState(
      step=jnp.int32(0),
      params={'nodes': nodes, **dense},
      opt_state={
          'nodes': optimizer.init_nodes(nodes),
          'dense': dense_optimizer.init(dense),
      },
      skipped=jnp.int32(0),
      skipped_in_row=jnp.int32(0),
  )


def init_dense(
    spec: scene_model.ModelSpec, num_photos: int, *, refine_poses: bool
) -> dict[str, Any]:
  """Everything but the node fields, before the first step."""
  # Zero: an unseen photo and the mean embedding start out alike.
  dense = {'appearance': jnp.zeros((num_photos, spec.appearance_dim))}
  if refine_poses:
    dense['poses'] = jnp.zeros((num_photos, 6))
  return dense


def dense_params(params) -> dict[str, Any]:
  """Everything but the node fields."""
  return {name: x for name, x in params.items() if name != 'nodes'}
