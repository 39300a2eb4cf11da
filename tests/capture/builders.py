"""Photos with EXIF, made for tests."""

import PIL.Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational


def _sexagesimal(degrees):
  """EXIF's degrees, minutes, seconds; a micrometre of rounding."""
  whole = int(degrees)
  minutes = int((degrees - whole) * 60)
  seconds = ((degrees - whole) * 60 - minutes) * 3600 / 60
  return (
      IFDRational(whole, 1),
      IFDRational(minutes, 1),
      IFDRational(round(seconds * 1e7), 10**7),
  )


def exif(place=None, *, nan=False, orientation=1, focal35=None, status=None):
  """An EXIF block.

  Args:
    place: (latitude, longitude, altitude) or None.
    nan: write the latitude as 0/0.
    orientation: EXIF orientation.
    focal35: focal length of full frame, millimetres.
    status: GPSStatus.

  Returns:
    PIL.Image.Exif.
  """
  block = PIL.Image.Exif()
  block[Base.Make] = 'Maker'
  block[Base.Model] = 'One'
  block[Base.Orientation] = orientation
  lens = block.get_ifd(IFD.Exif)
  lens[Base.DateTimeOriginal] = '2024:05:01 10:00:00'
  if focal35 is not None:
    lens[Base.FocalLengthIn35mmFilm] = focal35
  if place is None:
    return block
  latitude, longitude, altitude = place
  table = block.get_ifd(IFD.GPSInfo)
  table[GPS.GPSLatitudeRef] = 'N' if latitude >= 0 else 'S'
  table[GPS.GPSLongitudeRef] = 'E' if longitude >= 0 else 'W'
  table[GPS.GPSLatitude] = _sexagesimal(abs(latitude))
  table[GPS.GPSLongitude] = _sexagesimal(abs(longitude))
  if nan:
    table[GPS.GPSLatitude] = (IFDRational(0, 0),) * 3
  if altitude is not None:
    table[GPS.GPSAltitudeRef] = b'\x01' if altitude < 0 else b'\x00'
    table[GPS.GPSAltitude] = IFDRational(round(abs(altitude) * 1000), 1000)
  if status is not None:
    table[GPS.GPSStatus] = status
  return block


def photo(path, place=None, *, size=(64, 48), color=128, xmp=None, **options):
  """Writes a photo of one colour; see `exif`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = PIL.Image.new('RGB', size, (color,) * 3)
  extra = {} if xmp is None else {'xmp': xmp}
  image.save(path, exif=exif(place, **options), **extra)


def dji_xmp(**fields):
  """An XMP packet as DJI writes it: attributes of one description."""
  written = ' '.join(f'drone-dji:{k}="{v}"' for k, v in fields.items())
  return (
      '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
      ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
      '<rdf:Description xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" '
      f'{written}/></rdf:RDF></x:xmpmeta>'
  ).encode()
