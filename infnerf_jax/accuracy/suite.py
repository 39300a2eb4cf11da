"""Suite `maps`: how right the maps of a run are.

Of a run of the procedural city against the exact city; of a real capture
against its photos, sparse points and GPS.
"""

import pathlib
import tempfile

import numpy as np

from infnerf_jax.accuracy import capture_maps, city_maps
from infnerf_jax.evaluation.bench import harness
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import map_pixels, orthophoto
from infnerf_jax.scene import readers

# Of a map's pixel: what heights and places may be off.
_TARGET = 1.0
# Metres outwards for each metre of height that no eye sees.
_LEAN_TARGET = 0.02
_SERIES = 'maps/city/series'


def run(context) -> list[harness.Row]:
  """Rows of a run's maps.

  Args:
    context: of `suites`; its scene is a LoadedScene, its map_path a map of a
      capture that is there already, or None.

  Returns:
    Rows.
  """
  scene = context.scene
  if scene is None:
    return [harness.missing_row('maps', 'm', 'no --workdir of a trained run')]
  with tempfile.TemporaryDirectory() as folder:
    if not scene.config.data.path:
      factors = city_maps.FACTORS
      if context.tiny:
        factors = (1.0, 2.0)
      return city_rows(city_maps.measure(scene, folder, factors))
    path = context.map_path or _make_map(scene, pathlib.Path(folder))
    return capture_rows(capture_maps.measure(scene, path))


def _make_map(scene, folder: pathlib.Path) -> pathlib.Path:
  """The map at the photos' ground sampling distance."""
  points = readers.load_scene(scene.config.data.path).points
  ground = 0.0 if points is None else float(np.median(points.positions[:, 2]))
  frame = map_frame.make_frame(map_frame.read_frame(scene.workdir))
  job = orthophoto.plan_map(
      map_pixels.FieldPixels(scene), frame,
      gsd=city_maps.photo_gsd(scene, ground),
  )  # fmt: skip
  out = folder / 'map.tif'
  orthophoto.write_map(job, out, show_progress=False)
  return out


def city_rows(measured) -> list[harness.Row]:
  """Rows of `city_maps.measure`; promises are for maps at the photos' GSD."""
  own, rows = measured['photo_gsd'], []
  for one in measured['maps']:
    name = f'maps/city/{one["factor"]:g}x the photos'
    rows.append(
        harness.make_row(
            f'{name}/PSNR', one['psnr'], 'dB',
            reference=one['psnr_of_one_ray'],
            note=f'{one["pixels"]} pixels of {one["gsd"]:.3g} m;'
            f' {one["shown"]:.1%} shown; reference: one ray a pixel',
        )
    )  # fmt: skip
    target = _TARGET if one['factor'] == 1 else None
    for kind in ('roofs', 'streets'):
      rows += _point_rows(f'{name}/{kind}', one.get(kind), own, target)
    if one.get('roofs') and one['roofs']['lean'] is not None:
      lean = one['roofs']['lean']
      rows.append(
          harness.make_row(
              f'{name}/lean of roofs', lean, 'm/m', ratio=abs(lean),
              target=_LEAN_TARGET if target else None, rule='<=',
              note='outwards for each metre of height; of the roofs: '
              f'{one["roof_overlap"]:.1%} intersection over union',
          )
      )  # fmt: skip
  return rows + [
      harness.make_row(
          _SERIES, len(measured['maps']), 'maps', detail=measured
      )
  ]  # fmt: skip


def _point_rows(name, found, gsd: float, target) -> list[harness.Row]:
  """Errors at check points in metres; ratios are of the photos' GSD."""
  rows = []
  for field in ('height', 'horizontal'):
    if found is None or found[field]['median'] is None:
      continue
    value = found[field]['median']
    rows.append(
        harness.make_row(
            f'{name}/{field} error', value, 'm', reference=gsd,
            ratio=value / gsd, target=target, rule='<=',
            note=f'median of {found[field]["count"]} check points, 90 % within'
            f' {found[field]["p90"]:.3g} m; ratio: of the photos\' GSD',
        )
    )  # fmt: skip
  return rows


def capture_rows(found) -> list[harness.Row]:
  """Rows of `capture_maps.measure`."""
  gsd, rows = found['gsd'], []
  row = lambda name, value, unit, **more: rows.append(
      harness.make_row(f'maps/capture/{name}', value, unit, **more)
  )
  if heights := found.get('heights'):
    row(
        'heights against sparse points/median difference', heights['median'],
        'm', reference=gsd, ratio=abs(heights['median']) / gsd,
        target=_TARGET, rule='<=',
        note=f'{heights["points"]} points; absolute: median'
        f' {heights["median_absolute"]:.3g} m, 90 % within'
        f' {heights["p90_absolute"]:.3g} m',
    )  # fmt: skip
  if texture := found['texture']:
    seen = '' if texture['unseen_by_training'] else ' (training saw them)'
    row(
        'texture against photos/shift', texture['shift_median'], 'm',
        reference=gsd, ratio=texture['shift_median'] / gsd, target=_TARGET,
        rule='<=',
        note=f'{texture["photos"]} photos{seen}, largest'
        f' {texture["shift_max"]:.3g} m',
    )  # fmt: skip
    row('texture against photos/PSNR', texture['psnr'], 'dB')
  if gps := found['gps']:
    row(
        'place against GPS', gps['median'], 'm',
        reference=gps['cameras_median'],
        ratio=gps['median'] / max(gps['cameras_median'], gsd),
        note=f'{gps["photos"]} photos: what lies below the camera on the map'
        " against the file's GPS; reference: the cameras of the scene",
    )  # fmt: skip
  row('shown', found['shown'], 'share', detail=found)
  return rows
