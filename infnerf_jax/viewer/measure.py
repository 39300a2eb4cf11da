"""Measuring on surfaces: lengths, areas, height profiles, volumes.

Points of this module are level: [..., 3] float64 metres east, north, up (see
`views.Level`). What a surface's heights are comes from whoever calls.
"""

from typing import NamedTuple

import numpy as np


class Profile(NamedTuple):
  """Heights along a line.

  Attributes:
    along: [N] metres from the first point, in plan.
    heights: [N] metres; NaN where there is no surface.
    length: metres in plan.
    climb: metres, sum of all rises.
    fall: metres, sum of all falls, positive.
  """

  along: np.ndarray
  heights: np.ndarray
  length: float
  climb: float
  fall: float


class Volume(NamedTuple):
  """What lies between a surface and a base, within a polygon.

  Attributes:
    above: cubic metres of surface above the base.
    below: cubic metres of base above the surface.
    area: square metres in plan.
    known: share of the area where there is a surface; the rest counts as none.
    base: metres, the base's mean height.
  """

  above: float
  below: float
  area: float
  known: float
  base: float


def length(points) -> float:
  """Metres along a polyline [N, 3]."""
  points = np.asarray(points, np.float64)
  return float(np.linalg.norm(np.diff(points, axis=0), axis=-1).sum())


def plan_length(points) -> float:
  """Metres along a polyline [N, 3], seen from above."""
  return length(np.asarray(points, np.float64)[:, :2])


def plan_area(points) -> float:
  """Square metres within a polygon [N, 3], seen from above."""
  x, y = np.asarray(points, np.float64)[:, :2].T
  x, y = x - x.mean(), y - y.mean()  # Far from zero, products lose digits.
  return float(0.5 * abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))


def surface_area(points) -> float:
  """Square metres of a polygon [N, 3] in its own plane (Newell's)."""
  points = np.asarray(points, np.float64)
  points = points - points.mean(axis=0)
  normal = np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)
  return float(0.5 * np.linalg.norm(normal))


def crosses_itself(points) -> bool:
  """Whether a polygon [N, 3] has two sides that cross, seen from above."""
  points = np.asarray(points, np.float64)[:, :2]
  side = lambda a, b, c: np.sign(
      (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
  )
  ends = np.roll(points, -1, axis=0)
  for i, (a, b) in enumerate(zip(points, ends, strict=True)):
    for c, d in zip(points[i + 2 :], ends[i + 2 :], strict=True):
      if side(a, b, c) * side(a, b, d) < 0 > side(c, d, a) * side(c, d, b):
        return True
  return False


def inside(polygon, x, y) -> np.ndarray:
  """Which places lie in a polygon, by counting sides to their east.

  Args:
    polygon: [N, 2 or more] metres.
    x: [...] metres.
    y: [...] metres.

  Returns:
    [...] bool.
  """
  corners = np.asarray(polygon, np.float64)[:, :2]
  result = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), bool)
  for (x0, y0), (x1, y1) in zip(
      corners, np.roll(corners, -1, axis=0), strict=True
  ):
    if y0 == y1:
      continue
    straddles = (y0 <= y) != (y1 <= y)
    result ^= straddles & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
  return result


def fit_plane(points) -> np.ndarray:
  """Plane through points, by least squares.

  Args:
    points: [N, 3], N >= 1.

  Returns:
    [3] float64 a, b, c of `height = a x + b y + c`; level where points do not
    span a plane.
  """
  points = np.asarray(points, np.float64)
  middle = points.mean(axis=0)
  offsets = points - middle
  slope, _, rank, _ = np.linalg.lstsq(offsets[:, :2], offsets[:, 2], rcond=1e-9)
  if rank < 2:
    slope = np.zeros(2)
  return np.array([*slope, middle[2] - slope @ middle[:2]])


def base_of(kind: str, points, height: float = 0.0) -> np.ndarray:
  """The base that a volume is measured from.

  Args:
    kind: `plane` through the corners, `lowest` corner, or `height`.
    points: [N, 3] corners.
    height: metres, for `height`.

  Returns:
    [3] as `fit_plane` has it.
  """
  points = np.asarray(points, np.float64)
  if kind == 'plane':
    return fit_plane(points)
  if kind == 'lowest':
    return np.array([0.0, 0.0, points[:, 2].min()])
  if kind == 'height':
    return np.array([0.0, 0.0, height])
  raise ValueError(f'base: got {kind!r}, expected plane, lowest or height')


def profile(along, heights) -> Profile:
  """Sums up heights along a line.

  Args:
    along: [N] metres, rising.
    heights: [N] metres, NaN where unknown.

  Returns:
    Profile; gaps are bridged.
  """
  along = np.asarray(along, np.float64)
  heights = np.asarray(heights, np.float64)
  steps = np.diff(heights[np.isfinite(heights)])
  return Profile(
      along,
      heights,
      float(along[-1] - along[0]) if len(along) else 0.0,
      float(steps[steps > 0].sum()),
      float(-steps[steps < 0].sum()),
  )


def volume(polygon, x, y, heights, base) -> Volume:
  """Volume between a surface and a base within a polygon.

  Args:
    polygon: [N, 3] corners.
    x: [W] metres, middles of cells of one size.
    y: [H] metres.
    heights: [H, W] metres of the surface, NaN where unknown.
    base: [3] as `fit_plane` has it.

  Returns:
    Volume. Its area is the polygon's, not that of the cells within.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  heights = np.asarray(heights, np.float64)
  within = inside(polygon, x[None], y[:, None])
  floor = base[0] * x[None] + base[1] * y[:, None] + base[2]
  known = within & np.isfinite(heights)
  area = plan_area(polygon)
  if not within.any():
    return Volume(0.0, 0.0, area, 0.0, float(base[2]))
  # Cells on the border count by their middles: what that misses of the area
  # is shared out evenly.
  cell = area / within.sum()
  thick = np.where(known, heights - floor, 0.0)
  return Volume(
      above=float(cell * np.maximum(thick, 0).sum()),
      below=float(cell * np.maximum(-thick, 0).sum()),
      area=area,
      known=float(known.sum() / within.sum()),
      base=float(floor[within].mean()),
  )


def format_length(metres: float) -> str:
  """Metres in a unit that suits their size."""
  size = abs(metres)
  if size >= 1000:
    return f'{metres / 1000:.3f} km'
  if size >= 1:
    return f'{metres:.2f} m'
  if size >= 0.01:
    return f'{100 * metres:.1f} cm'
  return f'{1000 * metres:.2g} mm'


def format_area(square_metres: float) -> str:
  """Square metres in a unit that suits their size."""
  if square_metres >= 1e6:
    return f'{square_metres / 1e6:.3f} km²'
  if square_metres >= 1e4:
    return f'{square_metres / 1e4:.3f} ha'
  return f'{square_metres:.2f} m²'
