"""Node fields at samples, on whichever devices the nodes live."""

import jax
import jax.numpy as jnp

from infnerf_jax.models import scene_model
from infnerf_jax.sharding import exchange
from kernels.node_field import api as node_field


def ray_of_samples(t):
  """[R * S] int32 row of each sample's ray, from distances [R, S]."""
  num_rays, num_samples = t.shape
  # Not jnp.repeat, whose prefix sums XLA would fold for seconds.
  row = jax.lax.broadcasted_iota(jnp.int32, (num_rays, num_samples), 0)
  return row.reshape(-1)


def node_density(
    nodes,
    tree: scene_model.TreeArrays,
    position,
    slot,
    turn,
    *,
    spec: scene_model.ModelSpec,
    probe=None,
    on_all_data: bool = False,
):
  """Raw density of each sample, see `kernels.node_field`.

  Args:
    nodes: stacked parameters, of this device's rows.
    tree: whose shard says which they are.
    position: [S, 3].
    slot: [S] int32 of the whole pool.
    turn: [S] int32, spreads samples of replicated nodes over the devices.
    spec: static facts.
    probe: see there.
    on_all_data: see `exchange.own_rows`.

  Returns:
    [S] raw density.
  """
  rows = exchange.own_rows(tree.shard, slot, turn, on_all_data=on_all_data)
  raw = node_field.node_density(
      nodes,
      position,
      rows,
      spec=spec.field,
      probe=probe,
      implementation=spec.implementation,
  )
  return exchange.combine(tree.shard, raw, on_all_data=on_all_data)


def node_colors(
    nodes,
    tree: scene_model.TreeArrays,
    position,
    slot,
    ray_idx,
    inputs,
    *,
    spec: scene_model.ModelSpec,
    probe=None,
):
  """Raw density and colour of each sample, in one exchange.

  Args:
    nodes: stacked parameters, of this device's rows.
    tree: whose shard says which they are.
    position: [S, 3].
    slot: [S] int32 of the whole pool.
    ray_idx: [S] int32; samples of replicated nodes take turns by ray.
    inputs: [R, D] of the colour MLP.
    spec: static facts.
    probe: see `kernels.node_field`.

  Returns:
    ([S] raw density, [S, 3] rgb).
  """
  raw, rgb = node_field.node_field(
      nodes,
      position,
      exchange.own_rows(tree.shard, slot, ray_idx),
      ray_idx,
      inputs,
      spec=spec.field,
      probe=probe,
      implementation=spec.implementation,
  )
  if tree.shard is None:
    return raw, rgb
  both = jnp.concatenate([raw[:, None], rgb], axis=-1)
  both = exchange.combine(tree.shard, both)
  return both[:, 0], both[:, 1:]
