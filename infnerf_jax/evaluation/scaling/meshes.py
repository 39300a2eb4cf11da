"""A step on meshes of virtual devices: bytes held and exchanged, samples.

python -m infnerf_jax.evaluation.scaling.meshes prints one line of JSON; it
is a process of its own since the number of CPU devices is fixed when JAX
starts. Counts do not depend on the load of the machine.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from infnerf_jax.evaluation.scaling import scenes
from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.sharding import partition as partition_lib
from infnerf_jax.sharding import traffic
from infnerf_jax.training import gradients, sharded_state, sharded_step
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import step_options as options_lib

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_DEVICES = 8
MESHES = ((1, 2), (1, 4), (2, 4), (1, 8))
_TINY_MESHES = ((1, 2),)
_NUM_RAYS = 256
_TABLE_FACTOR = 4


def _options() -> options_lib.StepOptions:
  return options_lib.StepOptions(num_prior_points=8, lr_decay_steps=100)


def _batch(surveyed, num_rays) -> gradients.RayBatch:
  """Random pixels of random photos with random colours."""
  rng = np.random.default_rng(0)
  pix = rng.uniform(size=(num_rays, 2)) * surveyed.photo_size
  return gradients.RayBatch(
      photo_idx=rng.integers(surveyed.num_photos, size=num_rays).astype(
          np.int32
      ),
      pix=pix.astype(np.float32),
      pixel_size=(
          2.0 ** rng.choice(len(scenes.SHARES), num_rays, p=scenes.SHARES)
      ).astype(np.float32),
      rgb=rng.uniform(size=(num_rays, 3)).astype(np.float32),
      valid=np.ones(num_rays, bool),
      distance=np.zeros(num_rays, np.float32),
  )


def _common(surveyed, options) -> dict[str, Any]:
  return {
      'num_photos': surveyed.num_photos,
      'dense_optimizer': step_lib.dense_optimizer(options),
  }


def _node_bytes(state) -> int:
  """Bytes of node fields and moments, as the host counts them."""
  nodes = state.params['nodes'], state.opt_state['nodes']
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(nodes))


def measure_single(surveyed: scenes.Surveyed) -> dict[str, Any]:
  """The same of a single device: what the meshes are held against."""
  options = _options()
  state = state_lib.init_state(
      jax.random.key(0), surveyed.spec,
      num_slots=surveyed.octree.num_nodes, **_common(surveyed, options),
  )  # fmt: skip
  held = _node_bytes(state)
  step = step_lib.make_train_step(surveyed.spec, surveyed.options, options)
  compiled = step.lower(
      state, _batch(surveyed, _NUM_RAYS), surveyed.surroundings, _key()
  ).compile()
  _, metrics = compiled(
      state, _batch(surveyed, _NUM_RAYS), surveyed.surroundings, _key()
  )
  return {
      'bytes_held': held,
      'samples': int(np.sum(metrics.samples_evaluated)),
      'flops': _flops(compiled),
  }


def _key():
  return jax.random.key(7, impl='rbg')


def _flops(compiled) -> float:
  """XLA's count: without custom calls, loops of unknown length once."""
  return float((compiled.cost_analysis() or {}).get('flops', 0.0))


def measure_mesh(
    surveyed: scenes.Surveyed, num_data: int, num_node: int, *, run: bool = True
) -> dict[str, Any]:
  """One step on a mesh of virtual devices.

  Args:
    surveyed: tree and sizes.
    num_data: D.
    num_node: M.
    run: whether to take the step, not only to compile it.

  Returns:
    'bytes_held' by device, 'exchanged' and 'formula' by kind of collective,
    'samples' by device, 'flops' of a device.
  """
  options = _options()
  tree, mesh = surveyed.octree, mesh_lib.first_devices(num_data, num_node)
  partition = partition_lib.make_partition(
      tree.level, tree.parent, surveyed.samples, num_node
  )
  before = sharded_state.live_bytes()
  state = sharded_state.init_state(
      jax.random.key(0), surveyed.spec, partition, mesh,
      **_common(surveyed, options),
  )  # fmt: skip
  jax.block_until_ready(state)
  after = sharded_state.live_bytes()
  held = [after[d.id] - before[d.id] for d in mesh.devices.reshape(-1)]
  arguments = (
      state,
      sharded_step.shard_batch(_batch(surveyed, _NUM_RAYS), mesh),
      sharded_step.shard_surroundings(surveyed.surroundings, partition, mesh),
      sharded_step.place_everywhere(_key(), mesh),
  )
  compiled = (
      sharded_step.make_sharded_train_step(
          mesh, surveyed.spec, surveyed.options, options
      )
      .lower(*arguments)
      .compile()
  )
  found = {
      'mesh': [num_data, num_node],
      'bytes_held': held,
      'resident_share': partition.resident_share,
      'memory_imbalance': partition.memory_imbalance,
      'expected_imbalance': partition.sample_imbalance,
      'exchanged': traffic.collective_bytes(compiled.as_text()),
      'formula': _formula(surveyed, partition, state, num_data, options),
      'flops': _flops(compiled),
  }
  if run:
    _, metrics = compiled(*arguments)
    found['samples'] = np.asarray(metrics.samples_evaluated).tolist()
  return found


def _formula(surveyed, partition, state, num_data, options) -> dict[str, int]:
  nodes = state.params['nodes']
  mlps = jax.tree.leaves((nodes['density'], nodes['color']))
  sizes = traffic.StepSizes(
      num_data=num_data,
      num_node=partition.num_shards,
      num_rays=_NUM_RAYS,
      num_samples=surveyed.options.num_samples,
      num_prior_points=traffic.num_prior_points(options),
      encoded_dim=surveyed.spec.field.grid.encoded_dim,
      capacity=partition.capacity,
      num_replicated=partition.num_replicated,
      mlp_size=sum(x[0].size for x in mlps),
      dense_size=state.params['appearance'].size,
  )
  return traffic.buffer_bytes(sizes)


def measure(*, tiny: bool = False) -> dict[str, Any]:
  """All meshes on one tree; needs eight devices."""
  surveyed = scenes.city(*scenes.CITIES[1], num_samples=(12, 8))
  meshes = _TINY_MESHES if tiny else MESHES
  result = {
      'num_nodes': surveyed.octree.num_nodes,
      'nodes_by_level': np.bincount(surveyed.octree.level).tolist(),
      'num_rays': _NUM_RAYS,
      'single': measure_single(surveyed),
      'meshes': [measure_mesh(surveyed, *shape) for shape in meshes],
  }
  if not tiny:
    large = scenes.larger_tables(surveyed, _TABLE_FACTOR)
    result['large_tables'] = measure_mesh(large, 2, 4, run=False)
  return result


def measure_in_child(*, tiny: bool = False) -> dict[str, Any]:
  """`measure` in a process with eight virtual CPU devices."""
  flags = os.environ.get('XLA_FLAGS', '')
  done = subprocess.run(
      [sys.executable, '-m', __name__] + ['tiny'] * tiny,
      cwd=_ROOT,
      env={
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': (
              f'{flags} --xla_force_host_platform_device_count={_DEVICES}'
              # Counts are the same, compilation is twice as fast.
              ' --xla_backend_optimization_level=0'
          ),
      },
      stdout=subprocess.PIPE,
      text=True,
      check=False,
  )
  if done.returncode:
    raise RuntimeError(
        f'{__name__} ended with status {done.returncode}; its stderr says why'
    )
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
  print(json.dumps(measure(tiny='tiny' in sys.argv[1:])))
