"""Exports a trained run: a node store, points, a mesh or cameras.

python -m experiments.export --workdir=DIR --out=STORE
python -m experiments.export --workdir=DIR --kind=mesh --out=FILE.ply
python -m experiments.export --verify --out=STORE
"""

import json

from absl import flags

from infnerf_jax import command, errors

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a trained run; for points and cameras a store.'
)
_OUT = flags.DEFINE_string(
    'out', None, 'Store (a folder, or an address: s3://, gs://), FILE.ply of'
    ' points and meshes, FILE.json or a folder of cameras.',
)  # fmt: skip
_KIND = flags.DEFINE_enum(
    'kind', 'store', ['store', 'points', 'mesh', 'cameras'], 'What to write.'
)
_BOUNDS = flags.DEFINE_string(
    'bounds', '', "Of points and meshes: west,south,east,north[,low,high] in"
    " the map's metres; default: all.",
)  # fmt: skip
_LEVEL = flags.DEFINE_integer(
    'level', None, 'Octree level of points and meshes; default: the finest.'
)
_APPEARANCE = flags.DEFINE_string(
    'appearance', 'mean', 'mean, or the photo whose embedding is taken.'
)
_MAX_MEMORY_GB = flags.DEFINE_float(
    'max_memory_gb', 0.0, 'Of rendering points; 0: as in training.',
    lower_bound=0.0,
)  # fmt: skip
_PRECISION = flags.DEFINE_string(
    'precision', 'bfloat16', 'float32, bfloat16, or int8 with block scales.'
)
_VIEWS = flags.DEFINE_integer(
    'views', 8, 'Pictures that measure what each precision costs; 0: none.',
    lower_bound=0,
)  # fmt: skip
_VERIFY = flags.DEFINE_bool(
    'verify', False, 'Only read the store and list damaged chunks.'
)
flags.mark_flags_as_required(['out'])


def main(argv):
  """Writes or verifies and prints what came of it."""
  del argv
  from infnerf_jax.products import export, store_export

  if _VERIFY.value:
    print(store_export.verify_store(_OUT.value))
    return
  if not _WORKDIR.value:
    raise errors.InputError('--workdir: got nothing, expected a trained run')
  import infnerf_jax  # jax only where it is needed

  loaded = infnerf_jax.load(_WORKDIR.value)
  if _KIND.value == 'store':
    report = store_export.export_with_progress(
        loaded, _OUT.value, precision=_PRECISION.value, max_views=_VIEWS.value
    )
  else:
    report = export.export(
        loaded, _KIND.value, _OUT.value,
        export.Options(
            _BOUNDS.value, _LEVEL.value, _APPEARANCE.value,
            _MAX_MEMORY_GB.value or None,
        ),
    )  # fmt: skip
  print(json.dumps(report, indent=1))
  for name, item in report.get('precisions', {}).items():
    lost = item.get('psnr_loss')
    lost = '' if lost is None else f', {lost:.3f} dB lost on test photos'
    print(
        f'{name}: {item["bytes"] / 1e6:.1f} MB'
        f' ({100 * item["share_of_float32"]:.0f} % of float32){lost}'
    )
  print(f'wrote {_OUT.value}: {export.describe(_KIND.value, report)}')


if __name__ == '__main__':
  command.run(main)
