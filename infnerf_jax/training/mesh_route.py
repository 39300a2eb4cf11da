"""Steps over a mesh of devices, of one process or of several."""

import bisect
import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from infnerf_jax import errors
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import ray_batches
from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.sharding import partition as partition_lib
from infnerf_jax.sharding import processes
from infnerf_jax.training import (
    expected_samples,
    growth,
    route,
    setup,
    sharded_state,
    sharded_step,
)
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib


def mesh_shape(config) -> tuple[int, int]:
  """(data, node) shards that a config asks for on these devices.

  Raises:
    InputError: they do not fit the devices, or the batch.
  """
  shape = mesh_lib.resolve_shape(
      config.devices.data,
      config.devices.node,
      jax.device_count(),
      processes.count(),
  )
  num_data, num_node = shape
  if config.batch_size % num_data:
    raise errors.InputError(
        f'config.batch_size: got {config.batch_size}, expected a multiple of'
        f' the {num_data} data shards (config.devices.data)'
    )
  micro, rays = config.ray_microbatch, config.batch_size // num_data
  if micro and (micro % num_node or (micro < rays and rays % micro)):
    raise errors.InputError(
        f'config.ray_microbatch: got {micro}, expected a divisor of the'
        f' {rays} rays of a data shard and a multiple of the {num_node} node'
        ' shards'
    )
  return shape


def make_route(config, run: setup.Run, shape: tuple[int, int]) -> route.Route:
  """The route of a mesh's shape: 1 x 1 is the single device's own."""
  if shape == (1, 1):
    return route.OneDevice(config, run)
  return MeshRoute(config, run, shape)


def _samples(config, run) -> np.ndarray:
  """[P, N] expected samples by phase of growth, the same on all processes."""
  plan, observations = run.plan, run.observations
  if observations is None and plan.scene.points is not None:
    observations = observations_lib.point_observations(
        plan.scene, plan.built.sample_aabb
    )
  num_levels = config.num_pyramid_levels
  shares = np.zeros(num_levels)
  given = config.data.pyramid_ray_share[:num_levels]
  shares[: len(given)] = given
  samples = expected_samples.samples_of_phases(
      observations,
      run.surroundings,
      plan.spec,
      run.render_options,
      run.step_options.growth_steps,
      pixel_sizes=plan.downscale * 2.0 ** np.arange(num_levels),
      ray_shares=shares,
  )
  # Hosts of different kinds may round differently; partitions must not.
  return np.asarray(
      multihost_utils.broadcast_one_to_all(samples.astype(np.float32)),
      np.float64,
  )


def make_partitions(
    config, run: setup.Run, num_shards: int
) -> tuple[partition_lib.Partition, ...]:
  """Where the nodes live, by phase of growth; the same on all processes."""
  octree = run.plan.built.octree
  processes.agree('octree', _digest(octree.level, octree.coord))
  return partition_lib.make_partitions(
      octree.level, octree.parent, _samples(config, run), num_shards
  )


def _digest(*arrays) -> str:
  return hashlib.sha256(
      b''.join(np.ascontiguousarray(x).tobytes() for x in arrays)
  ).hexdigest()[:16]


class MeshRoute:
  """A route over a mesh; see `route.OneDevice` for the methods."""

  def __init__(self, config, run: setup.Run, shape: tuple[int, int]):
    """Partitions the tree and compiles nothing yet.

    Args:
      config: of the run.
      run: its set-up.
      shape: data and node shards.

    Raises:
      InputError: a config that a mesh cannot run.
    """
    octree = run.plan.built.octree
    if run.plan.num_slots != octree.num_nodes:
      raise errors.InputError(
          f'config.num_slots: got {run.plan.num_slots}, expected 0 or the'
          f' {octree.num_nodes} nodes of the octree on several devices'
      )
    self._config, self._run = config, run
    self._mesh = mesh_lib.first_devices(*shape)
    self._starts = growth.phase_starts(run.step_options.growth_steps)
    self.partitions = make_partitions(config, run, shape[1])
    self._phase = 0
    self._around = None
    self._key = sharded_step.place_everywhere(
        setup.step_key(config), self._mesh
    )
    self._step = sharded_step.make_sharded_train_step(
        self._mesh, run.plan.spec, run.render_options, run.step_options
    )
    self._draw = route.ray_drawer(config, run)
    self._rays = DealtRays(self._mesh, config.batch_size)

  @property
  def partition(self) -> partition_lib.Partition:
    """Where the nodes live now."""
    return self.partitions[self._phase]

  def _enter(self, step: int) -> None:
    """Looks up the phase of a step and places the tree for it."""
    self._phase = bisect.bisect_right(self._starts, step) - 1
    self._around = sharded_step.shard_surroundings(
        self._run.surroundings, self.partition, self._mesh
    )

  def start(self, stored: state_lib.TrainState | None):
    """The state over the mesh; processes must have read the same one."""
    step = 0 if stored is None else int(stored.step)
    processes.agree('checkpoint', step)
    self._enter(step)
    if stored is not None:
      return sharded_step.shard_state(stored, self.partition, self._mesh)
    options = self._run.step_options
    return sharded_state.init_state(
        setup.init_key(self._config),
        self._run.plan.spec,
        self.partition,
        self._mesh,
        num_photos=len(self._run.plan.scene.photos.names),
        dense_optimizer=step_lib.dense_optimizer(options),
        refine_poses=options.refine_poses,
    )

  def draw(self, step: int) -> ray_batches.RayBatch:
    """This process's rays."""
    return self._draw(step, self._rays.mine)

  def step(self, state, batch: ray_batches.RayBatch, number: int):
    """Takes a step; where levels join, nodes find their new owners first."""
    before = self.partition
    if number in self._starts and self._starts.index(number) != self._phase:
      self._enter(number)
      state = sharded_state.move_state(
          state, before, self.partition, self._mesh
      )
    return self._step(
        state,
        route.device_batch(batch, self._rays.place),
        self._around,
        self._key,
    )

  def whole(self, state) -> state_lib.TrainState | None:
    """The state in the tree's order on the host; all processes must call."""
    return sharded_state.collect_state(state, self.partition, self._mesh)

  def report(self, metrics: step_lib.StepMetrics) -> dict[str, Any]:
    """Samples and bytes of each device; all processes must call it."""
    partition = self.partition
    return {
        **report_devices(metrics),
        'memory_imbalance': partition.memory_imbalance,
        'resident_share': partition.resident_share,
    }


def report_devices(metrics: step_lib.StepMetrics) -> dict[str, Any]:
  """Samples and bytes of each device; all processes must call it."""
  samples = np.asarray(metrics.samples_evaluated)
  held = sharded_state.live_bytes()
  mine = [held[device.id] for device in jax.local_devices()]
  return {
      'samples_by_device': samples.tolist(),
      'sample_imbalance': float(samples.max() / max(samples.mean(), 1e-9)),
      'bytes_by_device': of_processes(mine).reshape(-1).astype(int).tolist(),
  }


def of_first_process(tree):
  """A pytree of arrays as the first process has it; all must call it."""
  if processes.count() == 1:
    return tree
  return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def of_processes(values) -> np.ndarray:
  """[processes, ...] numbers of each; all must call it."""
  values = np.asarray(values, np.float64)
  if processes.count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values), np.float64)


class DealtRays:
  """The rays of a batch that this process's devices take.

  Attributes:
    mine: which of the batch's.
  """

  def __init__(self, mesh: jax.sharding.Mesh, num_rays: int):
    """Deals the batch out, in order, over the data shards.

    Args:
      mesh: data shards by node shards.
      num_rays: of a batch.
    """
    self._sharding = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(mesh_lib.DATA)
    )
    self._num_rays = num_rays
    rows = [
        row
        for (row, _), device in np.ndenumerate(mesh.devices)
        if device.process_index == jax.process_index()
    ]
    size = num_rays // mesh.shape[mesh_lib.DATA]
    self.mine = slice(min(rows) * size, (max(rows) + 1) * size)

  def place(self, x):
    """An array over the data shards, from this process's rays."""

    def part(at):
      start, stop, _ = at[0].indices(self._num_rays)
      return x[start - self.mine.start : stop - self.mine.start]

    shape = (self._num_rays,) + x.shape[1:]
    return jax.make_array_from_callback(shape, self._sharding, part)
