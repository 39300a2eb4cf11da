"""Losses of a step with their gradients, of rays and of priors.

Gradients come in three parts: of the MLPs, of what is dense (appearance and
poses), and, in place of the hash tables', of the features that each sample
read there: no table-sized gradient is ever formed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import render_rays
from infnerf_jax.sharding import exchange
from infnerf_jax.training import losses, optimizer, priors
from infnerf_jax.training import poses as poses_lib
from infnerf_jax.training import step_options as options_lib


class Learners(NamedTuple):
  """What learns in a run that photos were added to; all else stays as it is.

  Attributes:
    nodes: [N] bool.
    photos: [P] bool, whose appearance and poses do.
  """

  nodes: jax.Array
  photos: jax.Array


class Surroundings(NamedTuple):
  """Device arrays that steps read and never change.

  Attributes:
    tree: node arrays.
    joins: [N] int32 entry of the growth schedule at which a node joins, counted
      from 1; 0: it takes part from the start.
    cameras: camera table of all photos.
    inner: [M] int32 nodes with children.
    sample_aabb: [2, 3] root units.
    prior_nodes: [K] int32 nodes that the prior of each node draws from, None:
      all.
    learners: None: everything learns.
  """

  tree: scene_model.TreeArrays
  joins: jax.Array
  cameras: cameras_lib.DeviceCameras
  inner: jax.Array
  sample_aabb: jax.Array
  prior_nodes: jax.Array | None = None
  learners: Learners | None = None


class RayBatch(NamedTuple):
  """Rays of a step with the colours that photos show there.

  Attributes:
    photo_idx: [R] int32, rows of the camera and appearance tables.
    pix: [R, 2] float32, centres in full-size pixels.
    pixel_size: [R] float32, full-size pixels.
    rgb: [R, 3] float32.
    valid: [R] bool.
    distance: [R] float32, metres to the sparse point that the ray goes
      through, 0: through none.
    weight: [R] float32 on the ray's losses, None: all 1.
    ends_in: [R] int32 node in which the ray was planned to end; None: there
      is no plan.
  """

  photo_idx: jax.Array
  pix: jax.Array
  pixel_size: jax.Array
  rgb: jax.Array
  valid: jax.Array
  distance: jax.Array
  weight: jax.Array | None = None
  ends_in: jax.Array | None = None


class Schedule(NamedTuple):
  """What changes in the course of a run; scalars of one step.

  Attributes:
    background: [3] mean of the colours behind everything.
    depth_width: share of a sparse point's distance, the bell around it.
    lambda_depth: weight of that loss.
  """

  background: jax.Array
  depth_width: jax.Array
  lambda_depth: jax.Array


class RayLosses(NamedTuple):
  """Unweighted losses of rays; of a data shard, its part of the means.

  Attributes:
    mse: photometric, over valid rays.
    distortion: over all rays.
    depth: over rays through sparse points.
  """

  mse: jax.Array
  distortion: jax.Array
  depth: jax.Array


class _Counts(NamedTuple):
  """Of the whole batch: microbatches give their share of its means."""

  rays: int
  valid: jax.Array
  points: jax.Array


class PriorGradients(NamedTuple):
  """Of the priors.

  Attributes:
    features: FeatureGradient at the drawn points.
    density: of the density MLPs.
    consistency: unweighted loss.
    transparency: unweighted loss.
  """

  features: optimizer.FeatureGradient
  density: Any
  consistency: jax.Array
  transparency: jax.Array


def _probe(spec, num_samples):
  grid = spec.field.grid
  return jnp.zeros((grid.num_grid_scales, num_samples, grid.num_features))


def _mlps(nodes):
  return {'density': nodes['density'], 'color': nodes['color']}


def _follow_poses(dense, rays, samples, spec):
  """Rays and samples as functions of the photos' learned motion."""
  motion = poses_lib.camera_motion(dense['poses'], rays.camera_idx[:, 0])
  rays = poses_lib.move_rays(rays, motion)
  position = poses_lib.follow(
      samples.position,
      samples.slot,
      samples.level,
      rays,
      samples.t,
      root_side=spec.root_side,
  )
  return rays, samples._replace(position=position)


def _background_loss(clear, background, valid, weight):
  """What the variance of random backgrounds adds to the squared error.

  The mean of the loss over backgrounds U(0, 2 b) is that at their mean b plus
  their variance, b**2 / 3 a channel: no noise from drawing one.
  """
  shade = clear * background[:1] / 3**0.5
  return 3 * losses.photometric_loss(shade, 0.0, valid, weight)


def _ray_loss(
    trainable,
    table,
    spec,
    surroundings,
    samples,
    rays,
    batch,
    schedule,
    counts,
    options,
):
  """Losses of some rays as their share of the whole batch's means."""
  model = scene_model.SceneModel(
      surroundings.tree,
      {'table': table, **trainable['mlp']},
      None,
      surroundings.sample_aabb,
  )
  dense = trainable['dense']
  if 'poses' in dense:
    rays, samples = _follow_poses(dense, rays, samples, spec)
  appearance = dense['appearance'][rays.camera_idx[:, 0]]
  colors = render_rays.shade_samples(
      model,
      spec,
      samples,
      render_rays.ray_inputs(rays, appearance),
      probe=trainable['probe'],
      opaque_end=options.opaque_end,
  )
  clear = 1 - colors.opacity
  rgb = colors.rgb + clear * schedule.background
  valid_share = jnp.sum(batch.valid) / counts.valid
  weight = batch.weight
  mse = losses.photometric_loss(rgb, batch.rgb, batch.valid, weight)
  mse *= valid_share
  loss = options.lambda_rgb * mse
  if options.random_background:
    spread = _background_loss(clear, schedule.background, batch.valid, weight)
    loss += options.lambda_rgb * spread * valid_share
  distortion = losses.distortion_loss(samples.sdist, colors.weights, weight)
  distortion *= batch.valid.shape[0] / counts.rays
  loss += options.lambda_distortion * distortion
  depth = jnp.float32(0)
  if options.lambda_depth:
    footprint = rays.base_radius + batch.distance[:, None] * rays.cone_slope
    width = jnp.maximum(
        schedule.depth_width * batch.distance,
        options.depth_width_final * footprint[:, 0],
    )
    depth = losses.depth_loss(
        samples.t, colors.weights, batch.distance, width, weight
    )
    depth *= jnp.sum(batch.distance > 0) / counts.points
    loss += schedule.lambda_depth * depth
  return loss, RayLosses(mse, distortion, depth)


def ray_gradients(
    nodes,
    dense,
    spec: scene_model.ModelSpec,
    surroundings: Surroundings,
    samples: render_rays.Samples,
    rays: cameras_lib.Rays,
    batch: RayBatch,
    schedule: Schedule,
    options: options_lib.StepOptions,
):
  """Gradients of the ray losses, whole or by microbatches of rays.

  Args:
    nodes: stacked parameters.
    dense: appearance and, where they are learned, poses.
    spec: static facts of the model.
    surroundings: constant device arrays.
    samples: [R, S] of the last round.
    rays: [R], as the cameras stand.
    batch: [R].
    schedule: of this step.
    options: losses.

  Returns:
    ({'mlp', 'dense', 'probe'}, RayLosses); 'probe' [L, R * S, F] is the
    gradient of the encoded features.
  """
  trainable = {'mlp': _mlps(nodes), 'dense': dense}
  num_rays, shard = samples.t.shape[0], surroundings.tree.shard
  valid, points = exchange.sum_over_data(
      shard, (jnp.sum(batch.valid), jnp.sum(batch.distance > 0))
  )
  counts = _Counts(
      num_rays * exchange.num_data(shard),
      jnp.maximum(valid, 1),
      jnp.maximum(points, 1),
  )

  def gradients(samples, rays, batch):
    probe = _probe(spec, samples.t.size)
    return jax.grad(_ray_loss, has_aux=True)(
        {**trainable, 'probe': probe},
        nodes['table'],
        spec,
        surroundings,
        samples,
        rays,
        batch,
        schedule,
        counts,
        options,
    )

  size = options.ray_microbatch
  if not size or size >= num_rays:
    return gradients(samples, rays, batch)
  return _by_microbatches(gradients, size, trainable, (samples, rays, batch))


def _by_microbatches(gradients, size, trainable, arrays):
  """Sums gradients over groups of `size` rays, in order."""
  num_rays = arrays[0].t.shape[0]
  if num_rays % size:
    raise ValueError(
        f'ray_microbatch: got {size}, expected a divisor of {num_rays} rays'
    )
  split = lambda x: x.reshape((num_rays // size, size) + x.shape[1:])

  def accumulate(carry, part):
    grads, values = gradients(*part)
    probe = grads.pop('probe')
    return jax.tree.map(jnp.add, carry, (grads, values)), probe

  zero = jax.tree.map(jnp.zeros_like, trainable)
  start = (zero, RayLosses(*[jnp.float32(0)] * 3))
  (grads, values), probes = jax.lax.scan(
      accumulate, start, jax.tree.map(split, arrays)
  )
  # [M, L, S, F] to [L, M * S, F]: the order of the rays.
  probe = jnp.moveaxis(probes, 0, 1)
  probe = probe.reshape(probe.shape[0], -1, probe.shape[-1])
  return {**grads, 'probe': probe}, values


def point_turns(slot):
  """[K] int32 turns of the priors' points, see `exchange.own_rows`."""
  return jnp.arange(slot.shape[0], dtype=jnp.int32)


def _prior_loss(
    trainable, table, spec, tree, consistency, transparency, options
):
  """Level consistency and transparency prior at drawn points."""
  parts = [p for p in (consistency, transparency) if p is not None]
  position = jnp.concatenate([p.position for p in parts])
  slot = jnp.concatenate([p.slot for p in parts])
  nodes = {'table': table, 'density': trainable['density']}
  raw = node_evaluation.node_density(
      nodes,
      tree,
      position,
      slot,
      point_turns(slot),
      spec=spec,
      probe=trainable['probe'],
      on_all_data=True,
  )
  # exp(-density * h): h cancels in density = trunc_exp(raw) / h.
  transparent = jnp.exp(-scene_model.trunc_exp(raw))
  consistent, empty, loss = jnp.float32(0), jnp.float32(0), jnp.float32(0)
  if consistency is not None:
    num = consistency.slot.shape[0]
    consistent = losses.level_consistency_loss(
        *priors.split_consistency(transparent[:num], consistency)
    )
    loss += options.lambda_regularization * consistent
  if transparency is not None:
    num = transparency.slot.shape[0]
    empty = losses.transparency_loss(transparent[-num:])
    loss += options.lambda_transparency * empty
  return loss, (consistent, empty)


def prior_gradients(
    key,
    nodes,
    spec: scene_model.ModelSpec,
    surroundings: Surroundings,
    options: options_lib.StepOptions,
) -> PriorGradients | None:
  """Gradients of the priors, or None where none is switched on."""
  consistency = transparency = None
  keys = jax.random.split(key)
  sizes = dict(
      num_nodes=options.num_prior_nodes, num_points=options.num_prior_points
  )
  if options.lambda_regularization and surroundings.inner.shape[0]:
    consistency = priors.consistency_points(
        keys[0],
        surroundings.tree,
        surroundings.inner,
        grid_size=spec.field.grid.finest_resolution,
        **sizes,
    )
  if options.lambda_transparency:
    transparency = priors.transparency_points(
        keys[1], surroundings.tree, surroundings.prior_nodes, **sizes
    )
  parts = [p for p in (consistency, transparency) if p is not None]
  if not parts:
    return None
  position = jnp.concatenate([p.position for p in parts])
  slot = jnp.concatenate([p.slot for p in parts])
  trainable = {
      'density': nodes['density'],
      'probe': _probe(spec, slot.shape[0]),
  }
  grads, values = jax.grad(_prior_loss, has_aux=True)(
      trainable,
      nodes['table'],
      spec,
      surroundings.tree,
      consistency,
      transparency,
      options,
  )
  features = optimizer.FeatureGradient(position, slot, grads['probe'])
  return PriorGradients(features, grads['density'], *values)
