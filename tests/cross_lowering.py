"""Lowers kernels, train step and render step for CUDA on a machine without one.

  python -m tests.cross_lowering [--capability=90]

Needs jax_triton and the jax CUDA plugin wheel (its dependencies are not
needed). Prints the Triton kernels in every exported module; exits 1 if one is
missing or a CPU kernel is there. Run by .ci/run in an environment of its own.
"""

import argparse
import collections
import dataclasses
import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=2')

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import (
  occupancy,
  render_rays,
  traversal,
  traversed_rays,
)  # fmt: skip
from infnerf_jax.training import step as step_lib
from kernels import triton_report
from kernels.triton_support import lowering
from tests.training import tiny

# Kernels without which a step would not be ours.
_RENDER = ('locate', 'field_forward', 'composite_forward')
_WALK = ('traverse', 'field_forward', 'composite_forward')
_FIELD = ('lookup', 'density_backward', 'color_backward', 'sum_rows')
_ADAM = ('claim', 'accumulate', 'update', 'slot_adam')
_TRAIN = _RENDER + ('composite_backward',) + _FIELD + _ADAM
# Outputs that must be an input's buffer: nothing of a table's size is copied.
_IN_PLACE = {'claim': 1, 'accumulate': 1, 'update': 3, 'slot_adam': 2}
_SAMPLES = PartitionSpec('devices')
_SAME = PartitionSpec()


def _mesh():
  auto = jax.sharding.AxisType.Auto
  return jax.make_mesh((jax.device_count(),), ('devices',), axis_types=(auto,))


def _spread(function, in_specs, out_specs):
  return jax.shard_map(
      function,
      mesh=_mesh(),
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
  )


def _train_step(spec):
  def step(state, batch, surroundings, key):
    return step_lib.train_step(
        state,
        batch,
        surroundings,
        key,
        spec=spec,
        render_options=tiny.RENDER,
        options=tiny.STEP,
    )

  key = jax.random.key(7, impl='rbg')
  return step, (tiny.state(model=spec), tiny.batch(), tiny.surroundings(), key)


def _render_step(spec):
  state, around = tiny.state(model=spec), tiny.surroundings()
  model = scene_model.SceneModel(
      tree=around.tree,
      nodes=state.params['nodes'],
      appearance=state.params['appearance'],
      sample_aabb=around.sample_aabb,
  )

  def step(model, rays, appearance):
    return render_rays.render_rays(model, spec, rays, appearance, tiny.RENDER)

  batch = tiny.batch()
  rays = cameras_lib.camera_rays(
      around.cameras,
      batch.photo_idx,
      batch.pix,
      batch.pixel_size,
      root_side=spec.root_side,
  )
  appearance = jnp.zeros((batch.rgb.shape[0], spec.appearance_dim))
  return step, (model, rays, appearance)


def _traversed_step(spec):
  _, (model, *rest) = _render_step(spec)
  low, high = model.sample_aabb
  grid = occupancy.Occupancy(
      jnp.arange(64) % 3 == 0, jnp.full(3, 4), low, (high - low) / 4
  )
  model = model._replace(traversal=traversal.make_traversal(model, grid))
  options = dataclasses.replace(tiny.RENDER, sampler='traverse', max_samples=8)

  def step(model, rays, appearance):
    inputs = render_rays.ray_inputs(rays, appearance)
    colors = traversed_rays.render_by_traversal(
        model, spec, rays, inputs, options
    )
    return colors.rgb, colors.distance

  return step, (model, *rest)


def steps():
  """(name, function, arguments, options of jit, kernels that must be there)."""
  for named in ('triton', None):
    spec = tiny.spec(implementation=named)
    train, train_args = _train_step(spec)
    render, render_args = _render_step(spec)
    suffix = f', implementation={named}'
    donate = dict(donate_argnums=0)
    yield 'train step' + suffix, train, train_args, donate, _TRAIN
    yield 'render step' + suffix, render, render_args, {}, _RENDER
    walk, walk_args = _traversed_step(spec)
    yield 'traversed render step' + suffix, walk, walk_args, {}, _WALK
  spread = _spread(walk, (_SAME, _SAMPLES, _SAMPLES), _SAMPLES)
  yield 'traversed render step, shard_map', spread, walk_args, {}, _WALK
  spread = _spread(train, (_SAME, _SAMPLES, _SAME, _SAME), _SAME)
  yield 'train step, shard_map', spread, train_args, donate, _TRAIN
  spread = _spread(render, (_SAME, _SAMPLES, _SAMPLES), _SAMPLES)
  yield 'render step, shard_map', spread, render_args, {}, _RENDER


def check(name, exported, wanted) -> bool:
  """Prints what an exported module calls; whether it is as it must be."""
  found = collections.Counter(lowering.triton_kernels(exported))
  missing = [kernel for kernel in wanted if kernel not in found]
  copies = {
      kernel
      for kernel, shared in lowering.shared_buffers(exported)
      if shared != _IN_PLACE.get(kernel, 0)
  }
  foreign = 'custom_call @infnerf_' in exported.mlir_module()  # native's
  listed = ', '.join(f'{n} {kernel}' for kernel, n in sorted(found.items()))
  print(f'{name}: {listed or "no kernel"}', flush=True)
  if missing:
    print(f'error: {name}: missing {", ".join(missing)}')
  if copies:
    print(f'error: {name}: not in place: {", ".join(sorted(copies))}')
  if foreign:
    print(f'error: {name}: calls a CPU kernel')
  return not (missing or copies or foreign)


def main() -> int:
  """Lowers everything; 1 if anything is not as it must be."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--capability', type=int, default=90)
  capability = parser.parse_args().capability
  good = True
  for op, (function, arguments) in triton_report.functions().items():
    if ' ' in op and op != 'composite ragged':
      continue  # the same calls, of other types and sizes
    exported = lowering.export(
        function, *arguments, compute_capability=capability
    )
    good &= check(op, exported, ()) and bool(lowering.triton_kernels(exported))
  for name, function, arguments, options, wanted in steps():
    exported = lowering.export(
        function, *arguments, compute_capability=capability, **options
    )
    good &= check(name, exported, wanted)
  print('all lowered' if good else 'something is missing')
  return 0 if good else 1


if __name__ == '__main__':
  sys.exit(main())
