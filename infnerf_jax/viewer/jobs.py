"""Longer work for one client, in pieces between which others are served."""

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.render import render_image
from infnerf_jax.viewer import measure, pictures, render_loop, schedule, views
from infnerf_jax.viewer import renderer as renderer_lib

# Rays of a piece.
_PIECE = 8192
# Places along a profile; cells along the longer side of a volume's grid.
_PROFILE_PLACES = 256
_GRID_CELLS = 192
# Seconds that a piece may wait for its turn.
_TIMEOUT = 120.0


def _in_pieces(loop, function, camera, pixel_size, *args) -> np.ndarray:
  """Rows of a camera's picture by a function of (renderer, part, *args)."""
  width, height = render_image.image_size(camera, pixel_size=pixel_size)
  rows = loop.call(
      lambda r: schedule.band_rows(width, height, _PIECE, r.limits)
  ).result(_TIMEOUT)
  parts = []
  for top in range(0, height, rows):
    bottom = min(top + rows, height)
    part = views.part_of(
        camera, 0.0, top * pixel_size, width * pixel_size,
        (bottom - top) * pixel_size,
    )  # fmt: skip
    parts.append(loop.call(function, part, *args).result(_TIMEOUT))
  return np.concatenate(parts)


def picture(
    loop: render_loop.RenderLoop,
    camera: cameras_lib.Cameras,
    appearance,
    *,
    max_width: int,
) -> np.ndarray:
  """A camera's whole picture.

  Args:
    loop: renders.
    camera: a single row, such as a photo's.
    appearance: [A].
    max_width: pixels.

  Returns:
    [H, W, 3] uint8.
  """
  size = max(1.0, float(camera.width) / max_width)

  def render(renderer, part):
    return pictures.to_bytes(renderer.render(part, size, appearance).rgb)

  return _in_pieces(loop, render, camera, size)


def spot(loop, camera, u: float, v: float, appearance) -> renderer_lib.Spot:
  """What lies under a place of a picture; see `Renderer.spot`."""
  job = lambda renderer: renderer.spot(camera, u, v, appearance)
  return loop.call(job).result(_TIMEOUT)


def _heights(loop, camera, level, appearance) -> np.ndarray:
  job = lambda renderer, part: renderer.heights(part, level, appearance)
  return _in_pieces(loop, job, camera, 1.0)


def profile(
    loop: render_loop.RenderLoop, level: views.Level, points, appearance
) -> measure.Profile:
  """Heights of the surface along a line, seen from above.

  Args:
    loop: renders.
    level: axes.
    points: [N, 3] world points of the line, N >= 2.
    appearance: [A].

  Returns:
    Profile.
  """
  points = level.to_level(points)
  top = loop.call(lambda r: r.top(level)).result(_TIMEOUT)
  total = max(measure.plan_length(points), 1e-9)
  along, heights, before = [], [], 0.0
  for start, end in zip(points[:-1], points[1:], strict=True):
    way = (end - start)[:2]
    size = float(np.linalg.norm(way))
    if size < 1e-9:
      continue
    count = max(2, round(_PROFILE_PLACES * size / total))
    gsd = size / count
    # The line runs through the middle of the one row of pixels.
    right = np.array([way[1], -way[0]]) / size
    camera = views.vertical_camera(
        level, start[:2] - 0.5 * gsd * right, way, count, 1, gsd, top
    )
    heights.append(_heights(loop, camera, level, appearance)[0])
    along.append(before + gsd * (np.arange(count) + 0.5))
    before += size
  if not along:
    return measure.profile([0.0], [np.nan])
  found = measure.profile(np.concatenate(along), np.concatenate(heights))
  return found._replace(length=total)  # to the ends, not to the last middle


def volume(
    loop: render_loop.RenderLoop,
    level: views.Level,
    points,
    appearance,
    *,
    base: str,
    base_height: float = 0.0,
) -> measure.Volume:
  """Volume between the surface and a base within a polygon.

  Args:
    loop: renders.
    level: axes.
    points: [N, 3] world points, N >= 3.
    appearance: [A].
    base: see `measure.base_of`.
    base_height: metres up, of the world.

  Returns:
    Volume.
  """
  points = level.to_level(points)
  top = loop.call(lambda r: r.top(level)).result(_TIMEOUT)
  low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
  gsd = max(float((high - low).max()) / _GRID_CELLS, 1e-9)
  width, height = (max(1, int(np.ceil(n))) for n in (high - low) / gsd)
  camera = views.vertical_camera(
      level, (low[0], high[1]), (1.0, 0.0), width, height, gsd, top
  )
  heights = _heights(loop, camera, level, appearance)
  x = low[0] + gsd * (np.arange(width) + 0.5)
  y = high[1] - gsd * (np.arange(height) + 0.5)
  floor = measure.base_of(base, points, base_height)
  return measure.volume(points, x, y, heights, floor)


def speed(loop: render_loop.RenderLoop) -> str:
  """A word about how fast it renders."""
  if loop.rays_per_second is None:
    return ''
  return f'{loop.rays_per_second / 1e3:.0f}k rays/s'
