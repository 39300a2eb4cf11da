"""From a model in its own frame to metres on Earth, by the photos' GPS.

The scene's frame is a map's: UTM east and north and height, minus a whole
offset in metres. `scene = source - offset` with `source` in the EPSG code that
`scene.json` names.
"""

from typing import NamedTuple

import numpy as np
import pyproj

from infnerf_jax.capture import similarity

# A tilt this uncertain by GPS heights (radians) is taken from the views.
_MAX_TILT = np.deg2rad(1.0)
# GPS errors of one flight drift: so many photos share one error.
_CORRELATED = 6
# Positions this far from the median are from another place, metres.
_MAX_DISTANCE = 100e3
# UTM ends here; the poles have a system of their own.
_UTM_LATITUDES = (-80.0, 84.0)
# Photos are downward on the whole when their mean axis is this near to it.
_MAX_NADIR = np.deg2rad(25.0)
# Gimbals hold the vertical better than this over a flight.
_MAX_DISAGREEMENT = np.deg2rad(5.0)
# Length of the mean of unit views whose directions are alike.
_PARALLEL = 0.97
# Horizontal residuals of the one placement, for each metre of the other's, up
# to which both fit.
_STILL_FITS = 1.5


class MapPositions(NamedTuple):
  """GPS positions in a map's coordinates.

  Attributes:
    epsg: code of the map's coordinate system.
    positions: [N, 3] float64 metres, east, north, height; NaN rows where a
      photo has no position or one far from all others.
    has_height: whether heights are known (else they are 0).
    strays: rows whose position is far from all others.
  """

  epsg: int
  positions: np.ndarray
  has_height: bool
  strays: list[int]


class Georeference(NamedTuple):
  """How the model lies on Earth.

  Attributes:
    epsg: of the map's coordinates.
    offset: [3] float64, metres: `scene = map - offset`, whole numbers.
    transform: similarity.Similarity from the model to the scene.
    tilt_from: 'gps', 'views' or 'control points': what says where up is.
    residuals: [N, 3] metres, camera centres minus GPS; NaN without.
    inliers: [N] bool, positions that agree with the model.
  """

  epsg: int
  offset: np.ndarray
  transform: similarity.Similarity
  tilt_from: str
  residuals: np.ndarray
  inliers: np.ndarray


def utm_epsg(latitude: float, longitude: float) -> int:
  """EPSG code of the WGS 84 zone (UTM; polar stereographic at the poles).

  Args:
    latitude: degrees.
    longitude: degrees.

  Returns:
    int.
  """
  north = latitude >= 0
  if not _UTM_LATITUDES[0] <= latitude <= _UTM_LATITUDES[1]:
    return 32661 if north else 32761
  zone = int((longitude + 180) // 6) % 60 + 1
  return (32600 if north else 32700) + zone


def to_map(gps, epsg: int | None = None) -> MapPositions | None:
  """Positions of photos in the UTM zone of their median.

  Args:
    gps: [N] metadata.Gps or None.
    epsg: of another map in metres; None is that zone.

  Returns:
    MapPositions, or None where fewer than two photos have a position.
  """
  rows = [row for row, place in enumerate(gps) if place is not None]
  if len(rows) < 2:
    return None
  latitude = np.array([gps[row].latitude for row in rows])
  longitude = np.array([gps[row].longitude for row in rows])
  # The median about the first longitude, so that 180 is no border.
  turned = (longitude - longitude[0] + 180) % 360 - 180 + longitude[0]
  middle = (np.median(turned) + 180) % 360 - 180
  if epsg is None:
    epsg = utm_epsg(float(np.median(latitude)), float(middle))
  transformer = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
  east, north = transformer.transform(longitude, latitude)
  xy = np.stack([east, north], axis=-1)
  # Far outside its zone UTM gives infinity.
  xy = np.where(np.isfinite(xy), xy, 1e12)
  heights = [gps[row].altitude for row in rows]
  has_height = all(height is not None for height in heights)
  z = np.array(heights if has_height else np.zeros(len(rows)), np.float64)
  far = np.linalg.norm(xy - np.median(xy, axis=0), axis=-1) > _MAX_DISTANCE
  positions = np.full((len(gps), 3), np.nan)
  positions[rows] = np.concatenate([xy, z[:, None]], axis=-1)
  strays = [row for row, is_far in zip(rows, far, strict=True) if is_far]
  positions[strays] = np.nan
  return MapPositions(epsg, positions, has_height, strays)


def align(cam_to_world, places: MapPositions) -> Georeference | None:
  """Lays a model on its GPS, robustly.

  GPS heights of consumer cameras drift by tens of metres within a flight,
  which would tilt the ground. So where heights leave the tilt uncertain by
  more than a degree (one straight line does), or contradict photos that all
  look down, up is the opposite of the mean view. Horizontal shift, turn and
  scale always come from GPS.

  Args:
    cam_to_world: [N, 3, 4] poses in the model's frame, y down, z forward.
    places: of the same N photos.

  Returns:
    Georeference, or None with fewer than three positions that differ.
  """
  cam_to_world = np.asarray(cam_to_world, np.float64)
  known = np.isfinite(places.positions).all(axis=-1)
  centres = cam_to_world[known, :, 3]
  target = places.positions[known]
  if len(target) < 3 or np.ptp(target[:, :2], axis=0).max() < 1.0:
    return None
  offset = np.round(np.median(target, axis=0))
  target = target - offset
  fit, tilt_from = None, 'gps'
  if places.has_height:
    fit = similarity.fit_robust(centres, target)
  upright = similarity.fit_upright(
      centres,
      target,
      similarity.rotation_between(-mean_view(cam_to_world), [0.0, 0.0, 1.0]),
  )
  if fit is None or not _heights_hold(
      fit, upright, cam_to_world, centres, target
  ):
    tilt_from, fit = 'views', upright
  residuals = np.full((len(known), 3), np.nan)
  residuals[known] = similarity.apply(fit, centres) - target
  inliers = np.zeros(len(known), bool)
  inliers[known] = similarity.inliers(residuals[known])
  return Georeference(places.epsg, offset, fit, tilt_from, residuals, inliers)


def by_control(
    epsg: int, offset, transform, cam_to_world, places: MapPositions | None
) -> Georeference:
  """A placement by ground control points, and how the GPS differs from it.

  Args:
    epsg: of the map.
    offset: [3] metres.
    transform: from the model to the scene.
    cam_to_world: [N, 3, 4] poses in the model's frame.
    places: GPS of the same N photos on the same map, or None.

  Returns:
    Georeference.
  """
  centres = similarity.apply(transform, np.asarray(cam_to_world)[:, :, 3])
  residuals = np.full(centres.shape, np.nan)
  inliers = np.zeros(len(centres), bool)
  if places is not None:
    residuals = centres + offset - places.positions
    known = np.isfinite(residuals).all(axis=-1)
    if known.any():
      inliers[known] = similarity.inliers(residuals[known])
  return Georeference(
      epsg, offset, transform, 'control points', residuals, inliers
  )


def mean_view(cam_to_world) -> np.ndarray:
  """[3] unit vector: the mean of the optical axes, in the poses' frame."""
  view = np.asarray(cam_to_world)[:, :, 2].mean(axis=0)
  length = np.linalg.norm(view)
  return view / length if length > 1e-6 else np.array([0.0, 0.0, -1.0])


def _heights_hold(fit, upright, cam_to_world, centres, target) -> bool:
  """Whether GPS heights (fit) say where up is, not the views (upright)."""
  views = np.asarray(cam_to_world)[:, :, 2]
  down = fit.rotation @ mean_view(cam_to_world)
  angle = np.arccos(np.clip(-down[2], -1.0, 1.0))
  uncertain = _tilt_uncertainty(fit, centres, target) > _MAX_TILT
  parallel = np.linalg.norm(views.mean(axis=0)) > _PARALLEL
  if angle > _MAX_NADIR:
    # Oblique photos say nothing of up; or heights so wrong that photos from
    # above seem oblique. Laid flat, these still fit the map, others do not.
    flat, steep = (
        similarity.mad((similarity.apply(f, centres) - target)[:, :2])
        for f in (upright, fit)
    )
    return not (uncertain and parallel and flat < _STILL_FITS * steep)
  if uncertain:
    return False
  # A steady drift looks like a slope; views that are all alike tell.
  return not (parallel and angle > _MAX_DISAGREEMENT)


def _tilt_uncertainty(fit, centres, target) -> float:
  """Radians by which GPS heights leave the ground's tilt open."""
  error = similarity.apply(fit, centres) - target
  spread = similarity.mad(error[:, 2])
  xy = target[:, :2] - np.median(target[:, :2], axis=0)
  width = np.linalg.svd(xy, compute_uv=False)[-1] / np.sqrt(len(xy))
  independent = max(len(xy) / _CORRELATED, 1.0)
  # Across a single line the positions' own scatter is no base line.
  across = max(width - similarity.mad(error[:, :2]), 1e-9)
  return float(np.arctan(spread / across / np.sqrt(independent)))


def level_model(cam_to_world) -> np.ndarray:
  """[3, 3] rotation that turns a model without GPS upright.

  Cameras are held level: their x axes are horizontal, so up is the direction
  in which these vary least; where all x axes are alike (one straight strip),
  the opposite of the mean view or of the mean y axis.

  Args:
    cam_to_world: [N, 3, 4] poses.

  Returns:
    [3, 3] float64; `rotation @ up` is +z.
  """
  poses = np.asarray(cam_to_world, np.float64)
  guess = -(poses[:, :, 1].mean(axis=0) + poses[:, :, 2].mean(axis=0))
  scatter = np.einsum('ni,nj->ij', poses[:, :, 0], poses[:, :, 0])
  values, vectors = np.linalg.eigh(scatter / len(poses))
  up = vectors[:, 0] if values[1] > 0.05 else guess
  if up @ guess < 0:
    up = -up
  length = np.linalg.norm(up)
  up = up / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])
  return similarity.rotation_between(up, [0.0, 0.0, 1.0])
