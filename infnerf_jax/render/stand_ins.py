"""Samples whose own node is not resident: their nearest resident ancestor.

It shows them, and learns nothing from them: what lies there is not its own
content but its descendant's.
"""

import jax
import jax.numpy as jnp

from infnerf_jax.models import scene_model


def whole_tree(tree: scene_model.TreeArrays) -> scene_model.TreeArrays:
  """The tree as if all nodes that take part were resident."""
  return tree._replace(slot_of_node=jnp.where(tree.active, 0, -1))


def is_stand_in(samples):
  """[R, S] bool of Samples whose `own_id` is known."""
  return samples.own_id != samples.node_id


def trained_slot(samples):
  """[R, S] int32 rows that Samples train, -1: none."""
  if samples.own_id is None:
    return samples.slot
  return jnp.where(is_stand_in(samples), -1, samples.slot)


def evaluate(field, samples, probe):
  """Values of samples, with gradients of those that are their nodes' own.

  Args:
    field: ([R, S] slot, position, probe) to ([R, S] density, [R, S, 3] rgb).
    samples: Samples.
    probe: see `render_rays.shade_samples`.

  Returns:
    (density, rgb).
  """
  density, rgb = field(trained_slot(samples), samples.position, probe)
  if samples.own_id is None:
    return density, rgb
  other = is_stand_in(samples)
  slot = jnp.where(other, samples.slot, -1)
  shown = jax.lax.stop_gradient(field(slot, samples.position, None))
  return (
      jnp.where(other, shown[0], density),
      jnp.where(other[..., None], shown[1], rgb),
  )
