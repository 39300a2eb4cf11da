"""Files of a map: tiles, their journal, and the mosaics they become.

While a map is made its tiles lie in the folder `NAME.tif.part`, each whole or
absent, with a journal of what is done. The finished map appears under its own
name only when it is complete.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio import errors as rasterio_errors
from rasterio import shutil as rasterio_shutil

from infnerf_jax import errors, json_files
from infnerf_jax.products import map_canvas

NODATA = -9999.0
BLOCK = 512
# GDAL keeps a block's buffer for every tile that it has open.
_TILE_BLOCK, _OPEN_TILES = 256, 12
_JOURNAL = 'journal.jsonl'
_FULL_BYTES = 4 << 20


class Layer(NamedTuple):
  """A raster of a map.

  Attributes:
    suffix: of its file's stem.
    dtype: of all bands.
    bands: their descriptions.
    colors: GDAL's colour interpretation of each.
    nodata: value of no data; None where an alpha band says it.
    unit: of all bands, '' is none.
  """

  suffix: str
  dtype: str
  bands: tuple[str, ...]
  colors: tuple[str, ...]
  nodata: float | None
  unit: str


TDOM = Layer(
    '', 'uint8', ('red', 'green', 'blue', 'alpha'),
    ('Red', 'Green', 'Blue', 'Alpha'), None, '',
)  # fmt: skip
DSM = Layer('_dsm', 'float32', ('height',), ('Gray',), NODATA, 'metre')
ACCURACY = Layer(
    '_accuracy', 'float32',
    ('opacity', 'octree level used', 'photos that see it'),
    ('Gray', 'Undefined', 'Undefined'), NODATA, '',
)  # fmt: skip
LAYERS = (TDOM, DSM, ACCURACY)


def layer_path(out: pathlib.Path, layer: Layer) -> pathlib.Path:
  """FILE.tif, FILE_dsm.tif, FILE_accuracy.tif."""
  return out.with_name(out.stem + layer.suffix + out.suffix)


def gdal_options(cache_bytes: int) -> rasterio.Env:
  """GDAL's settings while a map is made: what it may hold in memory.

  Args:
    cache_bytes: of blocks.
  """
  return rasterio.Env(
      GDAL_CACHEMAX=int(cache_bytes),
      GDAL_MAX_DATASET_POOL_SIZE=str(_OPEN_TILES),
      VRT_NUM_THREADS='1',
  )


@contextlib.contextmanager
def gdal_errors(path):
  """GDAL's refusals as ours: a full disk, or a file that is not written."""
  try:
    yield
  except (rasterio_errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
    folder = pathlib.Path(path).parent
    if shutil.disk_usage(folder).free < _FULL_BYTES:
      raise OSError(28, 'No space left on device', str(path)) from None
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise errors.InputError(
        f'{path}: got {text}, expected a file that can be written'
    ) from None


def check_out(out) -> pathlib.Path:
  """The path of a map that can be written.

  Raises:
    InputError: no .tif, or its folder cannot be written.
  """
  out = pathlib.Path(out)
  if out.suffix.lower() not in ('.tif', '.tiff'):
    raise errors.InputError(f'--out: got {out}, expected a file named *.tif')
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    probe = out.with_name(f'.{out.name}.{os.getpid()}.part')
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise errors.InputError(
        f'--out: {out}: got {error.strerror}, expected a place that can be'
        ' written'
    ) from None
  for layer in LAYERS:
    if layer_path(out, layer).is_dir():
      raise errors.InputError(
          f'--out: {layer_path(out, layer)}: got a folder, expected a file'
      )
  return out


class TileStore:
  """Tiles of an unfinished map on disk; a context manager that locks them."""

  def __init__(
      self,
      out: pathlib.Path,
      canvas: map_canvas.Canvas,
      job: dict[str, Any],
  ):
    """Opens or begins the tiles of a map.

    Args:
      out: the map's path.
      canvas: the map's pixels.
      job: all that decides its pixels; JSON.

    Raises:
      InputError: the folder holds another map's tiles, or is in use.
    """
    self.out, self.folder = out, out.with_name(out.name + '.part')
    self.done: dict[tuple[int, int], bool] = {}
    self._canvas, self._job = canvas, json_files.plain(job)
    self._file = None

  def __enter__(self):
    try:
      self.folder.mkdir(exist_ok=True)
      self._file = open(self.folder / _JOURNAL, 'a+', encoding='utf-8')
    except OSError as error:
      raise errors.InputError(
          f'{self.folder}: got {error.strerror}, expected a folder that can be'
          ' written'
      ) from None
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      self._file.close()
      raise errors.InputError(
          f'{self.folder}: got a folder that another process is writing,'
          ' expected another --out'
      ) from None
    try:
      self._read()
    except errors.InputError:
      self._file.close()
      raise
    return self

  def __exit__(self, *unused):
    self._file.close()

  def _read(self):
    """What the journal says is done, as far as the files agree."""
    self._file.seek(0)
    lines, entries = self._file.read().split('\n'), []
    for line in lines:
      with contextlib.suppress(ValueError):  # The last line of a kill.
        entries.append(json.loads(line))
    if not entries:
      self._file.truncate(0)
      self._append({'job': self._job})
      return
    job = entries[0].get('job')
    if job != self._job:
      odd = [k for k, v in self._job.items() if (job or {}).get(k) != v]
      found = {k: (job or {}).get(k) for k in odd[:2]}
      raise errors.InputError(
          f'{self.folder}: got the unfinished map of another command'
          f' ({found}), expected the same command, another --out, or no such'
          ' folder'
      )
    if lines[-1]:
      self._file.write('\n')
    for entry in entries[1:]:
      tile = map_canvas.Tile(*entry['tile'])
      if entry['empty'] or all(
          self.path(layer, tile).is_file() for layer in LAYERS
      ):
        self.done[tile.row, tile.column] = entry['empty']

  def _append(self, entry) -> None:
    self._file.write(json.dumps(entry) + '\n')
    self._file.flush()
    os.fsync(self._file.fileno())

  def path(self, layer: Layer, tile: map_canvas.Tile) -> pathlib.Path:
    """File of one layer of a tile."""
    kind = layer.suffix.strip('_') or 'tdom'
    return self.folder / f'{kind}_{tile.row}_{tile.column}.tif'

  def is_done(self, tile: map_canvas.Tile) -> bool:
    return (tile.row, tile.column) in self.done

  def add(self, tile: map_canvas.Tile, values) -> None:
    """Stores a tile: an array [bands, H, W] a layer; None is all empty."""
    if values is not None:
      for layer, bands in zip(LAYERS, values, strict=True):
        west, _, _, north = self._canvas.rectangle(tile)
        gsd = self._canvas.gsd
        place = rasterio.Affine(gsd, 0.0, west, 0.0, -gsd, north)
        _write_tile(self.path(layer, tile), layer, bands, place)
    entry = {'tile': list(tile), 'empty': values is None}
    self._append(entry)
    self.done[tile.row, tile.column] = values is None

  def remove(self) -> None:
    """Takes the tiles away once the map is there."""
    shutil.rmtree(self.folder)


def _write_tile(path: pathlib.Path, layer: Layer, bands, place) -> None:
  """Writes one tiled GeoTIFF; it has its name when it is whole."""
  partial = path.with_name(path.name + '.part')
  partial.unlink(missing_ok=True)  # Half a file of a kill.
  count, height, width = bands.shape
  with gdal_errors(path):
    with rasterio.open(
        partial, 'w', driver='GTiff', dtype=layer.dtype, count=count,
        transform=place, width=width, height=height, nodata=layer.nodata,
        tiled=True, blockxsize=_TILE_BLOCK, blockysize=_TILE_BLOCK,
        compress='deflate', zlevel=1, BIGTIFF='IF_SAFER',
        predictor=3 if layer.dtype == 'float32' else 2,
    ) as file:  # fmt: skip
      file.write(np.ascontiguousarray(bands, layer.dtype))
    # GDAL says nothing of a disk that was full when it closed the file.
    with rasterio.open(partial) as file:
      if not np.array_equal(file.read(), bands.astype(layer.dtype)):
        raise rasterio_errors.RasterioIOError('other pixels than were written')
  os.replace(partial, path)


def mosaic_xml(
    canvas: map_canvas.Canvas, layer: Layer, sources, wkt: str, tags
) -> str:
  """GDAL's virtual raster of a layer's tiles.

  Args:
    canvas: map.
    layer: which.
    sources: (Tile, file name beside the virtual raster) of those not empty.
    wkt: coordinate system.
    tags: metadata, {name: text}.

  Returns:
    XML.
  """
  size = {'rasterXSize': str(canvas.width), 'rasterYSize': str(canvas.height)}
  root = ElementTree.Element('VRTDataset', size)
  add = lambda parent, name, text, **attributes: setattr(
      ElementTree.SubElement(parent, name, attributes), 'text', text
  )
  add(root, 'SRS', wkt)
  add(root, 'GeoTransform', ', '.join(map(repr, canvas.geotransform)))
  metadata = ElementTree.SubElement(root, 'Metadata')
  for key, value in {**tags, 'AREA_OR_POINT': 'Area'}.items():
    add(metadata, 'MDI', str(value), key=key)
  kind = {'uint8': 'Byte', 'float32': 'Float32'}[layer.dtype]
  for number, (name, color) in enumerate(zip(layer.bands, layer.colors), 1):
    band = ElementTree.SubElement(
        root, 'VRTRasterBand', {'dataType': kind, 'band': str(number)}
    )
    add(band, 'Description', name)
    if layer.nodata is not None:
      add(band, 'NoDataValue', repr(layer.nodata))
    if layer.unit:
      add(band, 'UnitType', layer.unit)
    add(band, 'ColorInterp', color)
    for tile, file in sources:
      source = ElementTree.SubElement(band, 'SimpleSource')
      add(source, 'SourceFilename', file, relativeToVRT='1')
      add(source, 'SourceBand', str(number))
      extent = {'xSize': str(tile.width), 'ySize': str(tile.height)}
      # With its size stated a source is opened only when it is read.
      block = {
          'BlockXSize': str(_TILE_BLOCK), 'BlockYSize': str(_TILE_BLOCK),
      }  # fmt: skip
      shape = {
          'RasterXSize': str(tile.width), 'RasterYSize': str(tile.height),
          'DataType': kind, **block,
      }  # fmt: skip
      ElementTree.SubElement(source, 'SourceProperties', shape)
      origin = {'xOff': '0', 'yOff': '0'}
      ElementTree.SubElement(source, 'SrcRect', {**origin, **extent})
      origin = {'xOff': str(tile.column), 'yOff': str(tile.row)}
      ElementTree.SubElement(source, 'DstRect', {**origin, **extent})
  return ElementTree.tostring(root, encoding='unicode')


def write_mosaics(
    store: TileStore, canvas: map_canvas.Canvas, wkt: str, tags
) -> list[pathlib.Path]:
  """Makes Cloud-Optimised GeoTIFFs with overviews of a map's tiles.

  Args:
    store: with all tiles done.
    canvas: map.
    wkt: coordinate system.
    tags: metadata, {name: text}.

  Returns:
    Their paths.
  """
  tiles = [t for t in canvas.tiles() if not store.done[t.row, t.column]]
  finished = []
  for layer in LAYERS:
    virtual = store.folder / f'mosaic{layer.suffix}.vrt'
    sources = [(tile, store.path(layer, tile).name) for tile in tiles]
    json_files.write_text_atomic(
        virtual, mosaic_xml(canvas, layer, sources, wkt, tags)
    )
    partial = store.folder / f'mosaic{layer.suffix}.tif.part'
    partial.unlink(missing_ok=True)
    with gdal_errors(partial):
      rasterio_shutil.copy(
          os.fspath(virtual), os.fspath(partial), driver='COG',
          COMPRESS='DEFLATE', PREDICTOR='YES', BLOCKSIZE=BLOCK,
          BIGTIFF='IF_SAFER', OVERVIEWS='IGNORE_EXISTING',
          OVERVIEW_RESAMPLING='AVERAGE', NUM_THREADS='2',
      )  # fmt: skip
      _check_mosaic(partial, canvas)
    finished.append((partial, layer_path(store.out, layer)))
  # The orthophoto comes last: where it is, all are.
  store.out.unlink(missing_ok=True)
  for partial, path in reversed(finished):
    os.replace(partial, path)
  return [path for _, path in finished]


def _check_mosaic(path, canvas: map_canvas.Canvas) -> None:
  """Reads corners of all resolutions, which a full disk would have cut."""
  with rasterio.open(path) as file:
    if (file.width, file.height) != (canvas.width, canvas.height):
      raise rasterio_errors.RasterioIOError('a file of another size')
    levels = [None, *range(len(file.overviews(1)))]
  for level in levels:
    more = {} if level is None else {'overview_level': level}
    with rasterio.open(path, **more) as file:
      for row, column in ((0, 0), (file.height - 1, file.width - 1)):
        file.read(window=((row, row + 1), (column, column + 1)))
