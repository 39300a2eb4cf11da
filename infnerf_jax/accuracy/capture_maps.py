"""A map of a real capture against its photos, its sparse points and its GPS.

No truth is at hand: heights are compared with the points of structure from
motion, texture with that of photos laid on the surface model, the place on
Earth with what the photos' GPS says.
"""

from typing import Any

import numpy as np
import pyproj
from scipy import ndimage

from infnerf_jax import errors
from infnerf_jax.accuracy import map_reading, registration
from infnerf_jax.capture import metadata
from infnerf_jax.evaluation import metrics
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import readers

# Pixels of a map around the place below a camera: the photo shows them from
# so near to the vertical that nothing hides them.
_PATCH = 96
_MIN_SHOWN = 0.95
_MAX_TILT = np.radians(25.0)  # of photos that see what is below them


def height_errors(piece, points) -> np.ndarray:
  """[K] metres, surface model minus sparse points, where both are.

  Args:
    piece: of the map.
    points: [P, 3] map coordinates.

  Returns:
    [K] float64.
  """
  error = piece.heights(points[:, 0], points[:, 1]) - points[:, 2]
  return error[np.isfinite(error)]


def photo_on_map(piece, frame, camera, rgb, downscale: float):
  """A photo laid on the surface model: what its pixels say of the map's.

  Args:
    piece: [H, W] of the map.
    frame: where the scene lies.
    camera: of the photo, a single row.
    rgb: [h, w, 3] uint8, the photo at training size.
    downscale: full-size pixels per pixel of `rgb`.

  Returns:
    ([H, W, 3] in [0, 1], [H, W] bool where the photo shows it).
  """
  rows, columns = np.indices(piece.height.shape)
  places = np.stack(
      [
          piece.left + (columns + 0.5) * piece.gsd,
          piece.top - (rows + 0.5) * piece.gsd,
          piece.height,
      ],
      axis=-1,
  )
  known = np.isfinite(piece.height)
  scene = frame.to_scene(np.where(known[..., None], places, 0.0))
  pix, depth = cameras_lib.project(camera, scene.reshape(-1, 3))
  x, y = (np.asarray(pix) / downscale - 0.5).T.reshape(2, *known.shape)
  inside = known & (np.asarray(depth).reshape(known.shape) > 0)
  inside &= (x >= 0) & (x <= rgb.shape[1] - 1)
  inside &= (y >= 0) & (y <= rgb.shape[0] - 1)
  where = np.where(inside, y, 0), np.where(inside, x, 0)
  laid = np.stack(
      [
          ndimage.map_coordinates(band.astype(np.float32), where, order=1)
          for band in np.moveaxis(rgb, -1, 0)
      ],
      axis=-1,
  )
  return laid / 255, inside


def _place_below(frame, camera) -> np.ndarray:
  """[3] map coordinates of a camera's centre."""
  return frame.from_scene(np.asarray(camera.cam_to_world, np.float64)[:, 3])


def compare_photo(path, frame, camera, rgb, downscale, gsd) -> dict | None:
  """The map below a camera against the photo.

  Args:
    path: FILE.tif.
    frame: where the scene lies.
    camera: of the photo, a single row.
    rgb: [h, w, 3] uint8, at training size.
    downscale: full-size pixels per pixel of `rgb`.
    gsd: metres a pixel of the map.

  Returns:
    `psnr`, `shift` [2] metres east and north by which the photo's texture lies
    beside the map's, and `place`: [2] where on the map the texture straight
    below the camera is. None where map or photo do not show enough.
  """
  if -np.asarray(camera.cam_to_world)[2, 2] < np.cos(_MAX_TILT):
    return None
  east, north, _ = _place_below(frame, camera)
  reach = _PATCH / 2 * gsd
  piece = map_reading.read(
      path, (east - reach, north - reach, east + reach, north + reach)
  )
  side = min(piece.shown.shape)
  if side < _PATCH:
    return None
  piece = piece._replace(
      rgb=piece.rgb[:side, :side],
      shown=piece.shown[:side, :side],
      height=piece.height[:side, :side],
  )
  laid, inside = photo_on_map(piece, frame, camera, rgb, downscale)
  both = inside & piece.shown
  if both.mean() < _MIN_SHOWN:
    return None
  mean = laid[both].mean(axis=0)
  fill = lambda values: np.where(both[..., None], values, mean)
  moved = registration.shift(
      registration.grey(fill(piece.rgb / 255)),
      registration.grey(fill(laid)),
  )
  if moved is None:
    return None
  shift = moved * [gsd, -gsd]
  return {
      'psnr': metrics.psnr(piece.rgb, laid, both),
      'shift': shift,
      'place': np.array([east, north]) + shift,
  }


def _gps_places(scene, frame) -> np.ndarray:
  """[N, 2] photos' positions as their files say, on the map; NaN without."""
  places = np.full((len(scene.photos.names), 2), np.nan)
  if frame.crs is None:
    return places
  to_map = pyproj.Transformer.from_crs(4326, frame.crs, always_xy=True)
  for row, path in enumerate(scene.photos.paths):
    gps = metadata.read(path).gps
    if gps is not None:
      places[row] = to_map.transform(gps.longitude, gps.latitude)
  return places


def measure(loaded, path) -> dict[str, Any]:
  """A capture's map against points, photos and GPS.

  Args:
    loaded: a LoadedScene of a scene folder.
    path: FILE.tif, made of it.

  Returns:
    `gsd`, `heights` (median and spread of the difference, metres), `texture`
    (of test photos: PSNR and shift), `gps` (distance on the map between what
    lies below each camera and the photo's own GPS; of the scene: the same for
    its cameras).

  Raises:
    InputError: the scene of the run is another one now.
  """
  scene = readers.load_scene(loaded.config.data.path)
  if not set(loaded.photo_names) <= set(scene.photos.names):
    raise errors.InputError(
        f'{loaded.config.data.path}: got other photos than the run has,'
        ' expected its scene'
    )
  frame = map_frame.make_frame(map_frame.read_frame(loaded.workdir))
  piece = map_reading.read(path)
  result: dict[str, Any] = {
      'gsd': piece.gsd,
      'shown': float(piece.shown.mean()),
      'has_height': float(np.isfinite(piece.height).mean()),
  }
  if scene.points is not None:
    points = frame.from_scene(scene.points.positions)
    error = height_errors(piece, points)
    result['heights'] = {
        'points': len(error),
        'share_of_points': len(error) / len(points),
        'median': float(np.median(error)),
        'median_absolute': float(np.median(np.abs(error))),
        'p90_absolute': float(np.percentile(np.abs(error), 90)),
    }
  return {**result, **_photos(loaded, scene, frame, path, piece.gsd)}


def _photos(loaded, scene, frame, path, gsd) -> dict[str, Any]:
  """What photos say of the map: texture and GPS."""
  pyramid = loaded.open_pyramid()
  gps = _gps_places(scene, frame)
  row_of = {name: row for row, name in enumerate(scene.photos.names)}
  found, offsets, own = [], [], []
  for row, name in enumerate(loaded.photo_names):
    camera = cameras_lib.take(loaded.cameras, row)
    rgb, _ = pyramid_lib.photo(pyramid, row, 0)
    one = compare_photo(path, frame, camera, rgb, loaded.downscale, gsd)
    if one is None:
      continue
    found.append({**one, 'test': row in loaded.split['test']})
    place = gps[row_of[name]]
    if np.isfinite(place).all():
      offsets.append(one['place'] - place)
      own.append(_place_below(frame, camera)[:2] - place)
  test = [one for one in found if one['test']] or found
  texture = None
  if test:
    away = np.linalg.norm([one['shift'] for one in test], axis=-1)
    texture = {
        'photos': len(test),
        'unseen_by_training': bool(test[0]['test']),
        'psnr': float(np.mean([one['psnr'] for one in test])),
        'shift_median': float(np.median(away)),
        'shift_max': float(away.max()),
    }
  return {'texture': texture, 'gps': _gps_summary(offsets, own)}


def _gps_summary(offsets, own) -> dict[str, Any] | None:
  """Distances from GPS, of the map and of the cameras themselves."""
  if not offsets:
    return None
  away = np.linalg.norm(offsets, axis=-1)
  return {
      'photos': len(offsets),
      'median': float(np.median(away)),
      'max': float(away.max()),
      'median_vector': np.median(offsets, axis=0).tolist(),
      'cameras_median': float(np.median(np.linalg.norm(own, axis=-1))),
  }
