"""Exact pixels of the procedural city in place of a trained field."""

import numpy as np

from infnerf_jax.products import map_pixels
from infnerf_jax.scene import city as city_lib


class CityPixels:
  """What `map_pixels.Pixels` says, by casting rays at the city itself.

  Attributes:
    city: the city.
    calls: cameras rendered so far.
  """

  near = 1.0
  min_photos = 0

  def __init__(self, extent: float, *, reach: float | None = None):
    """Casts nothing yet.

    Args:
      extent: metres, of the city.
      reach: metres, side of the box that the map takes for the scene's; None
        is all of the city.
    """
    self.city = city_lib.make_city(extent=extent)
    half = (reach or extent) / 2
    self.sample_aabb = np.array([[-half, -half, -1.0], [half, half, 30.0]])
    self.identity = {'city': extent}
    self.calls = 0

  def render(self, camera) -> map_pixels.TileMaps:
    """See `map_pixels.Pixels`."""
    self.calls += 1
    view = city_lib.render(self.city, camera, supersampling=1, with_depth=False)
    one = np.ones(view.depth.shape, np.float32)
    return map_pixels.TileMaps(view.rgb, one, view.depth, one, 2 * one)

  def count_photos(self, camera, distance) -> None:
    """See `map_pixels.Pixels`: the city is known everywhere."""
    del camera, distance
