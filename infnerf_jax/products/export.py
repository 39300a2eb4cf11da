"""What `experiments.export` writes: points, meshes and cameras."""

from typing import Any, NamedTuple

from infnerf_jax import errors, progress
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import camera_export, point_cloud, region

KINDS = ('store', 'points', 'mesh', 'cameras')


class Options(NamedTuple):
  """What is exported of a scene.

  Attributes:
    bounds: see `region.parse_bounds`, '' is all.
    level: octree level, None is the finest.
    appearance: `mean` or the name of a photo.
    max_memory_gb: of rendering, None as in training.
  """

  bounds: str = ''
  level: int | None = None
  appearance: str = 'mean'
  max_memory_gb: float | None = None


def _comments(frame: dict[str, Any], where: region.Region) -> list[str]:
  """What a PLY file says of its coordinates."""
  offset = ' '.join(repr(float(x)) for x in frame['offset'])
  rows = ' '.join(repr(float(x)) for x in frame['rotation'].ravel())
  return [
      'made by infnerf_jax; scene metres',
      f'coordinate_system {frame.get("coordinate_system") or "unknown"}',
      f'offset {offset}',
      f'rotation {rows}',
      'scene = rotation (source - offset)',
      f'spacing {where.spacing:g} level {where.level}',
  ]


def export(loaded, kind: str, out, options: Options) -> dict[str, Any]:
  """Exports points, a mesh or cameras.

  Args:
    loaded: a LoadedScene or, for points and cameras, a StoreScene.
    kind: `points`, `mesh` or `cameras`.
    out: FILE.ply; for cameras FILE.json or a folder.
    options: see `Options`.

  Returns:
    What was written, in numbers.

  Raises:
    InputError: bounds outside the scene, no such level or photo, an output
      that cannot be written.
  """
  stated = map_frame.read_frame(loaded.workdir)
  if kind == 'cameras':
    return camera_export.write_cameras(loaded, out, stated)
  bounds = region.parse_bounds(options.bounds) if options.bounds else None
  where = region.make_region(
      loaded, map_frame.make_frame(stated), bounds=bounds, level=options.level
  )
  comments = _comments(stated, where)
  if kind == 'points':
    source = point_cloud.FieldRays(
        loaded, appearance=options.appearance,
        max_memory_gb=options.max_memory_gb,
    )  # fmt: skip
    write, total = point_cloud.write_points, point_cloud.num_tiles(where)
  elif kind == 'mesh':
    from infnerf_jax.products import field_query, mesh  # skimage is slow

    source = field_query.FieldPoints(
        loaded, level=where.level, appearance=options.appearance
    )
    write, total = mesh.write_mesh, mesh.num_tiles(where)
  else:
    raise errors.InputError(
        f'--kind: got {kind!r}, expected one of {", ".join(KINDS)}'
    )
  with progress.Progress(total, description=f'{kind} (tiles)') as bar:
    return write(source, where, out, comments=comments, progress=bar.update)


def describe(kind: str, report: dict[str, Any]) -> str:
  """A report as a line for a terminal."""
  if kind == 'store':
    cost = report.get('psnr_loss')
    cost = '' if cost is None else f', {cost:.3f} dB lost on test photos'
    return (
        f'{report["num_nodes"]} nodes, {report["bytes"] / 1e6:.1f} MB'
        f' ({100 * report["share_of_float32"]:.0f} % of float32){cost}'
    )
  if kind == 'cameras':
    linked = report['photos_linked']
    return f'{report["cameras"]} cameras' + (
        f', links to {linked} photos' if linked else ''
    )
  what = 'points' if kind == 'points' else 'vertices'
  more = f', {report["faces"]} triangles' if kind == 'mesh' else ''
  return (
      f'{report[what]} {what}{more}, {report["spacing"]:.3g} m apart, octree'
      f' level {report["level"]}'
  )
