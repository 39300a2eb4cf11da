"""Maps of a run of the procedural city against the exact city.

The truth of a map is the exact orthophoto at a quarter of the finest map's
pixel, averaged; check points are places of roofs and streets where the surface
is even, as a surveyor chooses them.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax.accuracy import map_reading, registration
from infnerf_jax.evaluation import metrics
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import map_pixels, orthophoto
from infnerf_jax.scene import city as city_lib

# Sizes of a map's pixel, of the photos' own.
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# Metres: what counts as a street, as a roof, and as even between neighbours.
_STREET, _ROOF, _EVEN = 0.1, 2.5, 0.02
_PATCH = 24  # pixels that are laid upon each other
_MAX_POINTS = 400
_TOP = 100.0


class Truth(NamedTuple):
  """The exact city on the pixels of the finest map.

  Attributes:
    west: metres.
    north: metres.
    gsd: metres a pixel.
    rgb: [N, N, 3] in [0, 1], averaged over pixels.
    height: [N, N] metres at pixel centres.
  """

  west: float
  north: float
  gsd: float
  rgb: np.ndarray
  height: np.ndarray


def photo_gsd(loaded, ground: float = 0.0) -> float:
  """Metres on the ground of a training pixel, the photos' median.

  Args:
    loaded: a LoadedScene.
    ground: its height, metres.

  Returns:
    metres.
  """
  poses = np.asarray(loaded.cameras.cam_to_world, np.float64)
  down = np.maximum(-poses[:, 2, 2], 1e-3)
  focal = np.asarray(loaded.cameras.intrinsics)[:, 0]
  gsd = np.median((poses[:, 2, 3] - ground) / down / focal)
  return float(gsd * loaded.downscale)


def exact(city, west: float, north: float, gsd: float, size: int) -> Truth:
  """Colours and heights of the city as seen from straight above.

  Args:
    city: see `city_lib.make_city`.
    west: metres, left edge.
    north: metres, upper edge.
    gsd: metres a pixel.
    size: pixels along a side.

  Returns:
    Truth.
  """
  half = size * gsd / 2
  camera = cameras_lib.make_camera(
      focal=1 / gsd, width=size, height=size,
      cam_to_world=np.array(
          [[1, 0, 0, west + half], [0, -1, 0, north - half], [0, 0, -1, _TOP]],
          np.float64,
      ),
      projection=cameras_lib.ORTHOGRAPHIC,
  )  # fmt: skip
  view = city_lib.render(city, camera, supersampling=4)
  return Truth(west, north, gsd, view.rgb, _TOP - view.depth)


def averaged(values, factor: int) -> np.ndarray:
  """[N / factor, N / factor, ...] means of squares of [N, N, ...] values."""
  num = len(values) // factor
  shape = (num, factor, num, factor) + values.shape[2:]
  return values.reshape(shape).mean(axis=(1, 3))


def check_points(truth: Truth, *, roofs: bool, reach: float, seed: int = 0):
  """Even places of roofs or streets.

  Args:
    truth: see `Truth`.
    roofs: roofs, else streets.
    reach: metres around a place in which it is even.
    seed: of the choice among many.

  Returns:
    [K, 2] rows and columns.
  """
  height, span = truth.height, max(1, round(reach / truth.gsd))
  bend = np.zeros_like(height)
  for axis in (0, 1):
    after, before = (np.roll(height, s, axis) for s in (-span, span))
    bend = np.maximum(bend, np.abs(after + before - 2 * height))
    bend = np.maximum(bend, (np.abs(after - before) > 2 * span * truth.gsd) * 9)
  level = height > _ROOF if roofs else np.abs(height) < _STREET
  good = level & (bend < _EVEN)
  # All around a place the same holds: no gutter, no kerb, no neighbour.
  for axis in (0, 1):
    good = good & np.roll(good, span, axis) & np.roll(good, -span, axis)
  edge = _PATCH * 2
  good[:edge], good[-edge:], good[:, :edge], good[:, -edge:] = (False,) * 4
  places = np.argwhere(good)
  rng = np.random.default_rng(seed)
  return places[rng.permutation(len(places))[:_MAX_POINTS]]


def _errors(piece, truth: Truth, places) -> dict[str, Any]:
  """Height and horizontal errors at check points, metres."""
  east = truth.west + (places[:, 1] + 0.5) * truth.gsd
  north = truth.north - (places[:, 0] + 0.5) * truth.gsd
  exact_height = truth.height[places[:, 0], places[:, 1]]
  error = piece.heights(east, north) - exact_height
  known = np.isfinite(error)
  factor = round(piece.gsd / truth.gsd)
  found = registration.grey(piece.rgb)
  wanted = registration.grey(averaged(truth.rgb, factor))
  shifts, heights, sides = [], [], []
  for (row, column), height in zip(places // factor, exact_height, strict=True):
    part = tuple(slice(k - _PATCH // 2, k + _PATCH // 2) for k in (row, column))
    if min(p.start for p in part) < 0 or max(p.stop for p in part) > len(found):
      continue
    moved = registration.shift(found[part], wanted[part])
    if moved is not None:
      shifts.append(moved * [piece.gsd, -piece.gsd])
      heights.append(height)
      sides.append([column - len(found) / 2, len(found) / 2 - row])
  return {
      'height': _spread(np.abs(error[known])),
      'height_bias': float(np.median(error[known])) if known.any() else None,
      'without_height': float(1 - known.mean()),
      'horizontal': _spread(np.linalg.norm(shifts, axis=-1)),
      'horizontal_bias': np.median(shifts, axis=0).tolist() if shifts else None,
      'lean': _lean(np.array(shifts), np.array(heights), np.array(sides)),
  }


def _spread(values) -> dict[str, float | int | None]:
  if not len(values):
    return {'count': 0, 'median': None, 'p90': None}
  return {
      'count': len(values),
      'median': float(np.median(values)),
      'p90': float(np.percentile(values, 90)),
  }


def _lean(shifts, heights, sides) -> float | None:
  """Metres outwards for each metre of height: what photos' walls do."""
  if len(shifts) < 3 or np.max(heights) < _ROOF:
    return None
  outwards = sides / np.maximum(np.linalg.norm(sides, axis=-1)[:, None], 1e-9)
  across = np.sum(shifts * outwards, axis=-1)
  # Median over places: the shift of a few is that of another place.
  return float(np.median(across / heights))


def _roof_overlap(piece, truth: Truth) -> float:
  """Intersection over union of what stands out, map against truth."""
  factor = round(piece.gsd / truth.gsd)
  middle = factor // 2
  stands = truth.height[middle::factor, middle::factor] > _ROOF
  found = piece.height > _ROOF
  return float((stands & found).sum() / max((stands | found).sum(), 1))


def measure(loaded, folder, factors=FACTORS) -> dict[str, Any]:
  """Maps of a city's run by ground sampling distance, against the truth.

  Args:
    loaded: a LoadedScene whose config says its city.
    folder: for the maps.
    factors: sizes of a map's pixel, of the photos'; powers of two.

  Returns:
    `photo_gsd`, `side` in metres, and `maps`: of each factor PSNR, what is
    shown, and of roofs and streets the errors (`_errors`).
  """
  settings = loaded.config.data.city
  city = city_lib.make_city(seed=settings.seed, extent=settings.extent)
  own = photo_gsd(loaded)
  coarsest, finest = max(factors) * own, min(factors) * own
  side = max(1, int(settings.extent // coarsest)) * coarsest
  size = round(side / finest)
  truth = exact(city, -side / 2, side / 2, finest, size)
  frame = map_frame.make_frame(map_frame.read_frame(loaded.workdir))
  pixels = map_pixels.FieldPixels(loaded)
  one_ray = map_pixels.FieldPixels(loaded, supersampling=1)
  maps = []
  for factor in factors:
    job = orthophoto.plan_map(
        pixels, frame, gsd=factor * own,
        bounds=(-side / 2, -side / 2, side / 2, side / 2),
    )  # fmt: skip
    out = pathlib.Path(folder) / f'map_{factor:g}.tif'
    report = orthophoto.write_map(job, out, show_progress=False)
    maps.append(_compare(out, truth, factor, own, report))
    maps[-1]['psnr_of_one_ray'] = _psnr_of_one_ray(
        dataclasses.replace(job, pixels=one_ray), truth
    )
  return {'photo_gsd': own, 'side': side, 'maps': maps}


def _psnr_of_one_ray(job, truth: Truth) -> float | None:
  """The same map by one ray a pixel, for what several are worth."""
  (tile,) = job.canvas.tiles()
  layers = orthophoto.render_tile(job, tile)
  wanted = averaged(truth.rgb, round(job.canvas.gsd / truth.gsd))
  rgb = np.moveaxis(layers[0], 0, -1)
  return metrics.psnr(rgb[..., :3], wanted, rgb[..., 3] > 0)


def _compare(out, truth: Truth, factor, own, report) -> dict[str, Any]:
  """One map against the truth."""
  piece = map_reading.read(out)
  wanted = averaged(truth.rgb, round(piece.gsd / truth.gsd))
  result = {
      'factor': factor,
      'gsd': piece.gsd,
      'pixels': piece.shown.size,
      'pixels_per_second': report['pixels_per_second'],
      'shown': float(piece.shown.mean()),
      'psnr': metrics.psnr(piece.rgb, wanted, piece.shown),
  }
  if len(piece.rgb) >= 4 * _PATCH:
    for name in ('roofs', 'streets'):
      places = check_points(truth, roofs=name == 'roofs', reach=own)
      result[name] = _errors(piece, truth, places)
    result['roof_overlap'] = _roof_overlap(piece, truth)
  return result
