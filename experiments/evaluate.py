"""Scores a trained run.

python -m experiments.evaluate --workdir=DIR
"""

import pathlib

from absl import flags

from infnerf_jax import command

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
_SPLIT = flags.DEFINE_enum(
    'split', 'test', ['test', 'train', 'validation'], 'Which photos to score.'
)
_APPEARANCE = flags.DEFINE_string(
    'appearance',
    'mean',
    'Embedding of psnr and ssim: mean of the training photos, or the name of'
    ' the photo whose embedding is taken.',
)
flags.mark_flags_as_required(['workdir'])


def main(argv):
  """Scores and prints what was written."""
  del argv
  import infnerf_jax  # jax only where it is needed
  from infnerf_jax import json_files

  loaded = infnerf_jax.load(_WORKDIR.value)
  scores = loaded.evaluate(_SPLIT.value, appearance=_APPEARANCE.value)
  path = pathlib.Path(_WORKDIR.value) / 'eval.json'
  json_files.write_json_atomic(path, scores)
  for row in scores['by_pyramid_level']:
    values = [
        f'{name} {row[name]:.3f}'
        for name in ('psnr', 'ssim', 'psnr_fitted', 'ssim_fitted')
        if row[name] is not None
    ]
    print(f'pyramid level {row["level"]}: {", ".join(values)}')
  print(f'wrote {path}: {scores["num_photos"]} photos of {_SPLIT.value}')


if __name__ == '__main__':
  command.run(main)
