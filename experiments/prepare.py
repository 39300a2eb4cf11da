"""Makes a scene of a folder of photos: structure from motion and GPS.

python -m experiments.prepare --photos=DIR --out=SCENE

SCENE gets images/, cameras.json, sparse_points.ply, visibility.npz, scene.json
(map coordinates where the photos have GPS) and prepare_report.json. The same
command resumes; --dry_run says what was found and what it would take.
"""

import pathlib

from absl import flags

from infnerf_jax import command, errors
from infnerf_jax.capture import preflight, prepare, report, structure, video

_PHOTOS = flags.DEFINE_string('photos', None, 'Folder of photos, or a video.')
_OUT = flags.DEFINE_string('out', None, 'Scene folder to make.')
_MASKS = flags.DEFINE_string(
    'masks', None, 'Folder of masks, NAME.jpg.png or NAME.png; zeros count not.'
)
_MATCHING = flags.DEFINE_string(
    'matching', 'auto', 'auto, exhaustive, spatial (GPS) or sequential.'
)
_USE_GPS = flags.DEFINE_bool('use_gps', True, 'Place the scene by GPS.')
_MAX_SIZE = flags.DEFINE_integer(
    'max_size', 2000, 'Pixels; features are sought in photos made this small.'
)
_MAX_FEATURES = flags.DEFINE_integer('max_features', 4096, 'Per photo.')
_GCP = flags.DEFINE_string(
    'gcp', '', "Ground control points, OpenDroneMap's gcp_list.txt."
)
_GCP_CHECK = flags.DEFINE_list(
    'gcp_check', [], 'Points kept back as checks; default: CHK-*, or each 4th.'
)
_OVERLAP = flags.DEFINE_float('overlap', 0.8, "Of a video's chosen frames.")
_MAX_FRAMES = flags.DEFINE_integer('max_frames', 600, 'Of a video.')
_MAPPING = flags.DEFINE_string(
    'mapping', 'incremental', 'incremental, or global (GLOMAP): all at once.'
)
_DEVICE = flags.DEFINE_string(
    'device', 'auto', 'Of features and matches: auto, cpu or gpu (CUDA).'
)
_THREADS = flags.DEFINE_integer('threads', -1, 'CPU threads; -1 is all.')
_LINK = flags.DEFINE_bool('link', False, 'Link to the photos; do not copy.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace a scene in --out.')
_KEEP_WORK = flags.DEFINE_bool('keep_work', False, 'Keep OUT.work.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only say what would be done.')


def _options() -> prepare.Options:
  return prepare.Options(
      masks=pathlib.Path(_MASKS.value) if _MASKS.value else None,
      matching=_MATCHING.value,
      use_gps=_USE_GPS.value,
      copy_photos=not _LINK.value,
      overwrite=_OVERWRITE.value,
      keep_work=_KEEP_WORK.value,
      sfm=structure.Options(
          _MAX_SIZE.value,
          _MAX_FEATURES.value,
          _THREADS.value,
          _MAPPING.value,
          _DEVICE.value,
      ),
      gcp=pathlib.Path(_GCP.value) if _GCP.value else None,
      gcp_check=tuple(_GCP_CHECK.value),
      frames=video.Options(_OVERLAP.value, _MAX_FRAMES.value),
  )


def main(argv) -> None:
  """Looks at the photos, makes the scene and says what came of it."""
  del argv
  for flag in (_PHOTOS, _OUT):
    if not flag.value:
      raise errors.InputError(f'--{flag.name}: got nothing, expected a folder')
  options = _options()
  if _DRY_RUN.value:
    prepare.check_output(pathlib.Path(_OUT.value), _OVERWRITE.value)
    with prepare.photo_folder(_PHOTOS.value, options) as photos:
      plan = prepare.make_plan(photos, _OUT.value, options)
      print(preflight.describe(preflight.estimate(plan, _OUT.value, options)))
    return
  result = prepare.prepare(_PHOTOS.value, _OUT.value, options)
  print(report.describe(result))
  print(f'wrote {_OUT.value}')


if __name__ == '__main__':
  command.run(main)
