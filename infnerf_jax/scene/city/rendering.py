"""Photos, depth and single rays of the city."""

import concurrent.futures
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene.city import layout, materials, raycast

# Rays that walk together; small enough for the L2 cache and for neighbours
# to need about the same number of steps.
TILE = 4096
_TILES_PER_CALL = 16
_NUM_THREADS = 2
# Adaptive supersampling refines pixels that differ by more than this from
# any of their neighbours or inside themselves.
_CONTRAST = 0.025
_SHADOW_OFFSET = 2e-3  # metres, off the surface towards its normal
_PIXEL_PER_DISC = float(np.sqrt(np.pi))  # width of a square of a disc's area


class View(NamedTuple):
  """What rays hit.

  Attributes:
    rgb: [..., 3] float32 in [0, 1].
    depth: [...] float64, metres along the ray (distance, not z); infinite in
      the sky.
    valid: [...] bool, False in the sky.
  """

  rgb: np.ndarray
  depth: np.ndarray
  valid: np.ndarray


def _shade(hit, direction, width, seed, radius):
  """[T] colours of hits, three float32."""
  thin = tuple(d.astype(jnp.float32) for d in direction)
  surface = materials.surface_at(hit, width, seed)
  facing = -sum(n * d for n, d in zip(surface.normal, thin))
  # An oblique sample is longer than wide; the geometric mean of both is the
  # best single width.
  stretch = jax.lax.rsqrt(jnp.clip(jnp.abs(facing), 0.04, 1.0))
  surface = surface._replace(width=width * stretch)
  color = materials.albedo(surface, radius, seed)
  shadow = _in_shadow(surface, seed, radius)
  light = materials.light(surface, shadow)
  seen = hit.shape != raycast.NOTHING
  return tuple(
      jnp.clip(jnp.where(seen, c * light, s), 0.0, 1.0)
      for c, s in zip(color, materials.sky(thin))
  )


def _in_shadow(surface: materials.Surface, seed, radius):
  """[T] bool, whether something stands between a hit and the sun."""
  hit, normal = surface.hit, surface.normal
  sun = tuple(np.float32(d) for d in materials.SUN)
  facing = sum(n * d for n, d in zip(normal, sun))
  start = tuple(p + n * _SHADOW_OFFSET for p, n in zip(hit.local, normal))
  inside = (jnp.abs(hit.lot_x) <= radius) & (jnp.abs(hit.lot_y) <= radius)
  near = inside & (facing > 0) & (hit.shape != raycast.NOTHING)
  # Shadows end at the city's edge, except where a ray would leave it anyway.
  end = (np.float32(layout.MAX_HEIGHT) - start[2]) / sun[2]
  for lot, local, step in (
      (hit.lot_x, start[0], sun[0]),
      (hit.lot_y, start[1], sun[1]),
  ):
    side = jnp.where(step > 0, radius + 1 - lot, lot + radius)
    room = side.astype(jnp.float32) * np.float32(layout.LOT)
    room = jnp.where(step > 0, room - local, room + local)
    end = jnp.minimum(end, room / abs(step))
  direction = tuple(jnp.full_like(surface.width, d) for d in sun)
  _, shape, _, _, _ = raycast.walk_lots(
      hit.lot_x, hit.lot_y, start, direction, jnp.where(near, end, -1.0), seed
  )
  return shape != raycast.NOTHING


def _cast_tile(origin, direction, base, slope, seed, radius):
  """Hits and colours of one tile; `base` and `slope` give disc radii."""
  hit = raycast.cast(origin, direction, seed, radius)
  reach = jnp.where(jnp.isfinite(hit.distance), hit.distance, 1.0)
  width = (base + slope * reach) * _PIXEL_PER_DISC
  width = jnp.maximum(width, 1e-5).astype(jnp.float32)
  return hit, _shade(hit, direction, width, seed, radius)


@jax.jit
def _cast_tiles(origin, direction, base, slope, seed, radius):
  """rgb [N, T, 3], distance [N, T], steps [N] of tiles of rays."""

  def one(args):
    hit, rgb = _cast_tile(*args, seed, radius)
    return jnp.stack(rgb, axis=-1), hit.distance, hit.num_steps

  return jax.lax.map(one, (origin, direction, base, slope))


def subsample_offsets(num: int) -> np.ndarray:
  """Sample positions in a pixel: num x num strata, each row and column once.

  The canonical arrangement of multi-jittered sampling: num**2 different x and
  num**2 different y, so that upright edges are resolved to 1 / num**2.

  Args:
    num: samples along one axis.

  Returns:
    [num**2, 2] float64 in (0, 1).
  """
  i, j = np.meshgrid(np.arange(num), np.arange(num), indexing='ij')
  x = (i + (j + 0.5) / num) / num
  y = (j + (i + 0.5) / num) / num
  return np.stack([x.ravel(), y.ravel()], axis=-1)


def _pixel_rays(pix, camera: cameras_lib.Cameras, projection, distorted):
  """Origins, directions (three arrays each), base and slope of pixels.

  Base and slope are those of one full-size pixel.
  """
  kind = jnp.full(pix.shape[:-1], projection, jnp.int32)
  if projection == cameras_lib.PERSPECTIVE and not distorted:
    plane = (pix - camera.intrinsics[2:]) / camera.intrinsics[:2]
    norm = jnp.sqrt(1 + jnp.sum(plane * plane, axis=-1))
    local = [plane[..., 0] / norm, plane[..., 1] / norm, 1 / norm]
    disc = 1 / (np.pi * camera.intrinsics[0] * camera.intrinsics[1])
    slope = jnp.sqrt(disc * norm**-3)
  else:
    direction, slope = cameras_lib.pixels_to_directions(
        pix, kind, camera.intrinsics, camera.distortion
    )
    local = [direction[..., i] for i in range(3)]
  pose = camera.cam_to_world
  rotate = lambda v: tuple(
      pose[i, 0] * v[0] + pose[i, 1] * v[1] + pose[i, 2] * v[2]
      for i in range(3)
  )
  origin = tuple(jnp.full(slope.shape, pose[i, 3]) for i in range(3))
  zero = jnp.zeros_like(slope)
  if projection != cameras_lib.ORTHOGRAPHIC:
    return origin, rotate(local), zero, slope
  plane = (pix - camera.intrinsics[2:]) / camera.intrinsics[:2]
  shift = rotate([plane[..., 0], plane[..., 1], zero])
  origin = tuple(o + s for o, s in zip(origin, shift))
  return origin, rotate(local), slope, zero


@functools.partial(jax.jit, static_argnames=('projection', 'distorted'))
def _render_tiles(
    corner, offsets, camera, pixel_size, seed, radius, *, projection, distorted
):
  """Mean, range over samples and distance of pixels.

  Args:
    corner: [N, P, 2] float64, upper left corners in full-size pixels.
    offsets: [K, 2] float64, samples within a pixel.
    camera: single row of float64 arrays.
    pixel_size: float64, full-size pixels.

  Returns:
    ([N, P, 3] mean colour, [N, P] float32 contrast, [N, P, K] float64
    distances).
  """
  num = offsets.shape[0]

  def one(start):
    pix = start[:, None, :] + offsets * pixel_size  # [P, K, 2]
    rays = _pixel_rays(pix.reshape(-1, 2), camera, projection, distorted)
    origin, direction, base, slope = rays
    share = pixel_size / np.sqrt(num)
    hit, rgb = _cast_tile(
        origin, direction, base * share, slope * share, seed, radius
    )
    rgb = jnp.stack([c.reshape(-1, num) for c in rgb], axis=-1)  # [P, K, 3]
    contrast = jnp.max(jnp.max(rgb, axis=1) - jnp.min(rgb, axis=1), axis=-1)
    return jnp.mean(rgb, axis=1), contrast, hit.distance.reshape(-1, num)

  return jax.lax.map(one, corner)


def _in_blocks(function, num_rows: int, rows_per_tile: int):
  """Calls `function(rows [N, T] int64)` over blocks of tiles, two at once."""
  num_tiles = -(-num_rows // rows_per_tile)
  rows = np.minimum(np.arange(num_tiles * rows_per_tile), num_rows - 1)
  rows = rows.reshape(num_tiles, rows_per_tile)
  blocks, start = [], 0
  while start < num_tiles:
    # Powers of two only, so that few shapes are compiled.
    size = min(_TILES_PER_CALL, 1 << ((num_tiles - start).bit_length() - 1))
    blocks.append(rows[start : start + size])
    start += size
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    results = list(pool.map(function, blocks))
  flatten = lambda parts: np.concatenate(
      [p.reshape((-1,) + p.shape[2:]) for p in parts]
  )[:num_rows]
  return tuple(flatten(parts) for parts in zip(*results, strict=True))


def _render_pixels(city, camera, pixels, pixel_size, num):
  """Mean [M, 3], contrast [M], distances [M, num**2] of pixels [M, 2]."""
  offsets = subsample_offsets(num)
  seed, radius = layout.seed_word(city), layout.radius_in_lots(city)
  row = camera._replace(
      projection=np.int32(0), width=np.int32(0), height=np.int32(0)
  )
  row = cameras_lib.Cameras(*(np.asarray(x) for x in row))

  def block(rows):
    with jax.enable_x64(True):
      result = _render_tiles(
          pixels[rows].astype(np.float64) * pixel_size,
          offsets,
          row,
          np.float64(pixel_size),
          seed,
          np.int32(radius),
          projection=int(camera.projection),
          distorted=bool(np.any(camera.distortion)),
      )
      return tuple(np.asarray(r) for r in result)

  return _in_blocks(block, len(pixels), max(1, TILE // num**2))


def _needs_more(rgb, contrast):
  """Pixels [H, W] that one more pass of samples may change visibly."""
  padded = np.pad(rgb, ((1, 1), (1, 1), (0, 0)), mode='edge')
  height, width = contrast.shape
  windows = [
      padded[i : i + height, j : j + width] for i in range(3) for j in range(3)
  ]
  spread = np.max(windows, axis=0) - np.min(windows, axis=0)
  return np.maximum(contrast, np.max(spread, axis=-1) / 2) > _CONTRAST


def render(
    city: layout.City,
    camera: cameras_lib.Cameras,
    *,
    pyramid_level: int = 0,
    pixel_size: float | None = None,
    supersampling: int = 4,
    adaptive: bool = False,
    with_depth: bool = True,
) -> View:
  """Renders one camera: pixels averaged over their area, exact depth.

  Args:
    city: from `layout.make_city`.
    camera: single row (no leading dimension).
    pyramid_level: the photo halved this many times (odd rows and columns
      left over at the lower right are dropped).
    pixel_size: full-size pixels, instead of 2**pyramid_level.
    supersampling: samples along each axis of a pixel, stratified.
    adaptive: first 2 x 2 samples a pixel, and all of them only where samples
      of the pixel or of its neighbours differ.
    with_depth: trace the rays of pixel centres too; else depth is that of
      the sample nearest to the centre.

  Returns:
    View with [H, W] pixels.
  """
  size = float(2**pyramid_level if pixel_size is None else pixel_size)
  height = max(1, int(int(camera.height) / size + 1e-9))
  width = max(1, int(int(camera.width) / size + 1e-9))
  rows, columns = np.mgrid[:height, :width]
  # Blocks of 8 x 8 pixels keep the rays of a tile together.
  order = np.lexsort(
      (columns.ravel(), rows.ravel(), columns.ravel() // 8, rows.ravel() // 8)
  )
  pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1)[order]
  first = min(2, supersampling) if adaptive else supersampling
  result = _render_pixels(city, camera, pixels, size, first)
  rgb, depth = np.empty((height * width, 3), np.float32), None
  rgb[order] = result[0]
  if first < supersampling:
    contrast = np.empty(height * width, np.float32)
    contrast[order] = result[1]
    again = _needs_more(
        rgb.reshape(height, width, 3), contrast.reshape(height, width)
    ).ravel()[order]
    if again.any():
      finer = _render_pixels(city, camera, pixels[again], size, supersampling)
      rgb[order[again]] = finer[0]
  if with_depth:
    result = _render_pixels(city, camera, pixels, size, 1)
  depth = np.empty(height * width, np.float64)
  depth[order] = result[2][:, result[2].shape[1] // 2]
  return View(
      rgb=rgb.reshape(height, width, 3),
      depth=depth.reshape(height, width),
      valid=np.isfinite(depth).reshape(height, width),
  )


def render_rays(
    city: layout.City,
    origins,
    directions,
    footprint_slope=0.0,
    base_radius=0.0,
) -> tuple[View, int]:
  """Casts arbitrary rays, one sample each.

  Args:
    city: from `layout.make_city`.
    origins: [R, 3] metres, world; float64 counts.
    directions: [R, 3] unit length.
    footprint_slope: [R] or number, cone radius per metre.
    base_radius: [R] or number, metres.

  Returns:
    (View [R], largest number of lots that a ray walked).
  """
  origins = np.atleast_2d(np.asarray(origins, np.float64))
  directions = np.broadcast_to(
      np.asarray(directions, np.float64), origins.shape
  )
  num = len(origins)
  if not num:
    empty = np.zeros(0)
    return View(np.zeros((0, 3), np.float32), empty, empty > 0), 0
  slope = np.broadcast_to(np.asarray(footprint_slope, np.float64), num)
  base = np.broadcast_to(np.asarray(base_radius, np.float64), num)
  seed, radius = layout.seed_word(city), layout.radius_in_lots(city)

  def block(rows):
    with jax.enable_x64(True):
      rgb, distance, steps = _cast_tiles(
          tuple(origins[rows, i] for i in range(3)),
          tuple(directions[rows, i] for i in range(3)),
          base[rows],
          slope[rows],
          seed,
          np.int32(radius),
      )
      steps = np.broadcast_to(np.asarray(steps)[:, None], rows.shape)
      return np.asarray(rgb), np.asarray(distance), steps

  rgb, distance, steps = _in_blocks(block, num, TILE)
  return View(rgb, distance, np.isfinite(distance)), int(steps.max())


def cast_rays(city: layout.City, origins, directions) -> np.ndarray:
  """Distances of arbitrary rays, without colours.

  Args:
    city: from `layout.make_city`.
    origins: [R, 3] metres, world.
    directions: [R, 3] unit length.

  Returns:
    [R] float64, metres; infinite in the sky.
  """
  return render_rays(city, origins, directions)[0].depth
