"""What cameras write into photos: lens, time and place (EXIF, DJI's XMP)."""

import math
import pathlib
import warnings
from typing import NamedTuple

import defusedxml
import PIL.Image
from defusedxml import ElementTree
from PIL.ExifTags import GPS, IFD, Base

_DJI = 'drone-dji/'
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # FocalPlaneResolutionUnit
_FULL_FRAME_MM = 36.0
# Beyond these (of the longer side) a written focal length is a slip.
_FOCAL_RANGE = (0.2, 10.0)


class Gps(NamedTuple):
  """Where a photo was taken, WGS 84; NaN where the file says NaN.

  Attributes:
    latitude: degrees, north positive.
    longitude: degrees, east positive.
    altitude: metres above what the camera's maker chose (sea level, mostly),
      or None.
    source: 'EXIF' or 'XMP'.
  """

  latitude: float
  longitude: float
  altitude: float | None
  source: str


class Metadata(NamedTuple):
  """What a photo says of itself.

  Attributes:
    camera: maker, model, serial number, and focal length in millimetres as
      written: photos of equal `camera` and size share one lens.
    focal: pixels of the stored photo, or None where the file does not say.
    time: EXIF's date and time, '' without.
    gps: Gps or None.
  """

  camera: tuple[str, ...]
  focal: float | None
  time: str
  gps: Gps | None


def read(path: pathlib.Path) -> Metadata:
  """Reads a photo's metadata; whatever is malformed counts as absent.

  Args:
    path: photo whose header can be read.

  Returns:
    Metadata.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow warns of damaged EXIF blocks.
    try:
      with PIL.Image.open(path) as image:
        size, info = image.size, image.info
        exif = image.getexif()
        lens = dict(exif.get_ifd(IFD.Exif))
        place = dict(exif.get_ifd(IFD.GPSInfo))
        head = dict(exif)
    except Exception:  # A broken EXIF block says nothing about the pixels.
      return Metadata(('', '', '', ''), None, '', None)
  xmp = _dji_xmp(info.get('xmp') or info.get('XML:com.adobe.xmp'))
  text = lambda table, tag: str(table.get(tag, '')).strip(' \0')
  camera = (
      text(head, Base.Make),
      text(head, Base.Model),
      text(lens, Base.BodySerialNumber),
      text(lens, Base.FocalLength),
  )
  time = text(lens, Base.DateTimeOriginal) or text(head, Base.DateTime)
  gps = _xmp_gps(xmp) or _exif_gps(place)
  return Metadata(camera, _focal(lens, size), time, gps)


def _number(value) -> float:
  """A float; NaN where it is none (0/0 is how EXIF writes it)."""
  try:
    return float(value)
  except (TypeError, ValueError, ZeroDivisionError):
    return math.nan


def _focal(lens: dict, size) -> float | None:
  """Focal length in pixels by the sensor's size, else by 35 mm equivalent."""
  longer = max(size)
  focal = math.nan
  unit = _MM_PER_UNIT.get(lens.get(Base.FocalPlaneResolutionUnit, 2))
  density = _number(lens.get(Base.FocalPlaneXResolution))
  if unit and density > 0:
    written = [lens.get(Base.ExifImageWidth), lens.get(Base.ExifImageHeight)]
    written = max((_number(v) for v in written if v), default=math.nan)
    # Photos made smaller keep the density of the full size; some programs
    # correct it together with the written size.
    focal = _number(lens.get(Base.FocalLength)) * density / unit
    focal *= longer / written
  if not math.isfinite(focal):
    equivalent = _number(lens.get(Base.FocalLengthIn35mmFilm))
    focal = equivalent / _FULL_FRAME_MM * longer
  if not _FOCAL_RANGE[0] * longer <= focal <= _FOCAL_RANGE[1] * longer:
    return None
  return focal


def _exif_gps(place: dict) -> Gps | None:
  """The position of EXIF's GPS block; None without one or without a fix."""
  if str(place.get(GPS.GPSStatus, 'A')).strip('\0 ') == 'V':
    return None
  latitude = _degrees(place.get(GPS.GPSLatitude))
  longitude = _degrees(place.get(GPS.GPSLongitude))
  if latitude is None or longitude is None:
    return None
  if str(place.get(GPS.GPSLatitudeRef, 'N')).upper().startswith('S'):
    latitude = -latitude
  if str(place.get(GPS.GPSLongitudeRef, 'E')).upper().startswith('W'):
    longitude = -longitude
  altitude = None
  if GPS.GPSAltitude in place:
    altitude = _number(place[GPS.GPSAltitude])
    if place.get(GPS.GPSAltitudeRef) in (1, b'\x01', '1'):
      altitude = -altitude
  return _with_fix(Gps(latitude, longitude, altitude, 'EXIF'))


def _degrees(value) -> float | None:
  """Degrees of (degrees, minutes, seconds); None where nothing is written."""
  if value is None:
    return None
  parts = value if isinstance(value, tuple | list) else (value,)
  scale = (1.0, 1 / 60, 1 / 3600)
  return sum(_number(p) * s for p, s in zip(parts, scale, strict=False))


def _with_fix(gps: Gps) -> Gps | None:
  """Cameras without a fix write the origin of latitude and longitude."""
  return None if gps.latitude == 0 and gps.longitude == 0 else gps


def _dji_xmp(content) -> dict[str, str]:
  """Fields of DJI's namespace in an XMP packet, as attributes or elements."""
  if not content:
    return {}
  try:
    root = ElementTree.fromstring(
        content.strip(b'\0 \n') if isinstance(content, bytes) else content
    )
  except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError):
    return {}
  fields = {}
  for element in root.iter():
    pairs = [*element.attrib.items(), (element.tag, element.text)]
    for tag, value in pairs:
      space, _, name = str(tag).rpartition('}')
      if _DJI in space and value:
        fields[name] = value.strip()
  return fields


def _xmp_gps(xmp: dict[str, str]) -> Gps | None:
  """DJI's own position: more digits than EXIF's."""
  latitude = xmp.get('GpsLatitude')
  # The first spelling is DJI's.
  longitude = xmp.get('GpsLongtitude', xmp.get('GpsLongitude'))
  if latitude is None or longitude is None:
    return None
  altitude = xmp.get('AbsoluteAltitude')
  altitude = None if altitude is None else _number(altitude)
  return _with_fix(Gps(_number(latitude), _number(longitude), altitude, 'XMP'))
