"""How many rays fit on the device at once."""

import jax

from infnerf_jax import errors
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays

# Large enough to hide the cost of a call; on a CPU more only leaves the cache.
_DEFAULT_BLOCK = {'cpu': 8192}
_DEFAULT_BLOCK_ELSEWHERE = 65536
_MIN_BLOCK = 64
# Floats of a sample apart from its features: distances, position, node, level,
# density, colour, weight, and the copies that fusion leaves.
_FLOATS_A_SAMPLE = 40
_FLOATS_A_RAY = 128


def model_bytes(model: scene_model.SceneModel) -> int:
  """Bytes of a model's arrays on the device."""
  return sum(x.nbytes for x in jax.tree.leaves(model))


def bytes_per_ray(
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    *,
    keeps_weights: bool = False,
) -> int:
  """Upper estimate of the temporaries of one ray.

  It assumes that features and activations of every sample are written to
  memory, as compiled array programs do; fused kernels stay far below.

  Args:
    spec: model.
    options: sampling.
    keeps_weights: whether samples' weights are an output.

  Returns:
    bytes.
  """
  field = spec.field
  encoded = field.grid.num_grid_scales * field.grid.num_features
  activations = (
      2 * field.hidden_width + field.num_geometry + field.ray_input_dim
  )
  # Lookups read eight corners of a grid scale at a time.
  floats = _FLOATS_A_SAMPLE + 3 * encoded + 2 * activations + 16
  samples = max(options.num_samples) + bool(keeps_weights)
  return 4 * (samples * floats + _FLOATS_A_RAY)


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
  per_ray = bytes_per_ray(spec, options, keeps_weights=keeps_weights)
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
