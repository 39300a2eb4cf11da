"""Renders a camera's picture in blocks of rays of one static shape.

Pictures are [H, W, ...] float32; per-pixel scalars are [H, W] here.
"""

import functools
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
from infnerf_jax.render import ray_block as ray_block_lib

OUTPUTS = (
    'rgb', 'depth', 'distance', 'opacity', 'normals', 'level', 'weights',
    'coverage', 'half_distance', 'statistics',
)  # fmt: skip
DEFAULT_OUTPUTS = ('rgb', 'depth', 'distance', 'opacity')
# Corners of tiles fill this many blocks at least: pictures with fewer, of
# whatever size, are one program.
CORNER_BLOCKS = 4


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
    coverage: [H, W] opacity of what lies within the rays' ends, which is not
      `opacity` where the options say `opaque_end`.
    half_distance: [H, W] metres along the ray to where the transmittance
      falls to one half; infinite where it never does.
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
  coverage: np.ndarray | None
  half_distance: np.ndarray | None
  statistics: RenderStatistics | None
  num_rays: int
  ray_block: int
  seconds: float


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
  if not names <= set(OUTPUTS):
    unknown = sorted(names - set(OUTPUTS))
    raise ValueError(f'outputs: got {unknown}, expected some of {OUTPUTS}')
  if 'normals' in names:
    names |= {'points', 'directions', 'opacity'}
  return tuple(sorted(names - {'normals'}))


class _Joined:
  """Blocks put together on the host."""

  def __init__(self, num_rays: int):
    self.num_rays = num_rays
    self.values = {}
    self.counts = None

  def add(self, start: int, values) -> int:
    """Stores the block that begins at ray `start`; rays stored by now."""
    values = jax.device_get(values)
    counts = values.pop('statistics', None)
    if counts is not None:
      levels = counts['samples_by_level'].astype(np.int64)
      touched = counts['touched_slots']
      if self.counts is not None:
        levels = levels + self.counts.samples_by_level
        touched = touched | self.counts.touched_slots
      self.counts = RenderStatistics(levels, touched)
    end = start
    for name, value in values.items():
      if name not in self.values:
        shape = (self.num_rays,) + value.shape[1:]
        self.values[name] = np.empty(shape, value.dtype)
      end = min(start + len(value), self.num_rays)
      self.values[name][start:end] = value[: end - start]
    return end


def _render_blocks(render_block, crop, ray_block, pixel_size, progress):
  """Runs all blocks and joins them: ({name: [H, W, ...]}, statistics)."""
  left, top, right, bottom = crop
  width, height = right - left, bottom - top
  joined, pending = _Joined(width * height), None

  def store(start, values):
    done = joined.add(start, values)
    if progress is not None:
      progress(done, joined.num_rays)

  for start in range(0, joined.num_rays, ray_block):
    integers = (start, left, top, width, joined.num_rays)
    block = ray_block_lib.Block(
        *(np.int32(i) for i in integers), np.float32(pixel_size)
    )
    values = render_block(block, ray_block)
    # The device computes a block while the host stores the one before.
    if pending is not None:
      store(*pending)
    pending = (start, values)
  store(*pending)
  shaped = {
      name: value.reshape((height, width) + value.shape[1:])
      for name, value in joined.values.items()
  }
  return shaped, joined.counts


def _is_out_of_memory(error) -> bool:
  text = str(error)
  return 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower()


def _with_smaller_blocks(run, ray_block, max_memory_gb, needed_bytes):
  """Runs with `ray_block`, once more with half of it if memory runs out."""
  half = max(1, ray_block // 2)
  for attempt in (ray_block, half):
    try:
      return run(attempt), attempt
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if not (isinstance(error, MemoryError) or _is_out_of_memory(error)):
        raise
  budget = f'{max_memory_gb} GB' if max_memory_gb else 'not set'
  raise errors.InputError(
      f'max_memory_gb: got {budget}; the device ran out of memory with blocks'
      f' of {ray_block} and of {half} rays, which need about'
      f' {needed_bytes(ray_block) / 1e9:.3g} and'
      f' {needed_bytes(half) / 1e9:.3g} GB with the model, expected a budget'
      ' below that, which makes smaller blocks'
  )


def _checked_crop(crop, size):
  """The crop within a picture of `size` (width, height)."""
  width, height = size
  crop = (0, 0, width, height) if crop is None else tuple(map(int, crop))
  left, top, right, bottom = crop
  if not (0 <= left < right <= width and 0 <= top < bottom <= height):
    raise ValueError(
        f'crop: got {crop}, expected left, top, right, bottom within a picture'
        f' of {width}x{height}'
    )
  return crop


def _single_row(camera) -> cameras_lib.Cameras:
  """A camera as a table of one row."""
  camera = cameras_lib.Cameras(*(np.asarray(x) for x in camera))
  if camera.width.ndim == 0:
    camera = cameras_lib.Cameras(*(x[None] for x in camera))
  return camera


def _propose(model, spec, cameras, options, crop, pixel_size, ray_block):
  """(Corners, touched slots) of a picture's tiles; None without tiles."""
  stride = options.proposal_stride
  if stride == 1:
    return None, False
  if len(options.num_samples) != 2 or stride < 1:
    raise ValueError(
        f'proposal_stride: got {stride} with sampling rounds'
        f' {options.num_samples}, expected 1, or more with two rounds'
    )
  # Tiles are those of the whole picture, whatever is cropped.
  left, top = crop[0] // stride, crop[1] // stride
  width = -(-crop[2] // stride) + 1 - left
  height = -(-crop[3] // stride) + 1 - top
  weights, touched = [], False
  for start in range(0, width * height, ray_block):
    integers = (start, left, top, width, width * height)
    block = ray_block_lib.Block(
        *(np.int32(i) for i in integers), np.float32(pixel_size)
    )
    part, slots = ray_block_lib.propose_block(
        model, cameras, block, spec=spec, options=options, ray_block=ray_block
    )
    weights.append(part)
    touched = touched | np.asarray(slots)
  spare = jnp.zeros_like(weights[0])
  weights += [spare] * (CORNER_BLOCKS - len(weights))
  corners = ray_block_lib.Corners(jnp.concatenate(weights), np.int32(width))
  return corners, touched


def _block_renderer(
    model, spec, camera, octree, appearance, options, background, names
):
  """A function that begins a picture and gives one that renders blocks."""
  shared = (
      scene_model.device_cameras(camera, octree),
      jnp.asarray(appearance, jnp.float32),
      jnp.asarray(background, jnp.float32),
  )

  def begin(crop, pixel_size, rays):
    corners, touched = _propose(
        model, spec, shared[0], options, crop, pixel_size, rays
    )

    def render(block, rays):
      values = ray_block_lib.render_block(
          model, *shared, block, corners,
          spec=spec, options=options, outputs=names, ray_block=rays,
      )  # fmt: skip
      if 'statistics' in values:
        counts = values['statistics']
        counts['touched_slots'] = counts['touched_slots'] | touched
      return values

    return render

  return begin


def _picked(values, outputs):
  """What was asked for out of a picture's arrays; the rest is None."""
  if 'normals' in outputs:
    normals = normals_from_points(
        values['points'], values['directions'], values['opacity']
    )
    values = {**values, 'normals': normals}
  return {
      name: values.get(name) if name in outputs else None
      for name in OUTPUTS
      if name != 'statistics'
  }


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
    crop: tuple[int, int, int, int] | None = None,
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
    crop: left, top, right, bottom in pixels of the picture: render only
      these; None is the whole picture.
    outputs: names out of `OUTPUTS`.
    progress: called with (rays done, rays in all) after every block.

  Returns:
    ImageOutputs.

  Raises:
    InputError: the budget does not hold the model, or the device is full.
  """
  start_time = time.perf_counter()
  names, camera = _device_outputs(outputs), _single_row(camera)
  size = image_size(camera, pixel_size=pixel_size, pyramid_level=pyramid_level)
  crop = _checked_crop(crop, size)
  ray_block = ray_block or memory.choose_ray_block(
      model, spec, options, max_memory_gb, keeps_weights='weights' in names
  )
  begin = _block_renderer(
      model, spec, camera, octree, appearance, options, background, names
  )
  side = pixel_size * 2.0**pyramid_level
  run = lambda rays: _render_blocks(
      begin(crop, side, rays), crop, rays, side, progress
  )
  needed = functools.partial(
      memory.needed_bytes,
      *(model, spec, options),
      keeps_weights='weights' in names,
  )
  (values, counts), ray_block = _with_smaller_blocks(
      run, ray_block, max_memory_gb, needed
  )
  return ImageOutputs(
      **_picked(values, outputs),
      statistics=counts,
      num_rays=(crop[2] - crop[0]) * (crop[3] - crop[1]),
      ray_block=ray_block,
      seconds=time.perf_counter() - start_time,
  )
