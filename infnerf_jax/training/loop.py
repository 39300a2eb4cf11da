"""The training loop: resumes, logs, checkpoints; the step does the work."""

import contextlib
import io
import math
import pathlib
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax import progress as progress_lib
from infnerf_jax.scene import ray_batches
from infnerf_jax.sharding import processes
from infnerf_jax.storage import checkpoint, leaves
from infnerf_jax.training import (
    extended_run,
    extension,
    growth,
    losses,
    mesh_route,
    metrics_log,
    out_of_core,
    run_files,
    settings,
    setup,
)
from infnerf_jax.training import route as route_lib
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import workdir as workdir_lib

# Batches drawn ahead of the step that uses them.
_PREFETCH = out_of_core.MOST_AHEAD


class Hooks(NamedTuple):
  """What layers above hang into the loop.

  Attributes:
    validate: (run, state) to metrics of the validation photos.
    preview: (run, state, step, workdir) writes preview pictures.
    Where nodes are paged, the state is None: their store has been committed.
  """

  validate: Callable[..., dict[str, float]] | None = None
  preview: Callable[..., None] | None = None


class Trained(NamedTuple):
  """What training returns.

  Attributes:
    run: the run's set-up.
    state: after the last step; None where another process has it, or a store.
    store: folder of the node store of a run that pages its nodes, else None.
  """

  run: setup.Run
  state: state_lib.TrainState | None
  store: pathlib.Path | None = None


def _restore(manager, config, run):
  """The newest checkpoint's state in the tree's order, None without one."""
  if manager.latest_step() is None:
    return None
  template = jax.eval_shape(lambda: route_lib.initial_state(config, run))
  if run.plan.extension is None:
    return manager.restore(template)[1]
  step, stored = manager.restore()
  if step > run.plan.extension.first_step:
    return leaves.into_template(leaves.named_leaves(stored), template)
  if step < run.plan.extension.first_step:
    raise errors.InputError(
        f'{manager.directory}: found step {step} whole, expected step'
        f' {run.plan.extension.first_step}, where'
        ' config.data.extra_paths were added'
    )
  return extended_run.carry_state(
      stored,
      template,
      run.plan.built.octree,
      run.plan.base,
      setup.init_key(config),
      run.plan.spec.field,
  )


def _check_finite(config, run, route, metrics, state_step, in_row):
  """Stops a run whose last steps were all non-finite."""
  limit = config.optimizer.max_skipped_in_row
  if in_row < limit:
    return
  bad = sorted(k for k, v in metrics.finite.items() if not bool(v))
  paged = isinstance(route, out_of_core.PagedRoute)
  draw = route.draw if paged else route_lib.ray_drawer(config, run)
  batch = draw(state_step - 1)
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
  settings.check_config(config)
  shape = mesh_route.mesh_shape(config)
  with contextlib.ExitStack() as stack:
    # The others find the scene, its cache and the folder as the first left
    # them.
    with processes.first_before_others('prepare'):
      if processes.is_first():
        stack.enter_context(
            workdir_lib.prepare_workdir(
                workdir,
                config,
                before_config=lambda: extension.begin(config, workdir),
            )
        )
      run = setup.prepare_run(config, workdir, shape[1])
      if processes.is_first():
        run_files.write(workdir, run)
    paged = out_of_core.make_route(config, workdir, run, shape)
    if paged is not None:
      # Its commits are its checkpoints.
      with paged:
        state = paged.start(None)
        _run_steps(config, workdir, run, paged, paged, state, hooks)
      store = out_of_core.store_of(workdir) if processes.is_first() else None
      return Trained(run, None, store)
    route = mesh_route.make_route(config, run, shape)
    manager = checkpoint.CheckpointManager(
        workdir / 'checkpoints', keep=config.checkpoints_kept
    )
    with manager:
      state = route.start(_restore(manager, config, run))
      state = _run_steps(config, workdir, run, manager, route, state, hooks)
    return Trained(_as_grown(run, int(state.step)), route.whole(state))


def _outputs(config, workdir, first, last):
  """(log, progress), silent where another process writes."""
  if not processes.is_first():
    silent = progress_lib.Progress(last, first=first, stream=io.StringIO())
    return metrics_log.NoLog(), silent
  return (
      metrics_log.MetricsLog(
          workdir, config.logging, first_step=first, config=config
      ),
      progress_lib.Progress(last, first=first, description='train'),
  )


def _run_steps(config, workdir, run, manager, route, state, hooks):
  """Steps from where the state stands to config.num_steps."""
  first, last = int(state.step), config.num_steps
  if first >= last:
    return state
  log, progress = _outputs(config, workdir, first, last)
  with (
      log,
      progress,
      ray_batches.Prefetcher(
          route.draw, first, num_ahead=_PREFETCH
      ) as prefetcher,
  ):
    marks = _Marks(time.monotonic(), 0.0, first)
    pending = None
    for k in range(first, last):
      state, metrics = route.step(state, next(prefetcher), k)
      if pending is not None:
        # The step before: reading it now does not stall this one.
        _check_finite(config, run, route, *pending)
      done = k + 1
      in_row = jnp.array(state.skipped_in_row, copy=True)
      pending = _Pending(metrics, done, in_row)
      if done % config.logging.log_every == 0 or done == last:
        marks = _log(config, log, progress, marks, prefetcher, pending, route)
      _maybe_save(config, manager, route, state, done, last)
      _maybe_hook(config, hooks, run, manager, route, state, done, log, workdir)
    _check_finite(config, run, route, *pending)
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


def _log(config, log, progress, marks, prefetcher, pending, route):
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
  row.update(route.report(pending.metrics))
  log.write(row)
  progress.update(
      pending.step, rays_per_second=row['rays_per_second'], psnr=row['psnr']
  )
  return _Marks(time.monotonic(), prefetcher.seconds_waited, pending.step)


def _maybe_save(config, manager, route, state, done, last):
  """Checkpoints at their steps and at the end; not inside a bad streak."""
  if done % config.checkpoint_every and done != last:
    return
  whole = route.whole(state)
  if whole is not None:
    manager.save(done, whole)


def _as_grown(run, step):
  """The run with the levels that take part; the others know nothing yet."""
  surroundings = run.surroundings
  tree = growth.active_tree(
      surroundings.tree,
      surroundings.joins,
      step,
      run.step_options.growth_steps,
  )
  return run._replace(surroundings=surroundings._replace(tree=tree))


def _maybe_hook(config, hooks, run, manager, route, state, done, log, workdir):
  """Validation and previews at their steps, in the first process."""
  due = lambda hook, every: hook and every and done % every == 0
  validates = due(hooks.validate, config.eval_every)
  previews = due(hooks.preview, config.preview_every)
  if not (validates or previews):
    return
  whole, run = route.whole(state), _as_grown(run, done)
  if whole is not None:
    if isinstance(route, out_of_core.PagedRoute):
      # Hooks look at what the store holds, not at what is resident.
      manager.save(done, whole)
      whole = None
    if validates and processes.is_first():
      log.write({'step': done, **hooks.validate(run, whole)})
    if previews and processes.is_first():
      hooks.preview(run, whole, done, workdir)
  # The others do not wait in the middle of a step, where waits have limits.
  processes.barrier(f'hook {done}')
