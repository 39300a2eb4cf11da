"""What is rendered next: coarse pictures first, for all, then finer ones.

A view is rendered in stages of halved pixels. A stage is cut into bands of
rows, small enough that a new view waits for no more than one of them.
"""

import math
from typing import Iterable, NamedTuple


class Limits(NamedTuple):
  """What one program renders; more would compile another.

  Attributes:
    corners: most corners of the tiles of one band.
    stride: pixels along a tile (`render.shared_proposals`).
  """

  corners: int
  stride: int


class Stage(NamedTuple):
  """One picture of a view.

  Attributes:
    pixel_size: width of its pixels in pixels of the client's canvas.
    width: pixels.
    height: pixels.
    bands: (top, bottom) rows, in the order in which they are rendered: from
      the middle outwards.
  """

  pixel_size: float
  width: int
  height: int
  bands: tuple[tuple[int, int], ...]


def band_rows(width: int, height: int, most_rays: int, limits: Limits) -> int:
  """Rows of a picture that are rendered at once.

  Args:
    width: pixels of the picture.
    height: pixels.
    most_rays: of a band, unless a row has more.
    limits: of the program.

  Returns:
    Rows, at least one.
  """
  stride = limits.stride
  columns = -(-width // stride) + 1
  # R rows of tiles have R + 1 rows of corners.
  by_corners = stride * max(limits.corners // columns - 1, 0)
  rows = max(1, min(height, most_rays // width, by_corners))
  return rows - rows % stride if rows > stride else rows


def _bands(width: int, height: int, rows: int):
  """Rows of a picture cut into bands, from the middle outwards."""
  bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
  middle = height / 2
  return tuple(sorted(bands, key=lambda b: abs(0.5 * (b[0] + b[1]) - middle)))


def stages(
    width: int,
    height: int,
    *,
    rays_per_second: float,
    max_pixels: int,
    limits: Limits,
    first_seconds: float = 0.15,
    band_seconds: float = 0.15,
) -> tuple[Stage, ...]:
  """The pictures of a view, coarse to fine.

  Args:
    width: pixels of the client's canvas.
    height: pixels.
    rays_per_second: measured so far.
    max_pixels: of the finest picture.
    limits: of the program that renders bands.
    first_seconds: what the first picture may take.
    band_seconds: what a band may take.

  Returns:
    Stages; pixels halve from one to the next.
  """
  finest = max(1.0, math.sqrt(width * height / max_pixels))
  budget = max(rays_per_second * first_seconds, 256)
  octaves = 0.5 * math.log2(max(width * height / finest**2 / budget, 1.0))
  result = []
  for octave in range(math.ceil(octaves - 1e-9), -1, -1):
    size = finest * 2.0**octave
    columns = max(1, math.floor(width / size + 1e-9))
    rows = max(1, math.floor(height / size + 1e-9))
    rays = max(int(rays_per_second * band_seconds), 256)
    band = band_rows(columns, rows, rays, limits)
    result.append(Stage(size, columns, rows, _bands(columns, rows, band)))
  return tuple(result)


class Turn(NamedTuple):
  """A client that waits for its turn.

  Attributes:
    client: who.
    stage: which stage is next.
    served: when it had its last turn, any rising number.
  """

  client: int
  stage: int
  served: int


def next_turn(turns: Iterable[Turn]) -> int | None:
  """Whose turn it is: the coarsest picture, then who has waited longest.

  Args:
    turns: of all clients that wait.

  Returns:
    A client, None where nobody waits.
  """
  turns = list(turns)
  if not turns:
    return None
  return min(turns, key=lambda t: (t.stage, t.served)).client


def update_speed(before: float | None, rays: int, seconds: float) -> float:
  """Rays a second, smoothed.

  Args:
    before: the last figure, None without one.
    rays: of a band.
    seconds: that it took.

  Returns:
    rays a second; small bands, whose time is mostly overhead, count less.
  """
  now = rays / max(seconds, 1e-6)
  if before is None:
    return now
  share = 0.3 * min(1.0, rays / 4096)
  return math.exp((1 - share) * math.log(before) + share * math.log(now))


def pixel_limit(
    max_bytes: float, num_clients: int, *, bytes_per_pixel: int, most: int
) -> int:
  """Pixels of a client's finest picture under a cap.

  Args:
    max_bytes: that all clients' pictures may take, 0 is no cap.
    num_clients: that share it.
    bytes_per_pixel: that are held for a client.
    most: pixels without a cap.

  Returns:
    pixels, at least a small picture's.
  """
  if not max_bytes:
    return most
  share = max_bytes / (max(num_clients, 1) * bytes_per_pixel)
  return int(min(most, max(share, 160 * 120)))
