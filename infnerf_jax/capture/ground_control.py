"""Ground control points in OpenDroneMap's form, `gcp_list.txt`.

The first line names a coordinate system (`EPSG:32614`, a PROJ string, or `WGS84
UTM 16N`); each further line is a sighting: `x y z pixel_x pixel_y photo
[name]`. Control points place the model (shift, turn, scale: seven numbers, they
do not bend it); check points only say how well that worked.
"""

import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import pyproj
from pyproj import exceptions as pyproj_exceptions
from scipy import optimize

from infnerf_jax import errors
from infnerf_jax.capture import georeference, similarity

CHECK_PREFIX = 'CHK-'
_UTM = re.compile(r'^wgs\s*84\s+utm\s+(\d{1,2})\s*([ns])?$', re.IGNORECASE)
_MIN_CONTROL = 3
# One point in so many is kept back as a check where the file names none.
_CHECK_EVERY = 4
_MIN_TO_SPLIT = 5
# With fewer points a blunder cannot be told from the others.
_MIN_ROBUST = 6
# Width of the control points' field over its length.
_MIN_WIDTH = 0.05


class Point(NamedTuple):
  """A surveyed point.

  Attributes:
    name: as the file has it, or `point 3`.
    position: [3] float64 metres in the map's coordinates.
    sightings: (photo as the file names it, x, y in pixels).
    is_check: it says how good the placement is and does not shape it.
  """

  name: str
  position: np.ndarray
  sightings: tuple[tuple[str, float, float], ...]
  is_check: bool


class Survey(NamedTuple):
  """What a file holds.

  Attributes:
    source: file.
    epsg: of the map's coordinates, metres.
    points: in order of their first sighting.
    without_height: names of points that have none and are not used.
  """

  source: pathlib.Path
  epsg: int
  points: tuple[Point, ...]
  without_height: tuple[str, ...]


def read(path, check_names=()) -> Survey:
  """Reads a list of ground control points.

  Args:
    path: file.
    check_names: names of the check points; without, those whose name begins
      with `CHK-`, and without these every fourth of five or more.

  Returns:
    Survey.

  Raises:
    InputError: unreadable, an unknown coordinate system, no numbers, points
      that contradict themselves, fewer than three control points.
  """
  path = pathlib.Path(path)
  try:
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    why = getattr(error, 'strerror', None) or 'bytes that are not UTF-8'
    raise errors.InputError(
        f'--gcp: {path}: got {why}, expected a text file'
    ) from None
  rows = [
      (i + 1, line)
      for i, line in enumerate(lines)
      if line.strip() and not line.lstrip().startswith('#')
  ]
  if not rows:
    raise errors.InputError(
        f'--gcp: {path}: got nothing, expected a coordinate system and points'
    )
  crs = _crs(rows[0][1].strip(), f'--gcp: {path}: line {rows[0][0]}')
  table = {}
  for number, line in rows[1:]:
    _add_sighting(table, line, f'--gcp: {path}: line {number}')
  low = tuple(n for n, (place, _) in table.items() if math.isnan(place[2]))
  table = {n: row for n, row in table.items() if n not in low}
  names = list(table)
  checks = _checks(names, check_names, path)
  if len(names) - len(checks) < _MIN_CONTROL:
    raise errors.InputError(
        f'--gcp: {path}: got {len(names) - len(checks)} control points with a'
        f' height, expected at least {_MIN_CONTROL}'
    )
  places = np.array([table[n][0] for n in names])
  epsg, places = _to_map(crs, places, path)
  return Survey(
      path,
      epsg,
      tuple(
          Point(n, place, tuple(table[n][1]), n in checks)
          for n, place in zip(names, places, strict=True)
      ),
      low,
  )


def _crs(text: str, where: str) -> pyproj.CRS:
  match = _UTM.match(text)
  if match:
    south = (match[2] or 'N').upper() == 'S'
    text = f'EPSG:{(32700 if south else 32600) + int(match[1])}'
  try:
    return pyproj.CRS.from_user_input(text)
  except pyproj_exceptions.CRSError:
    raise errors.InputError(
        f'{where}: got {text[:60]!r}, expected a coordinate system such as'
        ' EPSG:32614 or WGS84 UTM 14N'
    ) from None


def _add_sighting(table, line: str, where: str) -> None:
  """Adds a line to {name: (position, sightings)}."""
  fields = line.split('\t') if line.count('\t') >= 5 else line.split()
  fields = [field.strip() for field in fields]
  try:
    x, y, z, u, v = (float(field) for field in fields[:5])
    photo = fields[5]
    known = all(map(math.isfinite, (x, y, u, v))) and photo
    if math.isinf(z) or not known:
      raise ValueError
  except (ValueError, IndexError):
    raise errors.InputError(
        f'{where}: got {line.strip()[:60]!r}, expected x y z pixel_x pixel_y'
        ' photo [name]'
    ) from None
  place = np.array([x, y, z])
  name = fields[6] if len(fields) > 6 and fields[6] else None
  if name is None:
    same = [n for n, (p, _) in table.items() if np.array_equal(p, place)]
    name = same[0] if same else f'point {len(table) + 1}'
  known_place, sightings = table.setdefault(name, (place, []))
  if not np.array_equal(known_place, place, equal_nan=True):
    raise errors.InputError(
        f'{where}: {name}: got {place.tolist()}, expected'
        f' {known_place.tolist()} as in its other lines'
    )
  sightings.append((photo, u, v))


def _checks(names, wanted, path) -> set[str]:
  unknown = sorted(set(wanted) - set(names))
  if unknown:
    raise errors.InputError(
        f'--gcp_check: got {unknown[0]!r}, expected names of points in {path}'
    )
  if wanted:
    return set(wanted)
  marked = {n for n in names if n.upper().startswith(CHECK_PREFIX)}
  if marked or len(names) < _MIN_TO_SPLIT:
    return marked
  return set(sorted(names)[_CHECK_EVERY - 1 :: _CHECK_EVERY])


def _to_map(crs: pyproj.CRS, places, path):
  """(EPSG code, [N, 3]) of positions in metres east, north, up."""
  units = {axis.unit_name for axis in crs.axis_info[:2]}
  epsg = crs.to_epsg() if crs.is_projected and units == {'metre'} else None
  # Axes are x (or longitude), y in the file, whatever the authority says.
  if epsg is not None:
    return epsg, places
  degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
  longitude, latitude = degrees.transform(places[:, 0], places[:, 1])
  if not np.isfinite([longitude, latitude]).all():
    raise errors.InputError(
        f'--gcp: {path}: got positions outside of {crs.name}, expected them'
        ' in the coordinate system of its first line'
    )
  epsg = georeference.utm_epsg(
      float(np.median(latitude)), float(np.median(longitude))
  )
  to_map = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
  east, north = to_map.transform(longitude, latitude)
  return epsg, np.stack([east, north, places[:, 2]], axis=-1)


class Located(NamedTuple):
  """A point as the photos have it.

  Attributes:
    position: [3] in the model's frame.
    pixels: mean reprojection error.
    num_photos: that it was found in.
  """

  position: np.ndarray
  pixels: float
  num_photos: int


def locate(point: Point, model, images) -> Located | None:
  """Where the photos see a point.

  Args:
    point: surveyed point.
    model: pycolmap.Reconstruction.
    images: registered images by the photo's file name.

  Returns:
    Located, or None with fewer than two registered photos.
  """
  seen = []
  for photo, x, y in point.sightings:
    image = images.get(pathlib.PurePath(photo.replace('\\', '/')).name)
    if image is not None:
      seen.append((image, np.array([x, y])))
  if len(seen) < 2:
    return None
  cameras = [model.cameras[image.camera_id] for image, _ in seen]
  poses = [image.cam_from_world() for image, _ in seen]
  normal, right = np.zeros((3, 3)), np.zeros(3)
  for (_, pixel), camera, pose in zip(seen, cameras, poses, strict=True):
    plane = np.ravel(camera.cam_from_img(pixel[None]))[:2]
    rotation = pose.rotation.matrix()
    ray = rotation.T @ np.append(plane, 1.0)
    ray /= np.linalg.norm(ray)
    # The point nearest to all rays: the start of what follows.
    across = np.eye(3) - np.outer(ray, ray)
    normal += across
    right += across @ (-rotation.T @ pose.translation)
  start = np.linalg.lstsq(normal, right, rcond=None)[0]

  def residual(position):
    return np.concatenate(
        [
            np.ravel(camera.img_from_cam((pose * position)[None])) - pixel
            for (_, pixel), camera, pose in zip(
                seen, cameras, poses, strict=True
            )
        ]
    )

  found = optimize.least_squares(residual, start, loss='soft_l1')
  error = np.linalg.norm(residual(found.x).reshape(-1, 2), axis=-1)
  return Located(found.x, float(error.mean()), len(seen))


class Placement(NamedTuple):
  """How control points place a model.

  Attributes:
    offset: [3] whole metres: `scene = map - offset`.
    transform: similarity.Similarity from the model to the scene.
    report: what `prepare_report.json` says of it.
  """

  offset: np.ndarray
  transform: similarity.Similarity
  report: dict[str, Any]


def place(survey: Survey, model, images) -> Placement:
  """Places a model by its control points.

  Args:
    survey: see `read`.
    model: pycolmap.Reconstruction.
    images: registered images by the photo's file name.

  Returns:
    Placement.

  Raises:
    InputError: fewer than three control points are seen by two registered
      photos each, or they lie on one line.
  """
  located = [(p, locate(p, model, images)) for p in survey.points]
  lost = [point.name for point, at in located if at is None]
  located = [(point, at) for point, at in located if at is not None]
  is_control = np.array([not point.is_check for point, _ in located], bool)
  if is_control.sum() < _MIN_CONTROL:
    raise errors.InputError(
        f'--gcp: {survey.source}: got {int(is_control.sum())} control points in'
        f' two registered photos or more, expected at least {_MIN_CONTROL}'
    )
  source = np.array([at.position for _, at in located])
  target = np.array([point.position for point, _ in located])
  offset = np.round(np.median(target[is_control], axis=0))
  target = target - offset
  _refuse_line(target[is_control], survey)
  fit = similarity.fit_weighted
  if is_control.sum() >= _MIN_ROBUST:
    fit = similarity.fit_robust
  transform = fit(source[is_control], target[is_control])
  transform = transform._replace(scale=float(transform.scale))
  residuals = similarity.apply(transform, source) - target
  report = {
      'file': survey.source.name,
      'epsg': survey.epsg,
      'control': _rmse(residuals[is_control]),
      'check': _rmse(residuals[~is_control]),
      'not_in_two_photos': lost,
      'without_height': list(survey.without_height),
      'points': [
          {
              'name': point.name,
              'is_check': point.is_check,
              'photos': at.num_photos,
              'reprojection_pixels': at.pixels,
              'residual_metres': row.tolist(),
          }
          for (point, at), row in zip(located, residuals, strict=True)
      ],
  }
  return Placement(offset, transform, report)


def _refuse_line(target, survey) -> None:
  spread = np.linalg.svd(target - target.mean(axis=0), compute_uv=False)
  if not spread[1] > _MIN_WIDTH * spread[0]:
    raise errors.InputError(
        f'--gcp: {survey.source}: got control points on one line, expected them'
        ' spread over the scene'
    )


def _rmse(residuals) -> dict[str, Any]:
  """Root mean squares of [N, 3] metres; None of no points."""
  num = len(residuals)
  if not num:
    return {'points': 0, 'horizontal_rmse': None, 'vertical_rmse': None,
            'rmse': None}  # fmt: skip
  squares = np.square(residuals).mean(axis=0)
  return {
      'points': num,
      'horizontal_rmse': float(np.sqrt(squares[:2].sum())),
      'vertical_rmse': float(np.sqrt(squares[2])),
      'rmse': float(np.sqrt(squares.sum())),
  }


def describe(report: dict[str, Any]) -> list[str]:
  """The report as lines for a terminal."""
  lines = []
  for kind in ('control', 'check'):
    part = report[kind]
    text = 'none'
    if part['points']:
      text = (
          f'{part["points"]}, RMSE {part["horizontal_rmse"]:.3f} m'
          f' horizontally, {part["vertical_rmse"]:.3f} m in height'
      )
    lines.append(f'{kind + " points":<17} {text}')
  for field, what in (
      ('not_in_two_photos', 'seen by fewer than two registered photos'),
      ('without_height', 'without height'),
  ):
    if report[field]:
      lines.append(f'points left out   {", ".join(report[field])}: {what}')
  return lines
