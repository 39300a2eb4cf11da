"""Writes a drone survey of a procedural city, with exact ground truth.

python -m experiments.synthesize --out=SCENE [--extent=132] [--seed=0]

SCENE gets images/, cameras.json, sparse_points.ply, visibility.npz and
scene.json, from which `synthesize.load_city` remakes the city, to render its
truth at any scale. The same command on a finished SCENE does nothing.
"""

from absl import flags

from infnerf_jax import command, errors
from infnerf_jax.scene import synthesize

_D = synthesize.SynthesisOptions()
_OUT = flags.DEFINE_string('out', None, 'Scene folder to make.')
_EXTENT = flags.DEFINE_float('extent', _D.extent, "Metres, the city's side.")
_SEED = flags.DEFINE_integer('seed', _D.seed, 'Another seed, another city.')
_PHOTOS = flags.DEFINE_integer(
    'photos', None, 'Photos in all; default: as --overlap asks for.'
)
_ALTITUDES = flags.DEFINE_list(
    'altitudes', [f'{a:g}' for a in _D.altitudes], 'Metres above the ground.'
)
_OVERLAP = flags.DEFINE_float('overlap', _D.overlap, 'Of nadir photos, 0 to 1.')
_WIDTH = flags.DEFINE_integer('width', _D.width, 'Pixels.')
_HEIGHT = flags.DEFINE_integer('height', _D.height, 'Pixels.')
_SUPERSAMPLING = flags.DEFINE_integer(
    'supersampling', _D.supersampling, 'Samples along each axis of a pixel.'
)
_EXPOSURE = flags.DEFINE_float(
    'exposure_variation',
    _D.exposure_variation,
    'Spread of exposure and white balance between photos, 0 (none) to 1.',
)
_POINTS = flags.DEFINE_integer('points', _D.num_points, 'Sparse points.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only say what would be done.')


def main(argv) -> None:
  """Says what the survey will be, and makes it."""
  del argv
  if not _OUT.value:
    raise errors.InputError('--out: got nothing, expected a folder')
  try:
    altitudes = tuple(float(a) for a in _ALTITUDES.value)
  except ValueError as error:
    raise errors.InputError(f'--altitudes: {error}, expected metres') from None
  options = synthesize.SynthesisOptions(
      extent=_EXTENT.value,
      seed=_SEED.value,
      num_photos=_PHOTOS.value,
      altitudes=altitudes,
      overlap=_OVERLAP.value,
      width=_WIDTH.value,
      height=_HEIGHT.value,
      supersampling=_SUPERSAMPLING.value,
      exposure_variation=_EXPOSURE.value,
      num_points=_POINTS.value,
  )
  print(synthesize.describe(options))
  if _DRY_RUN.value:
    return
  print(f'wrote {synthesize.synthesize(_OUT.value, options)}')


if __name__ == '__main__':
  command.run(main)
