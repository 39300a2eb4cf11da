"""The training loop: resumes, logs, checkpoints; the step does the work."""

import math
import pathlib
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import json_files
from infnerf_jax import progress as progress_lib
from infnerf_jax.octree import io as octree_io
from infnerf_jax.scene import camera_io, ray_batches
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import gradients, growth, losses, metrics_log, setup
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import workdir as workdir_lib

# Batches drawn ahead of the step that uses them.
_PREFETCH = 4


class Hooks(NamedTuple):
  """What layers above hang into the loop.

  Attributes:
    validate: (run, state) to metrics of the validation photos.
    preview: (run, state, step) writes preview pictures.
  """

  validate: Callable[..., dict[str, float]] | None = None
  preview: Callable[..., None] | None = None


class Trained(NamedTuple):
  """What training returns.

  Attributes:
    run: the run's set-up.
    state: after the last step.
  """

  run: setup.Run
  state: state_lib.TrainState


def batch_options(config, run: setup.Run) -> ray_batches.BatchOptions:
  """How the run draws its rays."""
  known = run.observations is not None
  return ray_batches.BatchOptions(
      num_rays=config.batch_size,
      pyramid_ray_share=tuple(config.data.pyramid_ray_share),
      seed=config.seed,
      point_ray_share=config.data.point_ray_share if known else 0.0,
      detail_candidates=config.data.detail_candidates,
  )


def device_batch(batch: ray_batches.RayBatch) -> gradients.RayBatch:
  """Uploads a batch."""
  return gradients.RayBatch(
      photo_idx=jnp.asarray(batch.photo_idx, jnp.int32),
      pix=jnp.asarray(batch.pix, jnp.float32),
      pixel_size=jnp.asarray(batch.pixel_size, jnp.float32),
      rgb=jnp.asarray(np.asarray(batch.rgb, np.float32)),
      valid=jnp.asarray(batch.valid, bool),
      distance=jnp.asarray(batch.distance, jnp.float32),
  )


def initial_state(config, run: setup.Run) -> state_lib.TrainState:
  """State before the first step, a function of the seed."""
  return state_lib.init_state(
      setup.init_key(config),
      run.plan.spec,
      num_slots=run.plan.num_slots,
      num_photos=len(run.plan.scene.photos.names),
      dense_optimizer=step_lib.dense_optimizer(run.step_options),
      refine_poses=run.step_options.refine_poses,
  )


def write_run_files(workdir, run: setup.Run) -> None:
  """Writes what a trained run needs beside its checkpoints."""
  workdir = pathlib.Path(workdir)
  names = run.plan.scene.photos.names
  octree_io.save_octree(
      workdir / 'octree.npz', run.plan.built.octree, run.plan.built.sample_aabb
  )
  camera_io.save_cameras(workdir / 'cameras.npz', names, run.plan.scene.cameras)
  split = {
      part: [names[i] for i in rows]
      for part, rows in run.split._asdict().items()
  }
  json_files.write_json_atomic(workdir / 'split.json', split)
  json_files.write_json_atomic(workdir / 'scene_report.json', run.report)
  json_files.write_json_atomic(workdir / 'frame.json', run.plan.scene.frame)


def _restore(manager, template):
  """The newest checkpoint's state, or the template itself."""
  if manager.latest_step() is None:
    return template
  _, state = manager.restore(template)
  # Copies: the step donates its state, and NumPy memory is not XLA's.
  return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


def _check_finite(config, run, options, metrics, state_step, in_row):
  """Stops a run whose last steps were all non-finite."""
  limit = config.optimizer.max_skipped_in_row
  if in_row < limit:
    return
  bad = sorted(k for k, v in metrics.finite.items() if not bool(v))
  batch = ray_batches.sample_batch(
      run.pyramid, run.split.train, options, state_step - 1, run.observations
  )
  names = run.plan.scene.photos.names
  photos = sorted({names[i] for i in np.unique(batch.photo_idx)})
  shown = ', '.join(photos[:20]) + (' ...' if len(photos) > 20 else '')
  raise FloatingPointError(
      f'steps {state_step - in_row} to {state_step - 1}: non-finite'
      f' {", ".join(bad)} in {in_row} steps in a row; the last good checkpoint'
      f' is intact; photos of the last batch: {shown}'
  )


def _row(step, metrics, seconds, num_rays, wait_share, rate_steps):
  """One line of metrics.jsonl."""
  mse = float(metrics.mse)
  counts = np.asarray(metrics.samples_by_level)
  return {
      'step': step,
      'loss': float(metrics.loss),
      'psnr': float(losses.psnr_of_mse(mse)) if mse > 0 else math.inf,
      'distortion': float(metrics.distortion),
      'depth': float(metrics.depth),
      'rehearsal': float(metrics.rehearsal),
      'consistency': float(metrics.consistency),
      'transparency': float(metrics.transparency),
      'rays_per_second': num_rays * rate_steps / max(seconds, 1e-9),
      'input_wait_share': wait_share,
      'samples_by_level': counts.tolist(),
  }


def train(config, workdir, *, hooks: Hooks = Hooks()) -> Trained:
  """Trains, or goes on where the newest checkpoint stands.

  Args:
    config: see `configs/common.py`.
    workdir: config.json, metrics.jsonl, checkpoints and the rest.
    hooks: validation and previews.

  Returns:
    Trained.

  Raises:
    InputError: bad scene or config, or a workdir of another run.
    FloatingPointError: too many non-finite steps in a row.
  """
  workdir = pathlib.Path(workdir)
  with workdir_lib.prepare_workdir(workdir, config):
    run = setup.prepare_run(config, workdir)
    write_run_files(workdir, run)
    manager = checkpoint.CheckpointManager(
        workdir / 'checkpoints', keep=config.checkpoints_kept
    )
    with manager:
      state = _restore(manager, initial_state(config, run))
      state = _run_steps(config, workdir, run, manager, state, hooks)
    return Trained(_as_grown(run, int(state.step)), state)


def _run_steps(config, workdir, run, manager, state, hooks):
  """Steps from where the state stands to config.num_steps."""
  first, last = int(state.step), config.num_steps
  if first >= last:
    return state
  options = batch_options(config, run)
  key = setup.step_key(config)
  step_fn = step_lib.make_train_step(
      run.plan.spec, run.render_options, run.step_options
  )
  draw = lambda k: ray_batches.sample_batch(
      run.pyramid, run.split.train, options, k, run.observations
  )
  log = metrics_log.MetricsLog(
      workdir, config.logging, first_step=first, config=config
  )
  with (
      log,
      progress_lib.Progress(last, first=first, description='train') as progress,
  ):
    with ray_batches.Prefetcher(draw, first, num_ahead=_PREFETCH) as prefetcher:
      marks = _Marks(time.monotonic(), 0.0, first)
      pending = None
      for k in range(first, last):
        batch = device_batch(next(prefetcher))
        state, metrics = step_fn(state, batch, run.surroundings, key)
        if pending is not None:
          # The step before: reading it now does not stall this one.
          _check_finite(config, run, options, *pending)
        done = k + 1
        in_row = jnp.array(state.skipped_in_row, copy=True)
        pending = _Pending(metrics, done, in_row)
        if done % config.logging.log_every == 0 or done == last:
          marks = _log(config, log, progress, marks, prefetcher, pending)
        _maybe_save(config, manager, state, done, last)
        _maybe_hook(config, hooks, run, state, done, last, log, workdir)
      _check_finite(config, run, options, *pending)
  return state


class _Pending(NamedTuple):
  """Arguments of `_check_finite` for a step that may still be running."""

  metrics: step_lib.StepMetrics
  step: int
  in_row: Any


class _Marks(NamedTuple):
  """Where the current log interval began."""

  time: float
  waited: float
  step: int


def _log(config, log, progress, marks, prefetcher, pending):
  """Writes a line of metrics and starts the next interval."""
  jax.block_until_ready(pending.metrics)
  now = time.monotonic()
  seconds = now - marks.time
  waited = prefetcher.seconds_waited - marks.waited
  row = _row(
      pending.step,
      pending.metrics,
      seconds,
      config.batch_size,
      waited / max(seconds, 1e-9),
      pending.step - marks.step,
  )
  row['skipped_in_row'] = int(pending.in_row)
  log.write(row)
  progress.update(
      pending.step, rays_per_second=row['rays_per_second'], psnr=row['psnr']
  )
  return _Marks(time.monotonic(), prefetcher.seconds_waited, pending.step)


def _maybe_save(config, manager, state, done, last):
  """Checkpoints at their steps and at the end; not inside a bad streak."""
  if done % config.checkpoint_every and done != last:
    return
  manager.save(done, state)


def _as_grown(run, step):
  """The run with the levels that take part; the others know nothing yet."""
  surroundings = run.surroundings
  tree = growth.active_tree(
      surroundings.tree,
      surroundings.node_level,
      step,
      run.step_options.growth_steps,
  )
  return run._replace(surroundings=surroundings._replace(tree=tree))


def _maybe_hook(config, hooks, run, state, done, last, log, workdir):
  """Validation and previews at their steps."""
  del last
  if not (hooks.validate or hooks.preview):
    return
  run = _as_grown(run, done)
  if hooks.validate and config.eval_every and done % config.eval_every == 0:
    scores = hooks.validate(run, state)
    log.write({'step': done, **scores})
  if (
      hooks.preview
      and config.preview_every
      and done % config.preview_every == 0
  ):
    hooks.preview(run, state, done, workdir)
