"""Renders a camera's picture in blocks of rays of one static shape.

Pictures are [H, W, ...] float32; per-pixel scalars are [H, W] here.
"""

import functools
import math
import time
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import memory, render_rays

OUTPUTS = (
    'rgb', 'depth', 'distance', 'opacity', 'normals', 'level', 'weights',
    'statistics',
)  # fmt: skip
DEFAULT_OUTPUTS = ('rgb', 'depth', 'distance', 'opacity')
# Below this opacity a pixel shows no surface: its distance is the far end.
_MIN_OPACITY = 1e-3


class RenderStatistics(NamedTuple):
  """What a picture cost.

  Attributes:
    samples_by_level: [max_level + 1] int64, composited samples by the level
      of the node that evaluated them.
    touched_slots: [num_slots] bool, nodes addressed by a sample of any round.
  """

  samples_by_level: np.ndarray
  touched_slots: np.ndarray


class ImageOutputs(NamedTuple):
  """A rendered picture; what was not asked for is None.

  Attributes:
    rgb: [H, W, 3], composited on the background.
    depth: [H, W] metres along the optical axis.
    distance: [H, W] metres along the ray to where half of the pixel's opacity
      lies behind and half before (the mean of a roof and the street behind
      it would lie in the air); the ray's far end where it meets nothing.
    opacity: [H, W].
    normals: [H, W, 3] unit, world axes, towards the camera: of the surface
      through the neighbouring pixels' points; zero where nothing is met.
    level: [H, W] octree level that the pixel came from, the weights' mean.
    weights: [H, W, S].
    statistics: RenderStatistics.
    num_rays: H * W.
    ray_block: rays of one device call.
    seconds: wall time, a compilation included.
  """

  rgb: np.ndarray | None
  depth: np.ndarray | None
  distance: np.ndarray | None
  opacity: np.ndarray | None
  normals: np.ndarray | None
  level: np.ndarray | None
  weights: np.ndarray | None
  statistics: RenderStatistics | None
  num_rays: int
  ray_block: int
  seconds: float


class _Picture(NamedTuple):
  """Scalars on the device that say which rays a block holds."""

  start: np.ndarray
  width: np.ndarray
  num_rays: np.ndarray
  pixel_size: np.ndarray


def image_size(
    camera: cameras_lib.Cameras, *, pixel_size=1.0, pyramid_level=0
) -> tuple[int, int]:
  """(width, height) of a picture whose pixels are larger than the camera's.

  Args:
    camera: single row.
    pixel_size: width of a pixel of level 0 in full-size pixels.
    pyramid_level: further halvings.

  Returns:
    Whole pixels that fit, as the photos' pyramid counts them.
  """
  side = pixel_size * 2.0**pyramid_level
  return tuple(
      int(np.floor(float(np.squeeze(n)) / side + 1e-9))
      for n in (camera.width, camera.height)
  )


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


def _block_rays(cameras, picture, aabb, ray_block, root_side):
  """Rays of one block; padding misses the scene and so costs nothing."""
  index = picture.start + jnp.arange(ray_block, dtype=jnp.int32)
  is_real = index < picture.num_rays
  index = jnp.minimum(index, picture.num_rays - 1)
  pix = jnp.stack([index % picture.width, index // picture.width], axis=-1)
  rays = cameras_lib.camera_rays(
      cameras,
      jnp.zeros(ray_block, jnp.int32),
      (pix.astype(jnp.float32) + 0.5) * picture.pixel_size,
      jnp.full(ray_block, picture.pixel_size),
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
  """Counts of one block, see `RenderStatistics`."""
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
def _render_block(
    model,
    cameras,
    appearance,
    background,
    picture,
    *,
    spec,
    options,
    outputs,
    ray_block,
):
  """Dictionary of what a block of rays shows, [ray_block, ...] each."""
  rays, is_real = _block_rays(
      cameras, picture, model.sample_aabb, ray_block, spec.root_side
  )
  rounds = render_rays.sampling_rounds(None, model, spec, rays, options)
  appearance = jnp.broadcast_to(appearance, (ray_block, appearance.shape[-1]))
  colors = render_rays.shade_samples(
      model, spec, rounds[-1], render_rays.ray_inputs(rays, appearance)
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


def normals_from_points(points, directions, opacity) -> np.ndarray:
  """Normals of the surface that the pixels' points span.

  Central differences over neighbouring pixels: noise of single densities,
  which their gradient would show, averages out.

  Args:
    points: [H, W, 3] metres.
    directions: [H, W, 3] of the rays.
    opacity: [H, W].

  Returns:
    [H, W, 3] unit, against the rays; zero where the opacity is below 1/2.
  """
  if min(points.shape[:2]) < 2:
    return np.zeros_like(points)
  down, right = np.gradient(points.astype(np.float64), axis=(0, 1))
  normals = np.cross(right, down)
  length = np.linalg.norm(normals, axis=-1, keepdims=True)
  normals = normals / np.maximum(length, 1e-30)
  towards = np.sum(normals * directions, axis=-1, keepdims=True) > 0
  normals = np.where(towards, -normals, normals)
  return np.where(opacity[..., None] > 0.5, normals, 0).astype(np.float32)


def _device_outputs(outputs):
  """What the device returns for the outputs asked for, in a fixed order."""
  names = set(outputs)
  if 'normals' in names:
    names |= {'points', 'directions', 'opacity'}
  return tuple(sorted(names - {'normals'}))


def _render_blocks(render_block, size, ray_block, pixel_size, progress):
  """Runs all blocks and joins them: {name: [H, W, ...]}, statistics summed."""
  width, height = size
  num_rays = width * height
  joined, statistics, pending = {}, None, None

  def fetch(start, values):
    nonlocal statistics
    values = jax.device_get(values)
    counts = values.pop('statistics', None)
    if counts is not None:
      counts['samples_by_level'] = counts['samples_by_level'].astype(np.int64)
      if statistics is None:
        statistics = counts
      else:
        statistics['samples_by_level'] += counts['samples_by_level']
        statistics['touched_slots'] = (
            statistics['touched_slots'] | counts['touched_slots']
        )
    count = min(ray_block, num_rays - start)
    for name, value in values.items():
      if name not in joined:
        joined[name] = np.empty((num_rays,) + value.shape[1:], value.dtype)
      joined[name][start : start + count] = value[:count]
    if progress is not None:
      progress(start + count, num_rays)

  for start in range(0, num_rays, ray_block):
    picture = _Picture(
        np.int32(start), np.int32(width), np.int32(num_rays),
        np.float32(pixel_size),
    )  # fmt: skip
    values = render_block(picture, ray_block)
    # The device computes a block while the host stores the one before.
    if pending is not None:
      fetch(*pending)
    pending = (start, values)
  fetch(*pending)
  shaped = {
      k: v.reshape((height, width) + v.shape[1:]) for k, v in joined.items()
  }
  return shaped, statistics


def _is_out_of_memory(error) -> bool:
  text = str(error)
  return 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower()


def _with_smaller_blocks(run, ray_block, max_memory_gb):
  """Runs with `ray_block`, once more with half of it if memory runs out."""
  for attempt in (ray_block, max(1, ray_block // 2)):
    try:
      return run(attempt), attempt
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if not (isinstance(error, MemoryError) or _is_out_of_memory(error)):
        raise
  budget = f'{max_memory_gb} GB' if max_memory_gb else 'not set'
  raise errors.InputError(
      f'max_memory_gb: got {budget}; the device ran out of memory with blocks'
      f' of {ray_block} and of {max(1, ray_block // 2)} rays, expected a'
      ' smaller budget, which makes smaller blocks'
  )


def render_image(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    camera: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    appearance,
    options: render_rays.RenderOptions = render_rays.RenderOptions(),
    *,
    background=(0.0, 0.0, 0.0),
    ray_block: int | None = None,
    max_memory_gb: float | None = None,
    pyramid_level: int = 0,
    pixel_size: float = 1.0,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    progress: Callable[[int, int], None] | None = None,
) -> ImageOutputs:
  """Renders what a camera sees; the same arguments give the same bits.

  Args:
    model: scene.
    spec: static facts.
    camera: a single row (no leading dimension, or one of length 1).
    octree: the host's tree, which places the camera in root units in float64.
    appearance: [A] embedding.
    options: sampling.
    background: [3] rgb behind everything.
    ray_block: rays of one device call; None derives it.
    max_memory_gb: bytes / 1e9 that parameters and temporaries may take on the
      device; None or 0 is no limit.
    pyramid_level: 1 renders half the size with pixels (and footprints) of
      twice the width, and so on.
    pixel_size: width of a pixel of level 0 in full-size pixels.
    outputs: names out of `OUTPUTS`.
    progress: called with (rays done, rays in all) after every block.

  Returns:
    ImageOutputs.

  Raises:
    InputError: the budget does not hold the model, or the device is full.
  """
  unknown = sorted(set(outputs) - set(OUTPUTS))
  if unknown:
    raise ValueError(f'outputs: got {unknown}, expected some of {OUTPUTS}')
  start_time = time.perf_counter()
  camera = cameras_lib.Cameras(*(np.asarray(x) for x in camera))
  if camera.width.ndim == 0:
    camera = cameras_lib.Cameras(*(x[None] for x in camera))
  size = image_size(camera, pixel_size=pixel_size, pyramid_level=pyramid_level)
  if min(size) < 1:
    raise ValueError(f'got a picture of {size[0]}x{size[1]} pixels')
  names = _device_outputs(outputs)
  if ray_block is None:
    ray_block = memory.choose_ray_block(
        model, spec, options, max_memory_gb, keeps_weights='weights' in names
    )
  device_arguments = (
      scene_model.device_cameras(camera, octree),
      jnp.asarray(appearance, jnp.float32),
      jnp.asarray(background, jnp.float32),
  )
  render_block = lambda picture, block: _render_block(
      model, *device_arguments, picture,
      spec=spec, options=options, outputs=names, ray_block=block,
  )  # fmt: skip
  side = pixel_size * 2.0**pyramid_level
  run = lambda block: _render_blocks(render_block, size, block, side, progress)
  (values, counts), ray_block = _with_smaller_blocks(
      run, ray_block, max_memory_gb
  )
  if 'normals' in outputs:
    values['normals'] = normals_from_points(
        values['points'], values['directions'], values['opacity']
    )
  kept = {
      name: values.get(name) if name in outputs else None
      for name in OUTPUTS
      if name != 'statistics'
  }
  return ImageOutputs(
      **kept,
      statistics=None if counts is None else RenderStatistics(**counts),
      num_rays=size[0] * size[1],
      ray_block=ray_block,
      seconds=time.perf_counter() - start_time,
  )
