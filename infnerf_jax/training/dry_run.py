"""What a run would do: nodes, memory, disk and time, without training."""

import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from infnerf_jax.models import node_pool
from infnerf_jax.training import gradients, settings, setup
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib
from infnerf_jax.training import workdir as workdir_lib

_TIMED_STEPS = 4
# Of the process beside the nodes: programs, rays, libraries (measured).
_PROCESS_BYTES = 1.5e9
_NAMED = 5  # photos that a warning names


def estimate(config, workdir, *, measure: bool = True) -> dict[str, Any]:
  """Estimates a run; decodes no photo and writes only the embedded city.

  Args:
    config: checked config.
    workdir: where the run would go.
    measure: also times a few steps on this machine, on random colours.

  Returns:
    Nodes by level, bytes of memory and disk, seconds; `warnings`: what is
    wrong with the scene; `fits`: whether memory and disk are there.

  Raises:
    InputError: of the config or the scene, or nothing can be written to the
      workdir.
  """
  workdir_lib.check_place(workdir)
  plan = setup.make_plan(config, workdir, _num_shards(config))
  rows = node_pool.row_bytes(plan.spec.field)
  size = np.asarray(plan.scene.cameras.width, np.int64) * np.asarray(
      plan.scene.cameras.height, np.int64
  )
  levels = sum(0.25**k for k in range(config.num_pyramid_levels))
  photos = float(np.sum(size)) / plan.downscale**2 * levels * 3
  cached = min(photos, config.data.cache_gb * 1e9)
  by_level = plan.built.report['nodes_by_level']
  training, resident = plan.num_slots * rows['training'], plan.num_slots
  if plan.capacity:
    # A store of all nodes in two versions: what is committed, and what changed
    # since.
    training = plan.capacity.bytes
    resident = plan.capacity.num_rows
    kept = 2 * sum(by_level) * rows['training']
  else:
    kept = (config.checkpoints_kept + 1) * training
  result = {
      'photos': len(plan.scene.photos.names),
      'downscale': plan.downscale,
      'nodes_by_level': by_level,
      'grid_size': plan.built.octree.grid_size,
      'parameters_bytes': (
          max(plan.num_slots, sum(by_level)) * rows['parameters']
      ),
      'training_bytes': training,
      'resident_nodes': min(resident, sum(by_level)),
      'photo_cache_bytes': int(cached),
      'disk_bytes': int(cached + kept),
      'disk_free_bytes': shutil.disk_usage(
          workdir_lib.existing(workdir)
      ).free,
      'memory_available_bytes': psutil.virtual_memory().available,
      'warnings': _warnings(plan),
  }
  result['memory_bytes'] = int(result['training_bytes'] + _PROCESS_BYTES)
  result['fits'] = (
      result['memory_bytes'] <= result['memory_available_bytes']
      and result['disk_bytes'] <= result['disk_free_bytes']
  )
  if measure:
    compile_seconds, step_seconds = _time_steps(config, plan)
    result['compile_seconds'] = compile_seconds
    result['step_seconds'] = step_seconds
    result['rays_per_second'] = config.batch_size / step_seconds
    done = plan.extension.first_step if plan.extension else 0
    num_steps = config.num_steps - done
    result['seconds'] = compile_seconds + num_steps * step_seconds
  return result


def _warnings(plan) -> list[str]:
  """What a reader of the plan should know is wrong with the scene."""
  report, found = plan.scene.report, []
  for kind in ('absent', 'damaged'):
    photos = report.get(f'photos_{kind}') or []
    if photos:
      names = [p if isinstance(p, str) else p[0] for p in photos]
      more = ', ...' if len(names) > _NAMED else ''
      found.append(
          f'{len(names)} photos {kind}: {", ".join(names[:_NAMED])}{more}'
      )
  if plan.scene.points is None:
    found.append(
        'no sparse points: the octree is one node (experiments.convert'
        ' --triangulate makes some)'
    )
  elif plan.scene.visibility is None:
    found.append(
        'unknown which photos see which points: each counts as seen by all'
        ' whose pictures hold it'
    )
  return found


def _num_shards(config) -> int:
  """Node shards of the run, which may be meant for other machines."""
  if config.devices.node or not config.devices.data:
    return config.devices.node or 1
  return max(1, jax.device_count() // config.devices.data)


def _time_steps(config, plan) -> tuple[float, float]:
  """(seconds of the first step, median seconds of later ones)."""
  options = settings.step_options(config)
  step = step_lib.make_train_step(
      plan.spec, settings.render_options(config), options
  )
  state = state_lib.init_state(
      setup.init_key(config),
      plan.spec,
      num_slots=plan.num_slots,
      num_photos=len(plan.scene.photos.names),
      dense_optimizer=step_lib.dense_optimizer(options),
      refine_poses=options.refine_poses,
  )
  surroundings = setup.make_surroundings(plan)
  rng = np.random.default_rng(0)
  seconds = []
  for _ in range(_TIMED_STEPS):
    photo = rng.integers(len(plan.scene.photos.names), size=config.batch_size)
    size = np.stack(
        [plan.scene.cameras.width[photo], plan.scene.cameras.height[photo]], -1
    )
    batch = gradients.RayBatch(
        photo_idx=jnp.asarray(photo, jnp.int32),
        pix=jnp.asarray(rng.uniform(size=size.shape) * size, jnp.float32),
        pixel_size=jnp.full(config.batch_size, plan.downscale, jnp.float32),
        rgb=jnp.asarray(rng.uniform(size=(config.batch_size, 3)), jnp.float32),
        valid=jnp.ones(config.batch_size, bool),
        distance=jnp.zeros(config.batch_size),
    )
    start = time.monotonic()
    state, metrics = step(state, batch, surroundings, setup.step_key(config))
    jax.block_until_ready((state, metrics))
    seconds.append(time.monotonic() - start)
  return seconds[0], float(np.median(seconds[1:]))


def describe(estimated: dict[str, Any]) -> str:
  """The estimate as lines for a terminal."""
  gb = lambda name: f'{estimated[name] / 1e9:.2f} GB'
  nodes = estimated['nodes_by_level']
  lines = [
      f'photos            {estimated["photos"]},'
      f' trained at 1/{estimated["downscale"]:g} size',
      f'octree            {sum(nodes)} nodes, by level'
      f' {", ".join(map(str, nodes))}; grid {estimated["grid_size"]}',
      f'parameters        {gb("parameters_bytes")}',
      f'memory            {gb("memory_bytes")}, of which'
      f' {gb("training_bytes")} for {estimated["resident_nodes"]} nodes with'
      f' moments at a time (free: {gb("memory_available_bytes")})',
      f'disk              {gb("disk_bytes")}: photo cache and checkpoints'
      f' (free: {gb("disk_free_bytes")})',
  ]
  if 'seconds' in estimated:
    lines.append(
        f'time              {estimated["seconds"] / 60:.1f} min'
        f' ({estimated["step_seconds"] * 1e3:.0f} ms a step,'
        f' {estimated["rays_per_second"]:.0f} rays/s,'
        f' compilation {estimated["compile_seconds"]:.0f} s)'
    )
  lines += [f'wrong             {words}' for words in estimated['warnings']]
  lines.append(f'fits here         {_verdict(estimated)}')
  return '\n'.join(lines)


def _verdict(estimated) -> str:
  """Yes, or no and why."""
  if estimated['fits']:
    return 'yes'
  short = [
      name
      for name, need, have in (
          ('memory', 'memory_bytes', 'memory_available_bytes'),
          ('disk', 'disk_bytes', 'disk_free_bytes'),
      )
      if estimated[need] > estimated[have]
  ]
  advice = ' (config.max_memory_gb trains beyond memory)'
  return f'no: too little {" and ".join(short)}' + (
      advice if 'memory' in short else ''
  )
