"""Makes a true orthophoto and a surface model of a trained run.

python -m experiments.orthophoto --workdir=DIR --gsd=0.1 --out=FILE.tif

The same command goes on where it was interrupted, tile by tile.
"""

from absl import flags

from infnerf_jax import command, progress

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a trained run, or an exported store.'
)
_OUT = flags.DEFINE_string(
    'out', None, 'FILE.tif; beside it FILE_dsm.tif and FILE_accuracy.tif.'
)
_GSD = flags.DEFINE_float('gsd', None, 'Metres a pixel.')
_BOUNDS = flags.DEFINE_string(
    'bounds', '', "west,south,east,north in the map's metres; default: all."
)
_BOUNDARY = flags.DEFINE_string(
    'boundary', '', 'GeoJSON polygons; the map is empty outside.'
)
_CRS = flags.DEFINE_string(
    'crs', '', "Such as EPSG:32633; default: the scene's own."
)
_APPEARANCE = flags.DEFINE_string(
    'appearance', 'mean', 'mean, or the photo whose embedding is taken.'
)
_MAX_MEMORY_GB = flags.DEFINE_float(
    'max_memory_gb', 0.0,
    "Most memory for model, rays, tiles and files; 0: as in training.",
    lower_bound=0.0,
)  # fmt: skip
_SUPERSAMPLING = flags.DEFINE_integer(
    'supersampling', 0, 'Rays along a side of a pixel; 0: as the finest level'
    ' asks for, at most 4.', lower_bound=0, upper_bound=16,
)  # fmt: skip
_MIN_PHOTOS = flags.DEFINE_integer(
    'min_photos', 3, 'That must see what the map shows; 0: all is shown.',
    lower_bound=0,
)  # fmt: skip
_XYZ = flags.DEFINE_string(
    'xyz', '', 'Folder for web tiles of the map too, z/x/y.png.'
)
_PREVIEW = flags.DEFINE_bool(
    'preview', False, 'Also FILE.png and FILE_dsm.png (shaded), small.'
)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only say what it would take.')
flags.mark_flags_as_required(['workdir', 'gsd', 'out'])


def main(argv):
  """Makes the map and prints what was written."""
  del argv
  import infnerf_jax  # jax only where it is needed
  from infnerf_jax.geometry import map_boundary, map_frame
  from infnerf_jax.products import (
    map_canvas,
    map_files,
    map_pixels,
    orthophoto,
    web_tiles,
  )  # fmt: skip

  map_canvas.check_gsd(_GSD.value)
  out = map_files.check_out(_OUT.value)
  bounds = map_canvas.parse_bounds(_BOUNDS.value) if _BOUNDS.value else None
  frame = map_frame.read_frame(_WORKDIR.value)
  frame = map_frame.make_frame(frame, _CRS.value or None)
  if _XYZ.value:
    web_tiles.check_crs(frame.crs)
    web_tiles.check_folder(_XYZ.value)
  boundary = None
  if _BOUNDARY.value:
    boundary = map_boundary.read_boundary(_BOUNDARY.value, frame)
  loaded = infnerf_jax.load(_WORKDIR.value)
  cap = _MAX_MEMORY_GB.value or loaded.config['max_memory_gb'] or None
  pixels = map_pixels.FieldPixels(
      loaded,
      appearance=_APPEARANCE.value,
      max_memory_gb=cap,
      supersampling=_SUPERSAMPLING.value,
      min_photos=_MIN_PHOTOS.value,
  )
  tile_size, cache_bytes = map_pixels.memory_plan(cap)
  job = orthophoto.plan_map(
      pixels, frame, gsd=_GSD.value, bounds=bounds, boundary=boundary,
      tile_size=tile_size,
  )  # fmt: skip
  print(f'{frame.note}; heights above {frame.vertical_datum}')
  size = f'{job.canvas.width} x {job.canvas.height} pixels of {_GSD.value:g} m'
  if _DRY_RUN.value:
    need = orthophoto.estimate(job)
    print(
        f'would write {out}: {size} in {need["tiles"]} tiles, about'
        f' {progress.clock(need["seconds"])}, up to'
        f' {need["disk_bytes"] / 1e9:.2g} GB of disk, memory'
        f' {f"within {cap:g} GB" if cap else "without a cap"}'
    )
    return
  report = orthophoto.write_map(job, out, cache_bytes=cache_bytes)
  print(
      f'wrote {", ".join(report["files"])}: {size},'
      f' {report["pixels_per_second"]:.0f} pixels/s,'
      f' {progress.clock(report["seconds"])}'
  )
  if report['tiles_resumed']:
    print(
        f'{report["tiles_resumed"]} of {report["tiles"]} tiles were there'
        ' already'
    )
  _write_more(out)


def _write_more(out):
  """Preview and web tiles of a finished map, where they are asked for."""
  from infnerf_jax.products import map_preview, web_tiles

  if _PREVIEW.value:
    print(f'wrote {", ".join(map(str, map_preview.write_preview(out)))}')
  if _XYZ.value:
    tiles = web_tiles.write_tiles(out, _XYZ.value)
    print(
        f'wrote {_XYZ.value}: {tiles["num_tiles"]} tiles, zoom'
        f' {tiles["minzoom"]} to {tiles["maxzoom"]}'
    )


if __name__ == '__main__':
  command.run(main)
