"""One training step: a pure function of state and batch, jitted, donated."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays
from infnerf_jax.training import losses, optimizer, priors
from infnerf_jax.training import poses as poses_lib
from infnerf_jax.training import state as state_lib
from kernels.node_field import api as node_field
from kernels.sparse_adam import api as sparse_adam


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """What a step does (static).

  Attributes:
    lambda_rgb: weight of the photometric loss.
    lambda_distortion: of the distortion loss.
    lambda_regularization: of level consistency.
    lambda_transparency: of the prior towards empty space.
    num_prior_nodes: nodes that each prior draws a step.
    num_prior_points: points in each of them.
    random_background: the expected loss over backgrounds of all colours, so
      that no colour can pass for transparency; else `background`.
    background_ramp_steps: steps over which these backgrounds grow from black
      to all colours: opacity asked for before there is geometry makes fog.
    opaque_end: as in rendering.
    background: rgb behind everything.
    ray_microbatch: rays whose gradients are taken at once, 0 is all.
    lr_initial: learning rate at the start.
    lr_final: at the end of the decay.
    lr_decay_steps: steps of the decay.
    lr_warmup_steps: steps of linear warm-up.
    lr_mlp_factor: rate of the MLPs relative to the tables'.
    lr_appearance_factor: rate of the appearance relative to the tables'.
    adam_eps: Adam's epsilon.
    adam_b1: Adam's first decay.
    adam_b2: Adam's second decay.
    anneal_steps: steps over which proposal weights reach their power.
    refine_poses: whether the photos' poses are learned too.
  """

  lambda_rgb: float = 1.0
  lambda_distortion: float = 0.002
  lambda_regularization: float = 0.0001
  lambda_transparency: float = 0.001
  num_prior_nodes: int = 4
  num_prior_points: int = 64
  random_background: bool = True
  background_ramp_steps: int = 0
  opaque_end: bool = False
  background: tuple[float, float, float] = (0.0, 0.0, 0.0)
  ray_microbatch: int = 0
  lr_initial: float = 1e-2
  lr_final: float = 1e-4
  lr_decay_steps: int = 1000
  lr_warmup_steps: int = 0
  lr_mlp_factor: float = 0.1
  lr_appearance_factor: float = 0.1
  adam_eps: float = 1e-15
  adam_b1: float = 0.9
  adam_b2: float = 0.99
  anneal_steps: int = 0
  refine_poses: bool = False


class Surroundings(NamedTuple):
  """Device arrays that steps read and never change.

  Attributes:
    tree: node arrays.
    cameras: camera table of all photos.
    inner: [M] int32 nodes with children.
    sample_aabb: [2, 3] root units.
  """

  tree: scene_model.TreeArrays
  cameras: cameras_lib.DeviceCameras
  inner: jax.Array
  sample_aabb: jax.Array


class RayBatch(NamedTuple):
  """Rays of a step with the colours that photos show there.

  Attributes:
    photo_idx: [R] int32, rows of the camera and appearance tables.
    pix: [R, 2] float32, centres in full-size pixels.
    pixel_size: [R] float32, full-size pixels.
    rgb: [R, 3] float32.
    valid: [R] bool.
  """

  photo_idx: jax.Array
  pix: jax.Array
  pixel_size: jax.Array
  rgb: jax.Array
  valid: jax.Array


class StepMetrics(NamedTuple):
  """Scalars of a step, on the device.

  Attributes:
    loss: weighted sum.
    mse: photometric, over valid rays.
    distortion: unweighted.
    consistency: unweighted.
    transparency: unweighted.
    finite: {part: bool} of 'loss', 'mlp', 'dense', 'features'; one
      False: the step changed nothing.
    samples_by_level: [max_level + 1] int32, samples of the last round.
  """

  loss: jax.Array
  mse: jax.Array
  distortion: jax.Array
  consistency: jax.Array
  transparency: jax.Array
  finite: dict[str, jax.Array]
  samples_by_level: jax.Array


def dense_optimizer(options: StepOptions) -> optax.GradientTransformation:
  """Adam for what is dense: appearance and poses."""

  def rate(count):
    return options.lr_appearance_factor * optimizer.learning_rate(
        count,
        initial=options.lr_initial,
        final=options.lr_final,
        decay_steps=options.lr_decay_steps,
        warmup_steps=options.lr_warmup_steps,
    )

  return optax.adam(rate, b1=options.adam_b1, b2=options.adam_b2, eps=1e-10)


def _probe(spec, num_samples):
  grid = spec.field.grid
  return jnp.zeros((grid.num_grid_scales, num_samples, grid.num_features))


def _mlps(nodes):
  return {'density': nodes['density'], 'color': nodes['color']}


def _ray_loss(
    trainable,
    table,
    spec,
    surroundings,
    samples,
    rays,
    batch,
    background,
    num_valid,
    num_rays,
    options,
):
  """Losses of some rays as their share of the whole batch's means."""
  model = scene_model.SceneModel(
      surroundings.tree,
      {'table': table, **trainable['mlp']},
      None,
      surroundings.sample_aabb,
  )
  dense, camera_idx = trainable['dense'], rays.camera_idx[:, 0]
  if 'poses' in dense:
    motion = poses_lib.camera_motion(dense['poses'], camera_idx)
    rays = poses_lib.move_rays(rays, motion)
    samples = samples._replace(
        position=poses_lib.follow(
            samples.position,
            samples.slot,
            samples.level,
            rays,
            samples.t,
            root_side=spec.root_side,
        )
    )
  appearance = dense['appearance'][camera_idx]
  colors = render_rays.shade_samples(
      model,
      spec,
      samples,
      render_rays.ray_inputs(rays, appearance),
      probe=trainable['probe'],
      opaque_end=options.opaque_end,
  )
  clear = 1 - colors.opacity
  rgb = colors.rgb + clear * background
  share = batch.valid.shape[0] / num_rays
  # The photometric mean is over the batch's valid rays, not over these.
  mse = losses.photometric_loss(rgb, batch.rgb, batch.valid)
  mse *= jnp.sum(batch.valid) / num_valid
  loss = options.lambda_rgb * mse
  if options.random_background:
    # The mean of the loss over backgrounds U(0, 2 b) is that at their mean b
    # plus their variance, b**2 / 3 a channel: no noise from drawing one.
    shade = clear * background[:1] / 3**0.5
    spread = losses.photometric_loss(shade, 0.0, batch.valid)
    spread *= 3 * jnp.sum(batch.valid) / num_valid
    loss += options.lambda_rgb * spread
  distortion = share * losses.distortion_loss(samples.sdist, colors.weights)
  loss += options.lambda_distortion * distortion
  return loss, (mse, distortion)


def _ray_gradients(
    trainable,
    table,
    spec,
    surroundings,
    samples,
    rays,
    batch,
    background,
    options,
):
  """Gradients of the ray losses, whole or by microbatches of rays."""
  num_rays, num_samples = samples.t.shape
  num_valid = jnp.maximum(jnp.sum(batch.valid), 1)

  def gradients(samples, rays, batch):
    probe = _probe(spec, samples.t.size)
    return jax.grad(_ray_loss, has_aux=True)(
        {**trainable, 'probe': probe},
        table,
        spec,
        surroundings,
        samples,
        rays,
        batch,
        background,
        num_valid,
        num_rays,
        options,
    )

  size = options.ray_microbatch
  if not size or size >= num_rays:
    grads, (mse, distortion) = gradients(samples, rays, batch)
    return grads, mse, distortion
  if num_rays % size:
    raise ValueError(
        f'ray_microbatch: got {size}, expected a divisor of {num_rays} rays'
    )
  split = lambda x: x.reshape((num_rays // size, size) + x.shape[1:])
  parts = jax.tree.map(split, (samples, rays, batch))

  def accumulate(carry, part):
    grads, aux = gradients(*part)
    probe = grads.pop('probe')
    return jax.tree.map(jnp.add, carry, (grads, aux)), probe

  zero = jax.tree.map(jnp.zeros_like, dict(trainable))
  start = (zero, (jnp.float32(0), jnp.float32(0)))
  (grads, (mse, distortion)), probes = jax.lax.scan(accumulate, start, parts)
  # [M, L, S, F] to [L, M * S, F]: the order of the rays.
  probe = jnp.moveaxis(probes, 0, 1)
  probe = probe.reshape(probe.shape[0], num_rays * num_samples, -1)
  return {**grads, 'probe': probe}, mse, distortion


def _prior_loss(trainable, table, spec, consistency, transparency, options):
  """Level consistency and transparency prior at drawn points."""
  parts = [p for p in (consistency, transparency) if p is not None]
  position = jnp.concatenate([p.position for p in parts])
  slot = jnp.concatenate([p.slot for p in parts])
  nodes = {'table': table, 'density': trainable['density']}
  raw = node_field.node_density(
      nodes,
      position,
      slot,
      spec=spec.field,
      probe=trainable['probe'],
      implementation=spec.implementation,
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


def _prior_gradients(key, nodes, spec, surroundings, options):
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
        keys[1], surroundings.tree, **sizes
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
      trainable, nodes['table'], spec, consistency, transparency, options
  )
  features = optimizer.FeatureGradient(position, slot, grads['probe'])
  return features, grads['density'], values


def _all_finite(tree):
  return jnp.all(
      jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)])
  )


def train_step(
    state: state_lib.TrainState,
    batch: RayBatch,
    surroundings: Surroundings,
    key,
    *,
    spec: scene_model.ModelSpec,
    render_options: render_rays.RenderOptions,
    options: StepOptions,
) -> tuple[state_lib.TrainState, StepMetrics]:
  """One step; a step with a non-finite gradient changes only its counters.

  Args:
    state: donated.
    batch: rays with colours.
    surroundings: constant device arrays.
    key: the run's PRNG key; the step's number is folded in.
    spec: static facts of the model.
    render_options: sampling.
    options: losses and optimiser.

  Returns:
    (state, StepMetrics).
  """
  nodes = state.params['nodes']
  sample_key, prior_key = jax.random.split(jax.random.fold_in(key, state.step))
  rays = cameras_lib.camera_rays(
      surroundings.cameras,
      batch.photo_idx,
      batch.pix,
      batch.pixel_size,
      root_side=spec.root_side,
  )
  model = scene_model.SceneModel(
      surroundings.tree, nodes, None, surroundings.sample_aabb
  )
  power = render_options.weight_power
  if options.anneal_steps:
    # mip-NeRF 360's slow start: from uniform to the full power.
    share = jnp.clip(state.step / options.anneal_steps, 0.0, 1.0)
    power = power * 10 * share / (9 * share + 1)
  dense = state_lib.dense_params(state.params)
  moved = rays
  if 'poses' in dense:
    motion = poses_lib.camera_motion(dense['poses'], rays.camera_idx[:, 0])
    moved = poses_lib.move_rays(rays, motion)
  samples = render_rays.place_samples(
      sample_key, model, spec, moved, render_options, weight_power=power
  )
  background = jnp.asarray(options.background)
  if options.random_background:
    ramp = 1.0
    if options.background_ramp_steps:
      ramp = jnp.clip(state.step / options.background_ramp_steps, 0, 1)
    background = jnp.full(3, 0.5 * ramp)
  trainable = {'mlp': _mlps(nodes), 'dense': dense}
  grads, mse, distortion = _ray_gradients(
      trainable,
      nodes['table'],
      spec,
      surroundings,
      samples,
      rays,
      batch,
      background,
      options,
  )
  features = [
      optimizer.FeatureGradient(
          samples.position.reshape(-1, 3),
          samples.slot.reshape(-1),
          grads['probe'],
      )
  ]
  mlp_gradient = grads['mlp']
  consistent = empty = jnp.float32(0)
  prior = _prior_gradients(prior_key, nodes, spec, surroundings, options)
  if prior is not None:
    prior_features, density_gradient, (consistent, empty) = prior
    features.append(prior_features)
    mlp_gradient = {
        'density': jax.tree.map(
            jnp.add, mlp_gradient['density'], density_gradient
        ),
        'color': mlp_gradient['color'],
    }
  loss = (
      options.lambda_rgb * mse
      + options.lambda_distortion * distortion
      + options.lambda_regularization * consistent
      + options.lambda_transparency * empty
  )
  finite = {
      'loss': _all_finite(loss),
      'mlp': _all_finite(mlp_gradient),
      'dense': _all_finite(grads['dense']),
      'features': _all_finite([part.gradient for part in features]),
  }
  apply = jnp.all(jnp.stack(list(finite.values())))
  state = _apply(state, features, mlp_gradient, grads, apply, spec, options)
  levels = jnp.arange(spec.max_level + 1)
  counts = jnp.sum(
      (samples.level.reshape(-1, 1) == levels)
      & (samples.slot.reshape(-1, 1) >= 0),
      axis=0,
  )
  return state, StepMetrics(
      loss, mse, distortion, consistent, empty, finite, counts
  )


def _apply(state, features, mlp_gradient, grads, apply, spec, options):
  """Updates what the step touched, or nothing where it is not finite."""
  nodes = state.params['nodes']
  rate = optimizer.learning_rate(
      state.step,
      initial=options.lr_initial,
      final=options.lr_final,
      decay_steps=options.lr_decay_steps,
      warmup_steps=options.lr_warmup_steps,
  )
  num_slots = nodes['table'].shape[0]
  nodes, node_state = optimizer.update_nodes(
      nodes,
      state.opt_state['nodes'],
      features,
      mlp_gradient,
      sparse_adam.touched_slots(
          [part.slot for part in features],
          num_slots,
          implementation=spec.implementation,
      ),
      rate=rate,
      mlp_rate=options.lr_mlp_factor * rate,
      apply=apply,
      spec=spec.field,
      eps=options.adam_eps,
      b1=options.adam_b1,
      b2=options.adam_b2,
      implementation=spec.implementation,
  )
  dense = state_lib.dense_params(state.params)
  updates, dense_state = dense_optimizer(options).update(
      grads['dense'], state.opt_state['dense'], dense
  )
  keep = lambda new, old: jnp.where(apply, new, old)
  dense = jax.tree.map(keep, optax.apply_updates(dense, updates), dense)
  dense_state = jax.tree.map(keep, dense_state, state.opt_state['dense'])
  return state_lib.TrainState(
      step=state.step + 1,
      params={'nodes': nodes, **dense},
      opt_state={'nodes': node_state, 'dense': dense_state},
      skipped=state.skipped + ~apply,
      skipped_in_row=jnp.where(apply, 0, state.skipped_in_row + 1),
  )


def make_train_step(
    spec: scene_model.ModelSpec,
    render_options: render_rays.RenderOptions,
    options: StepOptions,
) -> Any:
  """Jits `train_step` for fixed options; the state is donated."""

  def step(state, batch, surroundings, key):
    return train_step(
        state,
        batch,
        surroundings,
        key,
        spec=spec,
        render_options=render_options,
        options=options,
    )

  return jax.jit(step, donate_argnums=0)
