"""Renders rays through an octree of node fields.

Every sample goes to the node that its footprint asks for; densities of
earlier sampling rounds come from the same octree, without gradient
(self-proposals), and place the samples of the next.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import directions as directions_lib
from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.octree import levels as levels_lib
from infnerf_jax.render import (
  blending,
  early_stop,
  render_options,
  sampling,
  stand_ins,
)  # fmt: skip
from infnerf_jax.render import occupancy as occupancy_lib
from infnerf_jax.sharding import exchange
from kernels.composite import api as composite_op
from kernels.locate import api as locate_op

RenderOptions = render_options.RenderOptions


class Samples(NamedTuple):
  """Located samples of one round.

  Attributes:
    tdist: [R, S + 1] metres, interval ends.
    sdist: [R, S + 1] normalised.
    t: [R, S] metres, midpoints.
    position: [R, S, 3] in the node's own box.
    slot: [R, S] int32.
    node_id: [R, S] int32.
    level: [R, S] int32 of the evaluated node.
    coarse: of samples that two levels share, see `blending`; None without.
    own_id: [R, S] int32 the sample's own node, resident or not; None where
      all are.
  """

  tdist: jax.Array
  sdist: jax.Array
  t: jax.Array
  position: jax.Array
  slot: jax.Array
  node_id: jax.Array
  level: jax.Array
  coarse: blending.Coarse | None = None
  own_id: jax.Array | None = None


class RayColors(NamedTuple):
  """What a ray's pixel shows.

  Attributes:
    rgb: [R, 3], without background (add `(1 - opacity) * background`).
    distance: [R, 1] metres along the ray, the weights' mean; far where the
      ray meets nothing.
    opacity: [R, 1].
    weights: [R, S].
    samples: Samples of the last round.
    density: [R, S] per metre.
  """

  rgb: jax.Array
  distance: jax.Array
  opacity: jax.Array
  weights: jax.Array
  samples: Samples
  density: jax.Array


def locate_samples(
    key,
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    rays: cameras_lib.Rays,
    t,
    *,
    policy: levels_lib.LevelPolicy,
    bias: float = 0.0,
    wanted=None,
):
  """Chooses the node of every sample.

  Args:
    key: PRNG key of the radius perturbation (training), or None.
    model: scene.
    spec: static facts.
    rays: [R].
    t: [R, S] metres.
    policy: footprint to level.
    bias: octaves, coarser when positive.
    wanted: [R, S] bool, the others get no slot; None: all are.

  Returns:
    (node_id, slot, level, position) as `kernels.locate` gives them.
  """
  footprint = rays.base_radius + t * rays.cone_slope
  if key is not None:
    # Neighbouring levels agree where they meet if both see either's samples
    # (radius perturbation, InfNeRF section 3.4).
    footprint *= 2.0 ** exchange.uniform(
        model.tree.shard, key, t.shape, minval=-0.5, maxval=0.5
    )
  if bias:
    footprint *= 2.0**bias
  target = policy(footprint, root_gsd=spec.root_gsd, max_level=spec.max_level)
  if wanted is not None:
    target = jnp.where(wanted, target, -1)
  return _locate(model, spec, rays, t, target)


def _locate(model, spec, rays, t, target):
  """Nodes of target levels [R, S]."""
  return locate_op.locate(
      rays.origins,
      rays.origins_lo,
      rays.directions,
      t,
      target,
      model.tree.children,
      model.tree.slot_of_node,
      root_side=spec.root_side,
      max_level=spec.max_level,
      implementation=spec.implementation,
  )


def _coarse_samples(model, spec, rays, t, slot, policy) -> blending.Coarse:
  """The level above of samples within the policy's share of an octave."""
  footprint = rays.base_radius + t * rays.cone_slope
  sizes = dict(root_gsd=spec.root_gsd, max_level=spec.max_level)
  target = policy(footprint, **sizes)
  share = policy.coarse_share(footprint, **sizes)
  above = _locate(model, spec, rays, t, jnp.maximum(target - 1, 0))
  # A missing child's samples are its parent's already.
  shared = (share > 0) & (above.slot != slot) & (slot >= 0)
  share = jnp.where(shared, share, 0.0)
  return blending.Coarse(
      share, jnp.where(shared, above.slot, -1), above.position
  )


def locate_round(
    key, model, spec, rays, sdist, limits, options, bias, *, wanted=None
) -> Samples:
  """Samples of one round.

  Args:
    key: see `locate_samples`.
    model: scene.
    spec: static facts.
    rays: [R].
    sdist: [R, S + 1] normalised interval ends.
    limits: of `ray_limits`.
    options: sampling.
    bias: octaves, coarser when positive.
    wanted: [R, S] bool, the others get no slot; None: all are.

  Returns:
    Samples.
  """
  tdist = sampling.s_to_t(sdist, *limits, spec.half_side)
  t = 0.5 * (tdist[..., 1:] + tdist[..., :-1])
  node_id, slot, level, position = locate_samples(
      key, model, spec, rays, t, policy=options.level_policy, bias=bias,
      wanted=wanted,
  )  # fmt: skip
  # A ray that misses the box has no length; its samples cost nothing.
  empty = limits[1] <= limits[0]
  if model.occupancy is not None:
    skipped = ~occupancy_lib.is_occupied(
        model.occupancy, rays, t, spec.root_side
    )
    if options.opaque_end:  # what is met last shows whatever its density
      skipped &= ~sampling.is_last(tdist)
    empty |= skipped
  slot = jnp.where(empty, -1, slot)
  samples = Samples(tdist, sdist, t, position, slot, node_id, level)
  if model.tree.active is None:
    return samples
  # The key draws the same footprints again.
  own = model._replace(tree=stand_ins.whole_tree(model.tree))
  own_id = locate_samples(
      key, own, spec, rays, t, policy=options.level_policy, bias=bias
  )[0]
  return samples._replace(own_id=own_id)


def with_coarse(samples, model, spec, rays, policy) -> Samples:
  """Samples of the last round with the level above, if the policy blends."""
  if not getattr(policy, 'blend', 0.0):
    return samples
  return samples._replace(
      coarse=_coarse_samples(model, spec, rays, samples.t, samples.slot, policy)
  )


def proposal_weights(model, spec, samples: Samples, *, stop_below=0.0):
  """[R, S] weights of a proposal round, from densities alone."""

  def evaluate(slot, part):
    position = samples.position[:, part]
    raw = node_evaluation.node_density(
        model.nodes,
        model.tree,
        position.reshape(-1, 3),
        slot.reshape(-1),
        node_evaluation.ray_of_samples(samples.t[:, part]),
        spec=spec,
    ).reshape(slot.shape)
    return (jnp.where(slot < 0, 0.0, scene_model.density(raw, spec)),)

  delta = samples.tdist[..., 1:] - samples.tdist[..., :-1]
  (density,) = early_stop.densities(
      evaluate, samples.slot, delta, stop_below=stop_below
  )
  no_color = jnp.zeros(density.shape + (3,))
  return composite_op.composite(density, delta, no_color, samples.t).weights


def ray_limits(model, spec, rays, options):
  """([R, 1] near, [R, 1] far) metres."""
  return sampling.ray_limits(
      rays,
      model.sample_aabb,
      near=options.near * spec.half_side,
      far=options.far * spec.half_side,
      root_side=spec.root_side,
      clip_to_box=options.clip_to_box,
  )


def sampling_rounds(
    key,
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    rays: cameras_lib.Rays,
    options: RenderOptions,
    *,
    weight_power=None,
) -> tuple[Samples, ...]:
  """All sampling rounds but the last one's colours; no gradient flows.

  Args:
    key: PRNG key in training, None for deterministic samples.
    model: scene.
    spec: static facts.
    rays: [R].
    options: sampling.
    weight_power: overrides the options' power (annealing); scalar.

  Returns:
    Samples of every round; the last are to be composited.
  """
  model = jax.lax.stop_gradient(model)
  limits = ray_limits(model, spec, rays, options)
  power = options.weight_power if weight_power is None else weight_power
  rounds = len(options.num_samples)
  keys = (
      [None] * (2 * rounds)
      if key is None
      else jax.random.split(key, 2 * rounds)
  )
  shape = rays.cone_slope.shape[:-1]
  draw = functools.partial(exchange.uniform, model.tree.shard)
  sdist = sampling.stratified(keys[0], shape, options.num_samples[0], draw=draw)
  placed = []
  for i in range(rounds):
    last = i == rounds - 1
    bias = 0.0 if last else options.proposal_bias
    samples = locate_round(
        keys[2 * i + 1], model, spec, rays, sdist, limits, options, bias
    )
    if last:
      samples = with_coarse(samples, model, spec, rays, options.level_policy)
    placed.append(samples)
    if not last:
      weights = proposal_weights(
          model, spec, samples, stop_below=options.stop_below
      )
      sdist = sampling.resample(
          keys[2 * i + 2],
          sdist,
          weights,
          options.num_samples[i + 1],
          anneal=power,
          padding=options.padding,
          draw=draw,
      )
  return jax.lax.stop_gradient(tuple(placed))


def place_samples(
    key,
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    rays: cameras_lib.Rays,
    options: RenderOptions,
    *,
    weight_power=None,
) -> Samples:
  """Samples of the last round; arguments as `sampling_rounds` takes them."""
  return sampling_rounds(
      key, model, spec, rays, options, weight_power=weight_power
  )[-1]


def ray_inputs(rays: cameras_lib.Rays, appearance):
  """[R, D] inputs of the colour MLP that a ray's samples share.

  Args:
    rays: [R].
    appearance: [R, A] embedding, A may be 0.
  """
  harmonics = directions_lib.spherical_harmonics(rays.directions)
  return jnp.concatenate([harmonics, appearance], axis=-1)


def shade_samples(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    samples: Samples,
    inputs,
    *,
    probe=None,
    opaque_end: bool = False,
) -> RayColors:
  """Evaluates and composites the samples of the last round (differentiable).

  Args:
    model: scene.
    spec: static facts.
    samples: [R, S].
    inputs: [R, D], see `ray_inputs`.
    probe: [L, R * S, F] zeros whose cotangent is the gradient of the encoded
      features, or None.
    opaque_end: see `RenderOptions`.

  Returns:
    RayColors.
  """
  num_rays, num_samples = samples.t.shape
  ray_idx = node_evaluation.ray_of_samples(samples.t)

  def evaluate(slot, position, probe):
    raw, rgb = node_evaluation.node_colors(
        model.nodes,
        model.tree,
        position.reshape(-1, 3),
        slot.reshape(-1),
        ray_idx,
        inputs,
        spec=spec,
        probe=probe,
    )
    density = scene_model.density(raw.reshape(num_rays, num_samples), spec)
    density = jnp.where(slot < 0, 0.0, density)
    return density, rgb.reshape(num_rays, num_samples, 3)

  density, rgb = stand_ins.evaluate(evaluate, samples, probe)
  if samples.coarse is not None:
    coarse = samples.coarse
    density, rgb = blending.blend(
        (density, rgb), evaluate(coarse.slot, coarse.position, None),
        coarse.share,
    )  # fmt: skip
  delta = samples.tdist[..., 1:] - samples.tdist[..., :-1]
  if opaque_end:
    # A ray that misses the box has no length and stays clear.
    last = jnp.where(delta[:, -1] > 0, 1e6 * spec.root_side, 0.0)
    delta = delta.at[:, -1].set(last)
  pixel = composite_op.composite(density, delta, rgb, samples.t)
  opacity, distance = pixel.opacity[:, None], pixel.distance[:, None]
  distance += (1 - opacity) * samples.tdist[..., -1:]
  return RayColors(
      pixel.rgb, distance, opacity, pixel.weights, samples, density
  )


def render_rays(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    rays: cameras_lib.Rays,
    appearance,
    options: RenderOptions = RenderOptions(),
    *,
    key=None,
) -> RayColors:
  """Renders rays; deterministic unless a key is given.

  Args:
    model: scene.
    spec: static facts.
    rays: [R].
    appearance: [R, A] embedding of every ray.
    options: sampling.
    key: PRNG key for jittered samples and footprints (training only).

  Returns:
    RayColors.
  """
  samples = place_samples(key, model, spec, rays, options)
  return shade_samples(
      model,
      spec,
      samples,
      ray_inputs(rays, appearance),
      opaque_end=options.opaque_end,
  )
