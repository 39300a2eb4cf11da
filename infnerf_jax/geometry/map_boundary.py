"""A boundary around what a map shows, from GeoJSON."""

from typing import Any, NamedTuple

import numpy as np
import pyproj
import rasterio
import rasterio.features
import rasterio.warp

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import map_frame

_POLYGONS = ('Polygon', 'MultiPolygon')


class Boundary(NamedTuple):
  """Polygons in map coordinates.

  Attributes:
    shapes: GeoJSON geometries.
    bounds: west, south, east, north, metres.
  """

  shapes: list[Any]
  bounds: tuple[float, float, float, float]

  def inside(self, west: float, north: float, gsd: float, shape) -> np.ndarray:
    """Which pixels of a raster have their centres inside.

    Args:
      west: left edge of the raster, metres of the map.
      north: its upper edge.
      gsd: metres a pixel.
      shape: (H, W).

    Returns:
      [H, W] bool.
    """
    return rasterio.features.geometry_mask(
        self.shapes,
        tuple(shape),
        rasterio.Affine(gsd, 0.0, west, 0.0, -gsd, north),
        invert=True,
    )


def _geometries(content, found: list[Any]) -> None:
  """Collects the polygons of any GeoJSON object."""
  kind = content.get('type') if isinstance(content, dict) else None
  if kind == 'FeatureCollection':
    for feature in content.get('features') or ():
      _geometries(feature, found)
  elif kind == 'Feature':
    _geometries(content.get('geometry'), found)
  elif kind == 'GeometryCollection':
    for geometry in content.get('geometries') or ():
      _geometries(geometry, found)
  elif kind in _POLYGONS and rasterio.features.is_valid_geom(content):
    found.append(content)


def _stated_crs(content, path) -> pyproj.CRS:
  """Longitude and latitude, unless the file names another (before RFC 7946)."""
  try:
    name = content['crs']['properties']['name']
  except (KeyError, TypeError):
    name = 'OGC:CRS84'
  try:
    return pyproj.CRS.from_user_input(name)
  except pyproj.exceptions.CRSError:
    raise errors.InputError(
        f'{path}: crs: got {name!r}, expected a coordinate system that is known'
    ) from None


def read_boundary(path, frame: map_frame.MapFrame) -> Boundary:
  """Reads a boundary.

  Coordinates are longitude and latitude (RFC 7946), or what the file's `crs`
  member names; beside a map of local coordinates, metres of the map.

  Args:
    path: GeoJSON.
    frame: of the map.

  Returns:
    Boundary.

  Raises:
    InputError: no GeoJSON, no polygon in it, or numbers that do not fit.
  """
  content = json_files.read_json(path)
  shapes: list[Any] = []
  _geometries(content, shapes)
  if not shapes:
    raise errors.InputError(
        f'{path}: got no polygon, expected GeoJSON with a Polygon or'
        ' MultiPolygon'
    )
  if frame.crs is not None:
    source = _stated_crs(content, path)
    shapes = [
        rasterio.warp.transform_geom(source.to_wkt(), frame.wkt, shape)
        for shape in shapes
    ]
  extents = np.array([rasterio.features.bounds(shape) for shape in shapes])
  if not np.isfinite(extents).all():
    raise errors.InputError(
        f'{path}: got coordinates that are none of {frame.note}, expected'
        ' longitude and latitude, or a crs member'
    )
  low, high = extents[:, :2].min(axis=0), extents[:, 2:].max(axis=0)
  return Boundary(shapes, (*low.tolist(), *high.tolist()))
