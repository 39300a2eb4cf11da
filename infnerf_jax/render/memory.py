"""How many rays fit on the device at once."""

import jax

from infnerf_jax import errors
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays
from kernels import dispatch
from kernels.node_field import native

# Large enough to hide the cost of a call; on a CPU more only leaves the cache.
_DEFAULT_BLOCK = {'cpu': 8192}
_DEFAULT_BLOCK_ELSEWHERE = 65536
_MIN_BLOCK = 64
# Floats of a sample, measured with the compiler's own account and rounded up:
# distances, positions, nodes, densities, colours, weights and their copies ...
_FLOATS_A_SAMPLE = 96
# ... of which fused kernels, which keep features and activations in registers,
# write these.
_FLOATS_A_SAMPLE_FUSED = 40
_FLOATS_A_RAY = 128
# Position, node, density, colour and share of the level above.
_FLOATS_A_SAMPLE_BLENDED = 20


def model_bytes(model: scene_model.SceneModel) -> int:
  """Bytes of a model's arrays on the device."""
  return sum(x.nbytes for x in jax.tree.leaves(model))


def is_fused(
    model: scene_model.SceneModel, spec: scene_model.ModelSpec
) -> bool:
  """Whether the node fields run in a kernel that keeps its activations."""
  name = dispatch.choose(
      'node_field',
      spec.implementation,
      lambda: native.ready(model.nodes, spec.field),
      lambda: dispatch.triton_module('node_field').ready(
          model.nodes, spec.field
      ),
  )
  return name in ('native', 'triton')


def bytes_per_ray(
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    *,
    fused: bool,
    keeps_weights: bool = False,
) -> int:
  """Upper estimate of the temporaries of one ray.

  Args:
    spec: model.
    options: sampling.
    fused: see `is_fused`; else features and activations of every sample are
      in memory at once.
    keeps_weights: whether samples' weights are an output.

  Returns:
    bytes.
  """
  floats = _FLOATS_A_SAMPLE_FUSED
  if not fused:
    grid = spec.field.grid
    # Eight corners of every grid scale: index, weight, features.
    corners = 8 * grid.num_grid_scales * (3 + grid.num_features)
    floats = _FLOATS_A_SAMPLE + corners + spec.field.hidden_width
  if options.min_weight or options.proposal_stride > 1:
    floats += 8 + spec.field.num_geometry  # kept for colours, padded
  if getattr(options.level_policy, 'blend', 0.0):
    floats += _FLOATS_A_SAMPLE_BLENDED
  samples = max(options.num_samples)
  if options.sampler == 'traverse':
    # Rows hold the gaps between samples, too, as scalars.
    samples = 2 * options.max_samples
  return 4 * (samples * (floats + bool(keeps_weights)) + _FLOATS_A_RAY)


def needed_bytes(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    ray_block: int,
    *,
    keeps_weights: bool = False,
) -> int:
  """Upper estimate of what a model and a block of rays take on the device.

  Args:
    model: scene.
    spec: static facts.
    options: sampling.
    ray_block: rays.
    keeps_weights: whether samples' weights are an output.

  Returns:
    bytes.
  """
  fused = is_fused(model, spec)
  per_ray = bytes_per_ray(
      spec, options, fused=fused, keeps_weights=keeps_weights
  )
  return model_bytes(model) + ray_block * per_ray


def choose_ray_block(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    max_memory_gb: float | None = None,
    *,
    keeps_weights: bool = False,
) -> int:
  """Rays of one device call under a budget.

  Args:
    model: scene; its parameters count.
    spec: static facts.
    options: sampling.
    max_memory_gb: bytes / 1e9; None or 0 is no limit.
    keeps_weights: whether samples' weights are an output.

  Returns:
    Number of rays, a power of two, so that few shapes are ever compiled.

  Raises:
    InputError: the budget does not hold the model and a small block.
  """
  block = _DEFAULT_BLOCK.get(jax.default_backend(), _DEFAULT_BLOCK_ELSEWHERE)
  if not max_memory_gb:
    return block
  resident = model_bytes(model)
  per_ray = bytes_per_ray(
      spec,
      options,
      fused=is_fused(model, spec),
      keeps_weights=keeps_weights,
  )
  needed = resident + _MIN_BLOCK * per_ray
  if max_memory_gb * 1e9 < needed:
    raise errors.InputError(
        f'max_memory_gb: got {max_memory_gb}, expected at least'
        f' {needed / 1e9:.3g}: the model takes {resident / 1e9:.3g} GB and the'
        f' smallest block of rays {_MIN_BLOCK * per_ray / 1e9:.2g} GB'
    )
  while block > _MIN_BLOCK and resident + block * per_ray > max_memory_gb * 1e9:
    block //= 2
  return block
