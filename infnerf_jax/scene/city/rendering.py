"""Photos, depth and single rays of the city."""

from typing import NamedTuple

import jax
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene.city import layout, native, tracing

_RAYS_PER_BLOCK = 65536
_DISC = float(1 / np.sqrt(np.pi))


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


def _lens(pix, camera: cameras_lib.Cameras):
  """Directions [R, 3] in the camera's frame and slope [R] in float64."""
  focal, center = camera.intrinsics[:2], camera.intrinsics[2:]
  plane = (pix - center) / focal
  if camera.projection == cameras_lib.ORTHOGRAPHIC:
    forward = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(pix), 3))
    return forward, np.full(len(pix), _DISC / np.sqrt(focal[0] * focal[1]))
  if camera.projection == cameras_lib.PERSPECTIVE and not np.any(
      camera.distortion
  ):
    norm = np.sqrt(1 + np.sum(plane * plane, axis=-1))
    local = np.concatenate([plane, np.ones_like(plane[:, :1])], axis=-1)
    slope = _DISC * norm**-1.5 / np.sqrt(focal[0] * focal[1])
    return local / norm[:, None], slope
  with jax.enable_x64(True):
    # Padded, so that one size is compiled.
    rows = np.minimum(np.arange(_RAYS_PER_BLOCK), len(pix) - 1)
    local, slope = _distorted_lens(
        pix[rows],
        np.full(len(rows), int(camera.projection), np.int32),
        np.asarray(camera.intrinsics),
        np.asarray(camera.distortion),
    )
    return np.asarray(local)[: len(pix)], np.asarray(slope)[: len(pix)]


_distorted_lens = jax.jit(cameras_lib.pixels_to_directions)


def pixel_rays(pix, camera: cameras_lib.Cameras):
  """Rays through pixels, in float64.

  Args:
    pix: [R, 2] float64, full-size pixel coordinates; at most 65,536 of them
      for lenses with distortion.
    camera: single row.

  Returns:
    (origins [R, 3], directions [R, 3], base [R], slope [R]); base and slope
    are those of one full-size pixel's disc.
  """
  local, slope = _lens(pix, camera)
  rotation, center = camera.cam_to_world[:, :3], camera.cam_to_world[:, 3]
  directions = local @ rotation.T
  zero = np.zeros_like(slope)
  if camera.projection != cameras_lib.ORTHOGRAPHIC:
    return np.broadcast_to(center, directions.shape), directions, zero, slope
  plane = (pix - camera.intrinsics[2:]) / camera.intrinsics[:2]
  return center + plane @ rotation[:, :2].T, directions, slope, zero


def _render_pixels(city, camera, pixels, size, num, implementation):
  """Mean colours [M, 3] and middle distances [M] of pixels [M, 2]."""
  offsets = subsample_offsets(num)
  straight = camera.projection != cameras_lib.FISHEYE and not np.any(
      camera.distortion
  )
  if straight and tracing.choose(implementation) == 'native':
    seed, radius = layout.seed_word(city), layout.radius_in_lots(city)
    block = lambda rows: native.render_pixels(
        pixels[rows], size, offsets, camera, seed, radius
    )
  else:
    block = lambda rows: _sample_pixels(
        city, camera, pixels[rows], size, offsets, implementation
    )
  per_block = max(1, _RAYS_PER_BLOCK // num**2)
  parts = tracing.run_blocks(block, len(pixels), per_block)
  return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _sample_pixels(city, camera, pixels, size, offsets, implementation):
  """What `native.render_pixels` does, for any camera and implementation."""
  num = int(round(len(offsets) ** 0.5))
  pix = (pixels[:, None, :] + offsets).reshape(-1, 2) * size
  origins, directions, base, slope = pixel_rays(pix, camera)
  share = size / num
  rgb, distance, _ = tracing.cast_block(
      city,
      origins,
      directions,
      base * share,
      slope * share,
      implementation=implementation,
  )
  rgb = rgb.reshape(-1, num**2, 3)
  return rgb.mean(axis=1), distance[num**2 // 2 :: num**2]


def render(
    city: layout.City,
    camera: cameras_lib.Cameras,
    *,
    pyramid_level: int = 0,
    pixel_size: float | None = None,
    supersampling: int = 4,
    with_depth: bool = True,
    implementation: str | None = None,
) -> View:
  """Renders one camera: pixels averaged over their area, exact depth.

  Args:
    city: from `layout.make_city`.
    camera: single row (no leading dimension).
    pyramid_level: the photo halved this many times (odd rows and columns
      left over at the lower right are dropped).
    pixel_size: full-size pixels, instead of 2**pyramid_level.
    supersampling: samples along each axis of a pixel, stratified.
    with_depth: trace the rays of pixel centres too; else depth is that of
      the sample nearest to the centre.
    implementation: 'native', 'jax' or None for the first that runs here.

  Returns:
    View with [H, W] pixels.
  """
  size = float(2**pyramid_level if pixel_size is None else pixel_size)
  height = max(1, int(int(camera.height) / size + 1e-9))
  width = max(1, int(int(camera.width) / size + 1e-9))
  rows, columns = np.mgrid[:height, :width]
  # Blocks of 16 x 16 pixels keep the rays that are traced together close.
  order = np.lexsort(
      (
          columns.ravel(),
          rows.ravel(),
          columns.ravel() // 16,
          rows.ravel() // 16,
      )
  )
  pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1)[order]
  trace = lambda num: _render_pixels(
      city, camera, pixels, size, num, implementation
  )
  rgb = np.empty((height * width, 3), np.float32)
  rgb[order], distance = trace(supersampling)
  if with_depth and supersampling > 1:
    distance = trace(1)[1]
  depth = np.empty(height * width, np.float64)
  depth[order] = distance
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
    *,
    implementation: str | None = None,
) -> View:
  """Casts arbitrary rays, one sample each.

  Args:
    city: from `layout.make_city`.
    origins: [R, 3] metres, world; float64 counts.
    directions: [R, 3] unit length.
    footprint_slope: [R] or number, cone radius per metre.
    base_radius: [R] or number, metres.
    implementation: 'native', 'jax' or None for the first that runs here.

  Returns:
    View [R].
  """
  rays = _as_rays(origins, directions, footprint_slope, base_radius)
  rgb, distance, _ = tracing.cast_rays(
      city, *rays, implementation=implementation
  )
  rgb = np.zeros((0, 3), np.float32) if rgb is None else rgb
  return View(rgb, distance, np.isfinite(distance))


def cast_rays(city: layout.City, origins, directions) -> np.ndarray:
  """Distances of arbitrary rays, without colours.

  Args:
    city: from `layout.make_city`.
    origins: [R, 3] metres, world.
    directions: [R, 3] unit length.

  Returns:
    [R] float64, metres; infinite in the sky.
  """
  rays = _as_rays(origins, directions, 0.0, 0.0)
  return tracing.cast_rays(city, *rays, with_rgb=False)[1]


def _as_rays(origins, directions, slope, base):
  """Broadcasts to [R, 3], [R, 3], [R] (base), [R] (slope), float64."""
  origins, directions = np.broadcast_arrays(
      np.atleast_2d(np.asarray(origins, np.float64)),
      np.atleast_2d(np.asarray(directions, np.float64)),
  )
  spread = lambda x: np.broadcast_to(np.asarray(x, np.float64), len(origins))
  return origins, directions, spread(base), spread(slope)
