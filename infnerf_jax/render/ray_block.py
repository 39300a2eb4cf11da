"""One block of a picture's rays on the device: one shape, one compilation."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.render import (
  render_rays,
  shared_proposals,
  traversed_rays,
  visible,
)  # fmt: skip

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


def coverage(density, tdist):
  """Opacity of what lies within rays' ends, and where half of it is passed.

  Unlike the weights of `opaque_end`, the last interval ends where it ends.

  Args:
    density: [R, S] per metre.
    tdist: [R, S + 1] metres.

  Returns:
    ([R] opacity, [R] metres to where the transmittance falls to one half;
    infinite where it never does).
  """
  delta = tdist[:, 1:] - tdist[:, :-1]
  depth = density * delta
  before = jnp.cumsum(depth, axis=-1) - depth
  # Within the interval that passes it, depth grows evenly; earlier ones count
  # whole, later ones not at all.
  share = jnp.clip((math.log(2) - before) / jnp.maximum(depth, 1e-12), 0.0, 1.0)
  half = tdist[:, 0] + jnp.sum(share * delta, axis=-1)
  total = jnp.sum(depth, axis=-1)
  return -jnp.expm1(-total), jnp.where(total >= math.log(2), half, jnp.inf)


def _places(block, ray_block):
  """([R] column, [R] row, [R] whether it is in the picture) of a Block."""
  index = block.start + jnp.arange(ray_block, dtype=jnp.int32)
  is_real = index < block.num_rays
  index = jnp.minimum(index, block.num_rays - 1)
  return index % block.width, index // block.width, is_real


def block_rays(cameras, block, aabb, ray_block, root_side, offset=0.5):
  """Rays of one block; padding misses the scene and so costs nothing.

  Args:
    cameras: DeviceCameras [1].
    block: Block.
    aabb: [2, 3] root units.
    ray_block: rays.
    root_side: metres.
    offset: of a ray in its pixel, 0.5 is the middle.

  Returns:
    (Rays [ray_block], [ray_block] bool whether they are in the picture).
  """
  column, row, is_real = _places(block, ray_block)
  pix = jnp.stack([column + block.left, row + block.top], axis=-1)
  rays = cameras_lib.camera_rays(
      cameras,
      jnp.zeros(ray_block, jnp.int32),
      (pix.astype(jnp.float32) + offset) * block.pixel_size,
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


def touched_slots(rounds, is_real, num_slots):
  """[num_slots] bool, slots that samples of any round address."""
  touched = jnp.zeros(num_slots + 1, bool)
  slots = [samples.slot for samples in rounds]
  slots += [s.coarse.slot for s in rounds if s.coarse is not None]
  for slot in slots:
    slot = jnp.where(is_real[:, None] & (slot >= 0), slot, num_slots)
    touched = touched.at[slot.reshape(-1)].set(True)
  return touched[:num_slots]


def _statistics(rounds, is_real, spec, num_slots):
  """Counts of one block, see `render_image.RenderStatistics`."""
  last = rounds[-1]
  counted = is_real[:, None] & (last.slot >= 0)
  levels = [
      jnp.sum(counted & (last.level == level))
      for level in range(spec.max_level + 1)
  ]
  return {
      'samples_by_level': jnp.stack(levels),
      'touched_slots': touched_slots(rounds, is_real, num_slots),
  }


def _shade(model, spec, samples, inputs, options):
  """RayColors of the last round."""
  is_exact = options.proposal_stride == 1
  if is_exact and not (options.min_weight or options.stop_below):
    return render_rays.shade_samples(
        model, spec, samples, inputs, opaque_end=options.opaque_end
    )
  return visible.shade_visible(
      model, spec, samples, inputs,
      min_weight=options.min_weight, stop_below=options.stop_below,
      opaque_end=options.opaque_end,
  )  # fmt: skip


def _pixels(colors, rays, cameras, background, spec):
  """{name: [R, ...]} of all that a block can show."""
  opacity = colors.opacity[:, 0]
  covered, half_distance = coverage(colors.density, colors.samples.tdist)
  distance = surface_distance(colors.weights, colors.samples.tdist)
  axis = cameras.rotation[0, :, 2]
  shift = (rays.origins_lo - cameras.origins_lo[0]) * spec.root_side
  level = jnp.sum(colors.weights * colors.samples.level, axis=-1)
  return {
      'rgb': colors.rgb + (1 - colors.opacity) * background,
      'depth': distance * jnp.sum(rays.directions * axis, axis=-1),
      'distance': distance,
      'opacity': opacity,
      'level': level / jnp.maximum(opacity, 1e-6),
      'weights': colors.weights,
      'coverage': covered,
      'half_distance': half_distance,
      # Of the surface, from the camera's centre, world axes, metres.
      'points': shift + distance[:, None] * rays.directions,
      'directions': rays.directions,
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
    sdist=None,
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
    sdist: [ray_block, S + 1] interval ends of the last round where tiles
      share proposals, else None.
    spec: static facts.
    options: sampling.
    outputs: names of what is returned, in a fixed order.
    ray_block: rays, those beyond the picture's end included.

  Returns:
    {name: [ray_block, ...]}, and `statistics`, counts of the whole block.
  """
  rays, is_real = block_rays(
      cameras, block, model.sample_aabb, ray_block, spec.root_side
  )
  appearance = jnp.broadcast_to(appearance, (ray_block, appearance.shape[-1]))
  inputs = render_rays.ray_inputs(rays, appearance)
  if options.sampler == 'traverse':
    colors = traversed_rays.render_by_traversal(
        model, spec, rays, inputs, options
    )
    rounds = (colors.samples,)
  else:
    if sdist is None:
      rounds = render_rays.sampling_rounds(None, model, spec, rays, options)
    else:
      last = shared_proposals.last_round(model, spec, rays, options, sdist)
      rounds = (last,)
    colors = _shade(model, spec, rounds[-1], inputs, options)
  values = _pixels(colors, rays, cameras, background, spec)
  wanted = {name: values[name] for name in outputs if name in values}
  if 'statistics' in outputs:
    num_slots = jax.tree.leaves(model.nodes)[0].shape[0]
    wanted['statistics'] = _statistics(rounds, is_real, spec, num_slots)
  return wanted
