"""One training step: a pure function of state and batch, jitted, donated."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import render_rays, stand_ins
from infnerf_jax.sharding import exchange
from infnerf_jax.training import gradients, growth, optimizer, sample_counts
from infnerf_jax.training import poses as poses_lib
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step_options as options_lib
from kernels.sparse_adam import api as sparse_adam


class StepMetrics(NamedTuple):
  """Scalars of a step, on the device.

  Attributes:
    loss: weighted sum.
    mse: photometric, over valid rays.
    distortion: unweighted.
    depth: unweighted.
    rehearsal: of nodes that join soon.
    consistency: unweighted.
    transparency: unweighted.
    finite: {part: bool} of 'loss', 'mlp', 'dense', 'features'; one
      False: the step changed nothing.
    samples_by_level: [max_level + 1] int32, samples of the last round.
    samples_evaluated: [data shards, node shards] int32, samples that each
      device evaluated in all rounds and priors, rehearsal apart.
    samples_of_node: [2, N] int32, samples of the last round in each node, and
      those of them that train it; None where all nodes are resident and
      nobody asked.
    nodes_of_rays: [R, 1 + S] int32, the node in which each ray was planned to
      end, and those in which its samples of the last round lie, -1: in none;
      None where there is no plan.
  """

  loss: jax.Array
  mse: jax.Array
  distortion: jax.Array
  depth: jax.Array
  rehearsal: jax.Array
  consistency: jax.Array
  transparency: jax.Array
  finite: dict[str, jax.Array]
  samples_by_level: jax.Array
  samples_evaluated: jax.Array
  samples_of_node: jax.Array | None = None
  nodes_of_rays: jax.Array | None = None


def dense_optimizer(
    options: options_lib.StepOptions,
) -> optax.GradientTransformation:
  """Adam for what is dense: appearance and poses."""

  def rate(count):
    return options.lr_appearance_factor * _learning_rate(count, options)

  return optax.adam(rate, b1=options.adam_b1, b2=options.adam_b2, eps=1e-10)


def _learning_rate(step, options):
  return optimizer.learning_rate(
      step,
      initial=options.lr_initial,
      final=options.lr_final,
      # Nodes that join must still be able to learn: the decay waits for them.
      decay_start=options.growth_steps[-1] if options.growth_steps else 0,
      decay_steps=options.lr_decay_steps,
      warmup_steps=options.lr_warmup_steps,
  )


def _schedule(step, options) -> gradients.Schedule:
  """What the number of the step decides."""
  background = jnp.asarray(options.background)
  if options.random_background:
    ramp = 1.0
    if options.background_ramp_steps:
      ramp = jnp.clip(step / options.background_ramp_steps, 0, 1)
    background = jnp.full(3, 0.5 * ramp)
  share = (step - options.first_step) / max(options.depth_width_steps, 1)
  share = jnp.clip(share, 0.0, 1.0)
  # Two decades of narrowing; footprints bound it from below.
  width = options.depth_width_initial * 0.01**share
  weight = options.lambda_depth * options.depth_final**share
  return gradients.Schedule(background, width, weight)


def _active(surroundings, step, options):
  """Surroundings of the levels that take part in a step."""
  tree = growth.active_tree(
      surroundings.tree, surroundings.joins, step, options.growth_steps
  )
  return surroundings._replace(tree=tree)


def _place(key, state, batch, surroundings, spec, render_options, options):
  """(rays, samples of all rounds): where this step looks at the model."""
  rays = cameras_lib.camera_rays(
      surroundings.cameras,
      batch.photo_idx,
      batch.pix,
      batch.pixel_size,
      root_side=spec.root_side,
  )
  model = scene_model.SceneModel(
      surroundings.tree, state.params['nodes'], None, surroundings.sample_aabb
  )
  power = render_options.weight_power
  if options.anneal_steps:
    # mip-NeRF 360's slow start: from uniform to the full power.
    share = jnp.clip(state.step / options.anneal_steps, 0.0, 1.0)
    power = power * 10 * share / (9 * share + 1)
  moved = rays
  if 'poses' in state.params:
    motion = poses_lib.camera_motion(
        state.params['poses'], rays.camera_idx[:, 0]
    )
    moved = poses_lib.move_rays(rays, motion)
  rounds = render_rays.sampling_rounds(
      key, model, spec, moved, render_options, weight_power=power
  )
  return rays, rounds


def _all_finite(tree):
  return jnp.all(
      jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)])
  )


def _rehearsal(
    key, state, everything, spec, rays, samples, render_options, options
):
  """RehearsalGradients; nothing is computed while no level joins soon."""
  now = _active(everything, state.step, options).tree
  ahead = state.step + options.growth_rehearsal
  soon = _active(everything, ahead, options).tree
  nodes = state.params['nodes']
  appearance = state.params['appearance'][rays.camera_idx[:, 0]]
  policy = render_options.level_policy
  operands = nodes, rays, samples, appearance

  def rehearse(nodes, rays, samples, appearance):
    learned = growth.rehearse(
        key, nodes, spec, now, soon, rays, samples, appearance, policy
    )
    features = _gathered(now.shard, learned.features, samples.t.shape[0])
    return learned._replace(features=features)

  def rest(nodes, rays, samples, appearance):
    num_samples = samples.t.size * exchange.num_data(now.shard)
    return growth.no_rehearsal(nodes, spec, num_samples)

  joins = growth.active_level(
      state.step, options.growth_steps
  ) != growth.active_level(ahead, options.growth_steps)
  return jax.lax.cond(joins, rehearse, rest, *operands)


def _gathered(shard, features, num_rays):
  """A FeatureGradient of all rays that change this device's rows."""
  return optimizer.FeatureGradient(
      *exchange.gather_features(shard, *features, num_rays=num_rays)
  )


def _count_evaluated(shard, rounds, prior):
  """[data shards, node shards] int32, see `StepMetrics`."""
  rows = [
      exchange.own_rows(
          shard,
          samples.slot.reshape(-1),
          node_evaluation.ray_of_samples(samples.t),
      )
      for samples in rounds
  ]
  if prior is not None:
    slot = prior.features.slot
    turns = gradients.point_turns(slot)
    rows.append(exchange.own_rows(shard, slot, turns, on_all_data=True))
  count = sum(jnp.sum(x >= 0, dtype=jnp.int32) for x in rows)
  return exchange.counts_of_devices(shard, count)


class StepGradients(NamedTuple):
  """Of all losses, weighted; complete for the rows of this device.

  Attributes:
    features: FeatureGradients, by where the model was looked at; slots are
      the rows of this device.
    mlp: of the nodes' MLPs.
    dense: of appearance and poses.
  """

  features: list[optimizer.FeatureGradient]
  mlp: Any
  dense: Any


def compute_gradients(
    key, state, batch, everything, spec, render_options, options
):
  """Losses and gradients of a step; arguments as `train_step` takes them.

  Returns:
    (StepGradients, {name: value} of losses and counts as in StepMetrics).
  """
  sample_key, prior_key, rehearsal_key = jax.random.split(key, 3)
  nodes = state.params['nodes']
  surroundings = _active(everything, state.step, options)
  shard = surroundings.tree.shard
  rays, rounds = _place(
      sample_key, state, batch, surroundings, spec, render_options, options
  )
  samples = rounds[-1]
  grads, terms = gradients.ray_gradients(
      nodes,
      state_lib.dense_params(state.params),
      spec,
      surroundings,
      samples,
      rays,
      batch,
      _schedule(state.step, options),
      options,
  )
  by_sample = optimizer.FeatureGradient(
      samples.position.reshape(-1, 3),
      stand_ins.trained_slot(samples).reshape(-1),
      grads['probe'],
  )
  features, mlp = [_gathered(shard, by_sample, samples.t.shape[0])], grads[
      'mlp'
  ]
  metrics = exchange.sum_over_data(shard, terms)._asdict() | dict.fromkeys(
      ('rehearsal', 'consistency', 'transparency'), jnp.float32(0)
  )
  if options.growth_steps and options.growth_rehearsal:
    learned = _rehearsal(
        rehearsal_key, state, everything, spec, rays, samples, render_options,
        options,
    )  # fmt: skip
    features.append(learned.features)
    mlp = jax.tree.map(jnp.add, mlp, learned.mlp)
    metrics['rehearsal'] = exchange.sum_over_data(shard, learned.loss)
  prior = gradients.prior_gradients(
      prior_key, nodes, spec, surroundings, options
  )
  if prior is not None:
    everywhere = exchange.sum_features(shard, *prior.features)
    features.append(optimizer.FeatureGradient(*everywhere))
    density = jax.tree.map(jnp.add, mlp['density'], prior.density)
    mlp = {'density': density, 'color': mlp['color']}
    metrics['consistency'] = prior.consistency
    metrics['transparency'] = prior.transparency
  metrics['samples_by_level'] = exchange.sum_over_data(
      shard, sample_counts.by_level(samples, spec.max_level)
  )
  metrics['samples_evaluated'] = _count_evaluated(shard, rounds, prior)
  of_node = sample_counts.by_node(
      samples,
      surroundings.joins.shape[0],
      always=options.count_by_node,
  )
  metrics['samples_of_node'] = exchange.sum_over_data(shard, of_node)
  metrics['nodes_of_rays'] = exchange.gather_rays(
      shard, sample_counts.by_ray(samples, batch.ends_in)
  )
  mlp = exchange.sum_rows(shard, mlp)
  dense = exchange.sum_over_all(shard, grads['dense'])
  num_rows = nodes['table'].shape[0]
  features = [_of_learners(part, everything, num_rows) for part in features]
  return StepGradients(features, mlp, dense), metrics


def _of_learners(part, surroundings, num_rows) -> optimizer.FeatureGradient:
  """A FeatureGradient without the samples of rows that stay as they are.

  What no sample addresses keeps its value, moments and counts, MLPs included.
  """
  if surroundings.learners is None:
    return part
  tree = surroundings.tree
  own = exchange.rows_of_slots(tree.shard, tree.slot_of_node)  # [N]
  own = jnp.where(surroundings.learners.nodes & (own >= 0), own, num_rows)
  learns = jnp.zeros(num_rows, bool).at[own].set(True, mode='drop')
  stays = ~learns[jnp.maximum(part.slot, 0)]
  return part._replace(slot=jnp.where(stays, -1, part.slot))


def train_step(
    state: state_lib.TrainState,
    batch: gradients.RayBatch,
    surroundings: gradients.Surroundings,
    key,
    *,
    spec: scene_model.ModelSpec,
    render_options: render_rays.RenderOptions,
    options: options_lib.StepOptions,
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
  grads, metrics = compute_gradients(
      jax.random.fold_in(key, state.step),
      state,
      batch,
      surroundings,
      spec,
      render_options,
      options,
  )
  return apply_gradients(state, grads, metrics, surroundings, spec, options)


def apply_gradients(
    state, grads: StepGradients, metrics, surroundings, spec, options
) -> tuple[state_lib.TrainState, StepMetrics]:
  """The second half of a step; arguments from `compute_gradients`."""
  loss = (
      options.lambda_rgb * metrics['mse']
      + options.lambda_distortion * metrics['distortion']
      + _schedule(state.step, options).lambda_depth * metrics['depth']
      + metrics['rehearsal']
      + options.lambda_regularization * metrics['consistency']
      + options.lambda_transparency * metrics['transparency']
  )
  finite = {
      'loss': _all_finite(loss),
      'mlp': _all_finite(grads.mlp),
      'dense': _all_finite(grads.dense),
      'features': _all_finite([part.gradient for part in grads.features]),
  }
  # All devices apply the step, or none.
  finite = exchange.all_true(surroundings.tree.shard, finite)
  state = _apply(state, grads, finite, surroundings.learners, spec, options)
  return state, StepMetrics(loss=loss, **metrics, finite=finite)


def _apply(state, grads, finite, learners, spec, options):
  """Updates what the step touched, or nothing where it is not finite."""
  apply = jnp.all(jnp.stack(list(finite.values())))
  nodes = state.params['nodes']
  rate = _learning_rate(state.step, options)
  nodes, node_state = optimizer.update_nodes(
      nodes,
      state.opt_state['nodes'],
      grads.features,
      grads.mlp,
      sparse_adam.touched_slots(
          [part.slot for part in grads.features],
          nodes['table'].shape[0],
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
      grads.dense, state.opt_state['dense'], dense
  )
  keep = functools.partial(_keep, apply, learners)
  dense = jax.tree.map(keep, optax.apply_updates(dense, updates), dense)
  dense_state = jax.tree.map(keep, dense_state, state.opt_state['dense'])
  return state_lib.TrainState(
      step=state.step + 1,
      params={'nodes': nodes, **dense},
      opt_state={'nodes': node_state, 'dense': dense_state},
      skipped=state.skipped + ~apply,
      skipped_in_row=jnp.where(apply, 0, state.skipped_in_row + 1),
  )


def _keep(apply, learners, new, old):
  """New values of what is dense where a step applies and photos learn."""
  if learners is not None and jnp.ndim(new):
    photos = learners.photos.reshape((-1,) + (1,) * (jnp.ndim(new) - 1))
    apply = apply & photos
  return jnp.where(apply, new, old)


def make_train_step(
    spec: scene_model.ModelSpec,
    render_options: render_rays.RenderOptions,
    options: options_lib.StepOptions,
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
