"""Writes a scene of any supported format in the InfNeRF format.

python -m experiments.convert --source=DIR --out=SCENE

DIR is a folder or file of COLMAP, transforms.json, OpenDroneMap, Metashape,
RealityCapture, Mega-NeRF or MipNeRF-360 (docs/formats.md).
SCENE gets images/, cameras.json, sparse_points.ply, visibility.npz (where the
source has it), masks/ and scene.json. A few seconds for hundreds of photos:
they are copied, not decoded.
"""

import pathlib
import shutil

from absl import flags

from infnerf_jax import command, errors
from infnerf_jax.scene import readers, write

_SOURCE = flags.DEFINE_string('source', None, 'Scene to read.')
_OUT = flags.DEFINE_string('out', None, 'Folder to make.')
_LINK = flags.DEFINE_bool('link', False, 'Link to the photos; do not copy.')
_TRIANGULATE = flags.DEFINE_bool(
    'triangulate', False, 'Make sparse points from the photos, poses as given.'
)
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace a scene in --out.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only say what would be done.')


def _summary(scene) -> str:
  report = scene.report
  parts = [
      f'{report["format"]}: {report["photos_found"]} of '
      f'{report["photos_listed"]} photos',
      f'{report["num_photos_absent"]} absent',
      f'{report["num_photos_damaged"]} damaged',
      f'{report["num_points"]} points',
      f'visibility: {report["visibility"]}',
  ]
  return ', '.join(parts)


def main(argv) -> None:
  """Reads a scene, says what it holds and writes it."""
  if len(argv) > 1:
    raise errors.InputError(
        f'convert: got argument {argv[1]!r}, expected flags only'
    )
  for flag in (_SOURCE, _OUT):
    if not flag.value:
      raise errors.InputError(f'--{flag.name}: got nothing, expected a folder')
  scene = readers.load_scene(_SOURCE.value)
  print(_summary(scene))
  for note in scene.report.get('notes', []):
    print(note)
  if _DRY_RUN.value:
    num_bytes = sum(path.stat().st_size for path in scene.photos.paths)
    print(f'would write {_OUT.value}, {num_bytes / 1e6:.1f} MB of photos')
    return
  if _TRIANGULATE.value:
    from infnerf_jax.capture import structure, triangulate

    work = pathlib.Path(f'{_OUT.value}.work')
    scene = triangulate.add_points(scene, work, structure.Options())
    print(f'triangulated {len(scene.points.positions)} points')
  elif scene.points is None:
    print('no points: the octree will be one node (--triangulate makes some)')
  out = write.write_infnerf(
      scene,
      _OUT.value,
      copy_photos=not _LINK.value,
      overwrite=_OVERWRITE.value,
  )
  if _TRIANGULATE.value:
    shutil.rmtree(work)
  print(f'wrote {out}')


if __name__ == '__main__':
  command.run(main)
