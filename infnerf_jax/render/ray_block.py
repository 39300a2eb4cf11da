"""One block of a picture's rays on the device: one shape, one compilation."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.render import render_rays

# Below this opacity a pixel shows no surface: its distance is the far end.
_MIN_OPACITY = 1e-3


class Block(NamedTuple):
  """Which rays of a picture a block holds; scalars.

  Attributes:
    start: int32, first ray, row by row.
    left: int32, column of the picture that the first column shows.
    top: int32, likewise for rows.
    width: int32, columns.
    num_rays: int32, rays of the whole picture.
    pixel_size: float32, width of a pixel in full-size pixels.
  """

  start: np.ndarray
  left: np.ndarray
  top: np.ndarray
  width: np.ndarray
  num_rays: np.ndarray
  pixel_size: np.ndarray


def surface_distance(weights, tdist):
  """Distance before which half of a ray's weight lies.

  Args:
    weights: [R, S].
    tdist: [R, S + 1] metres.

  Returns:
    [R] metres; the far end where the ray meets nothing.
  """
  opacity = jnp.sum(weights, axis=-1)
  before = jnp.cumsum(weights, axis=-1) - weights
  # Share of every interval that lies before the median: one, a fraction, zero.
  share = jnp.clip(
      (0.5 * opacity[:, None] - before) / jnp.maximum(weights, 1e-12), 0.0, 1.0
  )
  delta = tdist[:, 1:] - tdist[:, :-1]
  distance = tdist[:, 0] + jnp.sum(share * delta, axis=-1)
  return jnp.where(opacity > _MIN_OPACITY, distance, tdist[:, -1])


def _block_rays(cameras, block, aabb, ray_block, root_side):
  """Rays of one block; padding misses the scene and so costs nothing."""
  index = block.start + jnp.arange(ray_block, dtype=jnp.int32)
  is_real = index < block.num_rays
  index = jnp.minimum(index, block.num_rays - 1)
  column, row = index % block.width, index // block.width
  pix = jnp.stack([column + block.left, row + block.top], axis=-1)
  rays = cameras_lib.camera_rays(
      cameras,
      jnp.zeros(ray_block, jnp.int32),
      (pix.astype(jnp.float32) + 0.5) * block.pixel_size,
      jnp.full(ray_block, block.pixel_size),
      root_side=root_side,
  )
  outside, away = aabb[1] + 1.0, jnp.full(3, 1 / math.sqrt(3))
  return (
      rays._replace(
          origins=jnp.where(is_real[:, None], rays.origins, outside),
          directions=jnp.where(is_real[:, None], rays.directions, away),
      ),
      is_real,
  )


def _statistics(rounds, is_real, spec, num_slots):
  """Counts of one block, see `render_image.RenderStatistics`."""
  last = rounds[-1]
  counted = is_real[:, None] & (last.slot >= 0)
  levels = [
      jnp.sum(counted & (last.level == level))
      for level in range(spec.max_level + 1)
  ]
  touched = jnp.zeros(num_slots + 1, bool)
  for samples in rounds:
    addressed = is_real[:, None] & (samples.slot >= 0)
    slot = jnp.where(addressed, samples.slot, num_slots)
    touched = touched.at[slot.reshape(-1)].set(True)
  return {
      'samples_by_level': jnp.stack(levels),
      'touched_slots': touched[:num_slots],
  }


@functools.partial(
    jax.jit, static_argnames=('spec', 'options', 'outputs', 'ray_block')
)
def render_block(
    model,
    cameras,
    appearance,
    background,
    block,
    *,
    spec,
    options,
    outputs,
    ray_block,
):
  """Renders one block of rays of one camera.

  Args:
    model: scene.
    cameras: DeviceCameras [1].
    appearance: [A].
    background: [3] rgb.
    block: Block.
    spec: static facts.
    options: sampling.
    outputs: names of what is returned, in a fixed order.
    ray_block: rays, those beyond the picture's end included.

  Returns:
    {name: [ray_block, ...]}, and `statistics`, counts of the whole block.
  """
  rays, is_real = _block_rays(
      cameras, block, model.sample_aabb, ray_block, spec.root_side
  )
  rounds = render_rays.sampling_rounds(None, model, spec, rays, options)
  appearance = jnp.broadcast_to(appearance, (ray_block, appearance.shape[-1]))
  colors = render_rays.shade_samples(
      model,
      spec,
      rounds[-1],
      render_rays.ray_inputs(rays, appearance),
      opaque_end=options.opaque_end,
  )
  opacity = colors.opacity[:, 0]
  distance = surface_distance(colors.weights, colors.samples.tdist)
  axis = cameras.rotation[0, :, 2]
  shift = (rays.origins_lo - cameras.origins_lo[0]) * spec.root_side
  level = jnp.sum(colors.weights * colors.samples.level, axis=-1)
  values = {
      'rgb': colors.rgb + (1 - colors.opacity) * background,
      'depth': distance * jnp.sum(rays.directions * axis, axis=-1),
      'distance': distance,
      'opacity': opacity,
      'level': level / jnp.maximum(opacity, 1e-6),
      'weights': colors.weights,
      # Of the surface, from the camera's centre, world axes, metres.
      'points': shift + distance[:, None] * rays.directions,
      'directions': rays.directions,
  }
  wanted = {name: values[name] for name in outputs if name in values}
  if 'statistics' in outputs:
    num_slots = jax.tree.leaves(model.nodes)[0].shape[0]
    wanted['statistics'] = _statistics(rounds, is_real, spec, num_slots)
  return wanted
