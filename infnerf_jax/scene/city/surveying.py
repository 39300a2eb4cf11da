"""Cameras as a drone flies them, and the points that its photos share."""

import math

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import view_cones
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.scene.city import layout, rendering

DEFAULT_ALTITUDES = (42.0, 84.0, 168.0)  # metres above ground
DEFAULT_OVERLAP = 0.65
DEFAULT_PHOTO_SIZE = (400, 300)  # pixels
_FIELD_OF_VIEW = math.radians(75.0)  # across the photo's width
_PITCH = math.radians(48.0)  # of oblique photos, below the horizon
# Photos at the higher altitudes see more; each needs a quarter of those below.
_OBLIQUE_SHARE = 0.45
_MIN_CLEARANCE = 5.0  # metres above the tallest building
# A point is seen if the ray towards it ends this close to it.
_SEEN_METRES, _SEEN_SHARE = 5e-3, 1e-5
_MIN_VIEWS = 3


def _grid(num: int, side: float) -> np.ndarray:
  """[num, 2] positions in a square, row by row as a drone flies them."""
  rows = max(1, round(math.sqrt(num)))
  points = []
  for row in range(rows):
    count = num * (row + 1) // rows - num * row // rows
    along = (np.arange(count) + 0.5) / max(count, 1) - 0.5
    along = along if row % 2 == 0 else along[::-1]
    across = np.full(count, (row + 0.5) / rows - 0.5)
    points.append(np.stack([along, across], axis=-1) * side)
  return np.concatenate(points)


def _counts(extent, altitudes, overlap, num_photos) -> list[tuple[int, int]]:
  """Nadir and oblique photos of each altitude."""
  width, height = DEFAULT_PHOTO_SIZE
  ground = 2 * math.tan(_FIELD_OF_VIEW / 2)  # metres across per metre up
  wanted = []
  for altitude in altitudes:
    spacing = ground * altitude * (1 - overlap)
    nadir = max(1.0, extent**2 / (spacing**2 * height / width))
    wanted += [nadir * (1 - _OBLIQUE_SHARE), nadir * _OBLIQUE_SHARE]
  if num_photos is not None:
    if num_photos < 2 * len(altitudes):
      raise errors.InputError(
          f'survey: num_photos: got {num_photos}, expected at least'
          f' {2 * len(altitudes)} (nadir and oblique at each altitude)'
      )
    scale = (num_photos - len(wanted)) / sum(wanted)
    counts = [1 + int(w * scale) for w in wanted]
    counts[0] += num_photos - sum(counts)
  else:
    counts = [max(2, round(w)) for w in wanted]
  return list(zip(counts[::2], counts[1::2]))


def survey(
    city: layout.City,
    *,
    num_photos: int | None = None,
    altitudes=DEFAULT_ALTITUDES,
    overlap: float = DEFAULT_OVERLAP,
    photo_size: tuple[int, int] = DEFAULT_PHOTO_SIZE,
) -> cameras_lib.Cameras:
  """Cameras of a drone survey: nadir and oblique grids at each altitude.

  Args:
    city: from `layout.make_city`.
    num_photos: photos in all; default as many as `overlap` asks for, which
      grows with the city's area.
    altitudes: metres above the ground.
    overlap: share of a nadir photo that its neighbour also sees.
    photo_size: width and height in pixels.

  Returns:
    Cameras [N], lowest altitude first, nadir before oblique.

  Raises:
    InputError: options out of range.
  """
  _check(altitudes, overlap, photo_size)
  width, height = photo_size
  focal = width / 2 / math.tan(_FIELD_OF_VIEW / 2)
  counts = _counts(city.extent, altitudes, overlap, num_photos)
  poses = []
  for altitude, (num_nadir, num_oblique) in zip(altitudes, counts):
    for spot in _grid(num_nadir, city.extent * 0.96):
      eye = np.append(spot, altitude)
      poses.append(cameras_lib.look_at(eye, np.append(spot, 0.0)))
    back = altitude / math.tan(_PITCH)
    for i, spot in enumerate(_grid(num_oblique, city.extent * 0.9)):
      # Every eighth photo is a test photo: shift the round of headings so
      # that these do not all look the same way.
      heading = math.pi / 2 * (i + i // 8) + 0.3
      away = np.array([math.cos(heading), math.sin(heading)]) * back
      eye = np.append(spot - away, altitude)
      poses.append(cameras_lib.look_at(eye, np.append(spot, 0.0)))
  return cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=focal, width=width, height=height, cam_to_world=pose
          )
          for pose in poses
      ]
  )


def _check(altitudes, overlap, photo_size) -> None:
  lowest = layout.MAX_HEIGHT + _MIN_CLEARANCE
  if not altitudes or not all(
      math.isfinite(a) and a >= lowest for a in altitudes
  ):
    raise errors.InputError(
        f'survey: altitudes: got {tuple(altitudes)}, expected one or more of'
        f' at least {lowest:g} metres'
    )
  if not 0 <= overlap < 1:
    raise errors.InputError(
        f'survey: overlap: got {overlap}, expected 0 <= overlap < 1'
    )
  if min(photo_size) < 8:
    raise errors.InputError(
        f'survey: photo_size: got {tuple(photo_size)}, expected at least 8'
        ' pixels'
    )


def sparse_points(
    city: layout.City,
    cameras: cameras_lib.Cameras,
    *,
    num_points: int = 20_000,
    seed: int = 0,
) -> tuple[scene_lib.Points, scene_lib.Visibility]:
  """Points on surfaces and exactly which photos see each.

  Rays through random places of the photos find the points; a ray from every
  camera whose frame holds a point decides whether it is seen or hidden.

  Args:
    city: from `layout.make_city`.
    cameras: table [N].
    num_points: about how many points, each seen by at least 3 photos.
    seed: of the random places.

  Returns:
    (Points, Visibility), about `num_points` of them.
  """
  positions, colors = _candidates(city, cameras, num_points * 5 // 4, seed)
  point_idx, photo_idx = visible_pairs(city, cameras, positions)
  views = np.bincount(point_idx, minlength=len(positions))
  keep = np.flatnonzero(views >= _MIN_VIEWS)[:num_points]
  new_row = np.full(len(positions), -1, np.int64)
  new_row[keep] = np.arange(len(keep))
  rows = new_row[point_idx]
  points = scene_lib.Points(positions[keep], colors[keep])
  visibility = scene_lib.Visibility(
      offsets=np.concatenate([[0], np.cumsum(views[keep])]).astype(np.int64),
      photo_idx=photo_idx[rows >= 0].astype(np.int32),
  )
  return points, visibility


def _candidates(city, cameras, num: int, seed: int):
  """Positions [M, 3] and colours [M, 3] uint8 that random pixels hit."""
  rng = np.random.default_rng(seed)
  photo = rng.integers(0, len(cameras.width), num)
  table = cameras_lib.take(cameras, photo)
  size = np.stack([table.width, table.height], axis=-1)
  plane = (
      rng.uniform(size=(num, 2)) * size - table.intrinsics[:, 2:]
  ) / table.intrinsics[:, :2]
  local = np.concatenate([plane, np.ones((num, 1))], axis=-1)
  directions = np.einsum('rij,rj->ri', table.cam_to_world[:, :, :3], local)
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  origins = table.cam_to_world[:, :, 3]
  slope = 0.564 / table.intrinsics[:, 0]
  view = rendering.render_rays(city, origins, directions, slope)
  reach = np.where(view.valid, view.depth, 0.0)[:, None]
  positions = origins + reach * directions
  # Structure from motion finds little on the plain fields around.
  near = np.max(np.abs(positions[:, :2]), axis=-1) < city.extent / 2 + 12.0
  keep = view.valid & near
  colors = np.round(view.rgb[keep] * 255).astype(np.uint8)
  return positions[keep], colors


def visible_pairs(city, cameras, positions):
  """Which cameras see which points, by a ray for each pair in frame.

  Args:
    city: from `layout.make_city`.
    cameras: table [N], perspective.
    positions: [P, 3] float64, on surfaces.

  Returns:
    ([K] int64 rows of points, ascending; [K] int64 rows of cameras).
  """
  cloud = view_cones.PointCloud(positions)
  angles = view_cones.cone_angles(cameras)
  pairs = [np.zeros((2, 0), np.int64)]
  for row, angle in enumerate(angles):
    camera = cameras_lib.take(cameras, row)
    found = cloud.in_cone(camera.cam_to_world, angle)
    pix, depth = cameras_lib.project(camera, positions[found])
    size = np.array([camera.width, camera.height])
    inside = np.all((pix >= 0) & (pix < size), axis=-1) & (depth > 0)
    found = found[inside]
    origin = np.asarray(camera.cam_to_world)[:, 3]
    towards = positions[found] - origin
    distance = np.linalg.norm(towards, axis=-1)
    depth = rendering.cast_rays(city, origin, towards / distance[:, None])
    seen = depth > distance * (1 - _SEEN_SHARE) - _SEEN_METRES
    pairs.append(np.stack([found[seen], np.full(seen.sum(), row)]))
  point_idx, photo_idx = np.concatenate(pairs, axis=1)
  order = np.lexsort((photo_idx, point_idx))
  return point_idx[order], photo_idx[order]
