"""Where a scene lies on a map: its frame, and the map's coordinate system.

Map coordinates are east, north, height in metres of the map's coordinate
system, float64; scene coordinates are the scene's own metres, related to its
source by `scene = rotation (source - offset)`.
"""

import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import pyproj
from pyproj import exceptions as pyproj_exceptions

from infnerf_jax import errors, json_files

FRAME_FILE = 'frame.json'
_LOCAL = (
    'LOCAL_CS["{}",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)
_CODE = re.compile(r'^(epsg|esri|ogc|iau\w*):\w+', re.IGNORECASE)
_DEFINITION = re.compile(r'^(\+proj|[A-Z]+CRS\[|PROJCS\[|COMPD_CS\[|GEOCCS\[)')


class MapFrame(NamedTuple):
  """A scene's place on a map.

  Attributes:
    wkt: the map's coordinate system.
    is_local: whether it is one of the scene's own, nowhere on Earth.
    note: a sentence about where it comes from.
    vertical_datum: what heights are above.
    rotation: [3, 3] of the scene's frame.
    offset: [3] metres.
    to_source: pyproj.Transformer from the map to the frame's coordinate
      system; None where they are the same.
    crs: pyproj.CRS of the map, None where it is local.
  """

  wkt: str
  is_local: bool
  note: str
  vertical_datum: str
  rotation: np.ndarray
  offset: np.ndarray
  to_source: Any
  crs: Any

  def to_scene(self, points) -> np.ndarray:
    """Scene coordinates of map coordinates, [..., 3] float64, metres."""
    points = np.asarray(points, np.float64)
    if self.to_source is not None:
      points = np.stack(
          self.to_source.transform(*np.moveaxis(points, -1, 0)), axis=-1
      )
    return (points - self.offset) @ self.rotation.T

  def from_scene(self, points) -> np.ndarray:
    """Map coordinates of scene coordinates, [..., 3] float64, metres."""
    points = np.asarray(points, np.float64) @ self.rotation + self.offset
    if self.to_source is None:
      return points
    moved = self.to_source.transform(
        *np.moveaxis(points, -1, 0), direction='INVERSE'
    )
    return np.stack(moved, axis=-1)


def _parse(text: str, what: str) -> pyproj.CRS:
  """A coordinate system by its name, or InputError."""
  try:
    return pyproj.CRS.from_user_input(text)
  except pyproj_exceptions.CRSError:
    raise errors.InputError(
        f'{what}: got {text!r}, expected a coordinate system that is known,'
        ' such as EPSG:32633'
    ) from None


def check_system(stated: Any, where: str) -> None:
  """Refuses a code or definition of a coordinate system that is unknown.

  Args:
    stated: what a scene says; words that name no system are left alone.
    where: file and field, for the message.

  Raises:
    InputError: it is unknown.
  """
  if _names_system(str(stated)):
    _parse(str(stated), where)


def _names_system(stated: str) -> bool:
  """Whether a text is meant for pyproj; scenes may say anything."""
  return bool(_CODE.match(stated) or _DEFINITION.match(stated))


def _checked_map(crs: pyproj.CRS, what: str) -> pyproj.CRS:
  """Refuses a map whose axes are not metres."""
  units = {axis.unit_name for axis in crs.axis_info[:2]}
  if not crs.is_projected or units != {'metre'}:
    raise errors.InputError(
        f'{what}: got {crs.name} in {", ".join(sorted(units))}, expected a'
        ' projected coordinate system in metres'
    )
  return crs


def _utm(source: pyproj.CRS, offset) -> pyproj.CRS:
  """The UTM zone of a place, for frames whose own axes make no map."""
  to_degrees = pyproj.Transformer.from_crs(
      source.to_3d(), 'EPSG:4979', always_xy=True
  )
  longitude, latitude, _ = to_degrees.transform(*offset)
  zone = int((longitude + 180) // 6) % 60 + 1
  return pyproj.CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def read_frame(workdir) -> dict[str, Any]:
  """`frame.json` of a run's workdir; one that says nothing without it.

  Raises:
    InputError: its offset or rotation are not numbers of the right shape.
  """
  path = pathlib.Path(workdir) / FRAME_FILE
  frame = {'coordinate_system': 'unknown'}
  if path.is_file():
    content = json_files.read_json(path)
    if not isinstance(content, dict):
      raise errors.InputError(f'{path}: got no JSON object, expected one')
    frame.update(content)
  for field, default in (('offset', np.zeros(3)), ('rotation', np.eye(3))):
    try:
      value = np.asarray(frame.get(field, default), np.float64)
    except (TypeError, ValueError):
      value = np.zeros(0)
    if value.shape != default.shape or not np.isfinite(value).all():
      raise errors.InputError(
          f'{path}: {field}: got {frame.get(field)}, expected finite numbers of'
          f' shape {list(default.shape)}'
      )
    frame[field] = value
  return frame


def frame_of_scene(frame: dict[str, Any]) -> MapFrame:
  """The map of a scene that is not trained yet.

  Args:
    frame: see `scene.Scene`.

  Returns:
    MapFrame.
  """
  arrays = {k: np.asarray(frame[k], np.float64) for k in ('offset', 'rotation')}
  return make_frame({**frame, **arrays})


def _local(frame, stated: str) -> MapFrame:
  """A map in the scene's own axes."""
  name = re.sub(r'[^\w ,.-]', '', stated)[:60] or 'unknown'
  return MapFrame(
      wkt=_LOCAL.format(f'scene ({name})'),
      is_local=True,
      note=(
          f'the scene states no place on Earth (coordinate system {stated!r}):'
          ' the map has a local coordinate system in metres'
      ),
      vertical_datum='zero of the scene',
      rotation=frame['rotation'],
      offset=frame['offset'],
      to_source=None,
      crs=None,
  )


def make_frame(frame: dict[str, Any], crs: str | None = None) -> MapFrame:
  """Where a scene lies on a map.

  Args:
    frame: as `read_frame` gives it.
    crs: the map's coordinate system, as pyproj knows it; None is the scene's
      own, or its UTM zone where that has no metres east and north.

  Returns:
    MapFrame.

  Raises:
    InputError: a coordinate system is unknown, or not in metres.
  """
  stated = str(frame.get('coordinate_system') or 'unknown')
  wanted = _checked_map(_parse(crs, '--crs'), '--crs') if crs else None
  if not _names_system(stated):
    local = _local(frame, stated)
    if wanted is None:
      return local
    return local._replace(
        wkt=wanted.to_wkt('WKT1_GDAL'),
        is_local=False,
        note=(
            f'the scene states no place on Earth ({stated!r}): its coordinates'
            f' are taken to be those of {wanted.name}'
        ),
        vertical_datum='zero of the scene',
        crs=wanted,
    )
  source = _parse(stated, f'{FRAME_FILE}: coordinate_system')
  if wanted is None:
    wanted = source.sub_crs_list[0] if source.is_compound else source
    if not wanted.is_projected:
      wanted = _utm(source, frame['offset'])
    wanted = _checked_map(wanted, f'{FRAME_FILE}: coordinate_system')
  horizontal = source.sub_crs_list[0] if source.is_compound else source
  same = wanted.equals(horizontal, ignore_axis_order=True)
  to_source = None
  if not same:
    to_source = pyproj.Transformer.from_crs(
        wanted.to_3d(), horizontal.to_3d(), always_xy=True
    )
  return MapFrame(
      wkt=wanted.to_wkt('WKT1_GDAL'),
      is_local=False,
      note=f'coordinate system {wanted.name}'
      + ('' if same else f', from {source.name}'),
      vertical_datum=_vertical_datum(frame, source),
      rotation=frame['rotation'],
      offset=frame['offset'],
      to_source=to_source,
      crs=wanted,
  )


def _vertical_datum(frame, source: pyproj.CRS) -> str:
  """What heights are above, as far as the scene says."""
  if frame.get('vertical_datum'):
    return str(frame['vertical_datum'])
  if source.is_compound:
    return source.sub_crs_list[1].name
  if source.is_geocentric or len(source.axis_info) == 3:
    return f'ellipsoid {source.ellipsoid.name}'
  return 'unknown (heights as the scene has them)'
