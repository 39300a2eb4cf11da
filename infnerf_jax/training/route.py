"""What the loop asks of the devices: one of them here, a mesh in `mesh_route`.

A route draws and uploads batches, takes steps, and gives the state in the
order of the tree's nodes, which checkpoints keep whatever the devices are.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene import photo_groups, ray_batches
from infnerf_jax.training import gradients, retraining, sample_counts, setup
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib


class Route(Protocol):
  """See the module's docstring; `OneDevice` says what each does."""

  def start(self, stored: state_lib.TrainState | None) -> Any:
    ...

  def draw(self, step: int) -> ray_batches.RayBatch:
    ...

  def step(
      self, state: Any, batch: ray_batches.RayBatch, number: int
  ) -> tuple[Any, step_lib.StepMetrics]:
    ...

  def whole(self, state: Any) -> state_lib.TrainState | None:
    ...

  def report(self, metrics: step_lib.StepMetrics) -> dict[str, Any]:
    ...


def batch_options(config, run: setup.Run) -> ray_batches.BatchOptions:
  """How the run draws its rays."""
  known = bool(config.lambda_depth) and run.observations is not None
  return ray_batches.BatchOptions(
      num_rays=config.batch_size,
      pyramid_ray_share=tuple(config.data.pyramid_ray_share),
      seed=config.seed,
      point_ray_share=config.data.point_ray_share if known else 0.0,
      detail_candidates=config.data.detail_candidates,
  )


def ray_drawer(config, run: setup.Run):
  """(step, rays=None, focuses=None) to a RayBatch of a step.

  `rays`: which of them, None: all. `focuses`: what each photo group looks at
  more than at other things.
  """
  options = batch_options(config, run)
  if run.retraining is not None:
    return retraining.ray_drawer(
        run.pyramid,
        run.retraining,
        options,
        run.observations if config.lambda_depth else None,
        new_share=config.data.extra_ray_share,
        num_groups=config.data.photo_groups,
    )
  groups = photo_groups.group_photos(
      run.split.train, config.data.photo_groups, config.seed
  )

  def draw(step: int, rays: slice | None = None, focuses=None):
    return photo_groups.sample_rays(
        run.pyramid, groups, options, step, run.observations, rays=rays,
        focuses=focuses,
    )  # fmt: skip

  return draw


def device_batch(
    batch: ray_batches.RayBatch, put=jnp.asarray, weight=None
) -> gradients.RayBatch:
  """A gradients.RayBatch of a host's, its arrays placed by `put`.

  Args:
    batch: R rays.
    put: NumPy to device.
    weight: [R] of rays in a run that plans where they end, None: there is no
      plan.
  """
  planned = weight is not None
  arrays = gradients.RayBatch(
      photo_idx=np.asarray(batch.photo_idx, np.int32),
      pix=np.asarray(batch.pix, np.float32),
      pixel_size=np.asarray(batch.pixel_size, np.float32),
      rgb=np.asarray(batch.rgb, np.float32),
      valid=np.asarray(batch.valid, bool),
      distance=np.asarray(batch.distance, np.float32),
      weight=np.asarray(weight, np.float32) if planned else None,
      ends_in=np.asarray(batch.ends_in, np.int32) if planned else None,
  )
  return jax.tree.map(put, arrays)


def initial_state(
    config, run: setup.Run, num_slots: int | None = None
) -> state_lib.TrainState:
  """State before the first step, a function of the seed.

  Args:
    config: of the run.
    run: its set-up.
    num_slots: rows of the node pool, None: the run's.
  """
  return state_lib.init_state(
      setup.init_key(config),
      run.plan.spec,
      num_slots=num_slots or run.plan.num_slots,
      num_photos=len(run.plan.scene.photos.names),
      dense_optimizer=step_lib.dense_optimizer(run.step_options),
      refine_poses=run.step_options.refine_poses,
  )


class OneDevice:
  """Everything on one device, in the tree's order as it is."""

  def __init__(self, config, run: setup.Run):
    """Makes the step.

    Args:
      config: of the run.
      run: its set-up.
    """
    self._config, self._run = config, run
    self._key = setup.step_key(config)
    self._step = step_lib.make_train_step(
        run.plan.spec, run.render_options, run.step_options
    )
    self._draw = ray_drawer(config, run)
    self._counts = sample_counts.NodeCounts(run.plan.built.octree.num_nodes)

  def start(self, stored: state_lib.TrainState | None):
    """The state on the devices, from a checkpoint's or from the seed."""
    if stored is None:
      return initial_state(self._config, self._run)
    # Copies: the step donates its state, and NumPy memory is not XLA's.
    return jax.tree.map(lambda x: jnp.array(x, copy=True), stored)

  def draw(self, step: int) -> ray_batches.RayBatch:
    """Rays that this process uploads for a step; called in a thread."""
    return self._draw(step)

  def step(self, state, batch: ray_batches.RayBatch, number: int):
    """Takes step `number`; the state is donated."""
    del number
    surroundings = self._run.surroundings
    state, metrics = self._step(
        state, device_batch(batch), surroundings, self._key
    )
    self._counts.add(metrics.samples_of_node)
    return state, metrics

  def whole(self, state) -> state_lib.TrainState | None:
    """The state in the tree's order; None in all processes but the first."""
    return state

  def report(self, metrics: step_lib.StepMetrics) -> dict[str, Any]:
    """What metrics.jsonl says of the devices."""
    if metrics.samples_of_node is None:
      return {}
    return {'samples_by_node': self._counts.total[0].tolist()}
