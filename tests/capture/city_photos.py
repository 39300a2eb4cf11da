"""A flight over the procedural city: photos with EXIF, places known."""

import numpy as np
import PIL.Image
import pyproj

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from tests.capture import builders

EPSG = 32614
ORIGIN = np.array([500_000.0, 3_320_000.0, 180.0])  # of the city on the map
_WIDTH, _HEIGHT, _FOCAL = 480, 360, 400.0
ALTITUDE = 45.0


def make(folder, *, rows: int = 3, columns: int = 5):
  """Photos of two-thirds overlap from straight above, tilted a little.

  Args:
    folder: for them.
    rows: lines of the flight.
    columns: photos a line.

  Returns:
    (City, [N, 3] places of the cameras on the map).
  """
  folder.mkdir(parents=True)
  city = city_lib.make_city(extent=132.0)
  to_earth = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True)
  rng = np.random.default_rng(0)
  places = []
  for row in range(rows):
    order = range(columns) if row % 2 == 0 else reversed(range(columns))
    for column in order:
      place = np.array(
          [(column - (columns - 1) / 2) * 14, (row - (rows - 1) / 2) * 14, 0.0]
      )
      place += [*rng.normal(0, 0.5, 2), ALTITUDE + rng.normal(0, 1.5)]
      target = place * [1, 1, 0] + [*rng.normal(0, 2.0, 2), 0]
      camera = cameras_lib.make_camera(
          focal=_FOCAL, width=_WIDTH, height=_HEIGHT,
          cam_to_world=cameras_lib.look_at(place, target, (0, 1, 0)),
      )  # fmt: skip
      view = city_lib.render(city, camera, supersampling=3, with_depth=False)
      east, north, height = place + ORIGIN
      longitude, latitude = to_earth.transform(east, north)
      PIL.Image.fromarray(np.round(255 * view.rgb).astype(np.uint8)).save(
          folder / f'DJI_{len(places):04d}.jpg', quality=95,
          exif=builders.exif(
              (latitude, longitude, height), focal35=36 * _FOCAL / _WIDTH
          ),
      )  # fmt: skip
      places.append(place + ORIGIN)
  return city, np.array(places)
