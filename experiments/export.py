"""Exports a trained run as a node store that is rendered piece by piece.

python -m experiments.export --workdir=DIR --out=STORE
python -m experiments.export --verify --out=STORE
"""

import json

from absl import flags

from infnerf_jax import command, errors

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
_OUT = flags.DEFINE_string(
    'out', None, 'Store: a folder, or an address (s3://, gs://).'
)
_KIND = flags.DEFINE_string('kind', 'store', 'What to write: store.')
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


def _verify(location) -> None:
  """Lists damage; InputError where there is some."""
  from infnerf_jax import progress
  from infnerf_jax.storage import node_store

  store = node_store.open_store(location)
  with progress.Progress(
      store.header.num_nodes * len(store.header.groups),
      description='verify (chunks)',
  ) as bar:
    damage = node_store.verify(store, bar.update)
  for item in damage:
    print(f'damaged: {item["chunk"]}: {item["reason"]}')
  if damage:
    raise errors.InputError(
        f'{location}: found {len(damage)} damaged values, expected none'
    )
  print(f'{location}: {store.header.num_nodes} nodes, nothing is damaged')


def main(argv):
  """Writes or verifies a store and prints what it found."""
  del argv
  if _VERIFY.value:
    _verify(_OUT.value)
    return
  if not _WORKDIR.value:
    raise errors.InputError('--workdir: got nothing, expected a trained run')
  if _KIND.value != 'store':
    raise errors.InputError(f'--kind: got {_KIND.value!r}, expected store')
  import infnerf_jax  # jax only where it is needed
  from infnerf_jax import progress
  from infnerf_jax.products import store_export

  loaded = infnerf_jax.load(_WORKDIR.value)
  with progress.Progress(
      loaded.octree.num_nodes, description='export (nodes)'
  ) as bar:
    report = store_export.export_store(
        loaded, _OUT.value, precision=_PRECISION.value,
        max_views=_VIEWS.value, progress=bar.update,
    )  # fmt: skip
  print(json.dumps(report, indent=1))
  for name, item in report.get('precisions', {}).items():
    lost = item.get('psnr_loss')
    lost = '' if lost is None else f', {lost:.3f} dB lost on test photos'
    print(
        f'{name}: {item["bytes"] / 1e6:.1f} MB'
        f' ({100 * item["share_of_float32"]:.0f} % of float32){lost}'
    )
  cost = report.get('psnr_loss')
  cost = '' if cost is None else f', {cost:.3f} dB lost on test photos'
  size = f'{report["bytes"] / 1e6:.1f} MB'
  print(
      f'wrote {_OUT.value}: {report["num_nodes"]} nodes, {size}'
      f' ({100 * report["share_of_float32"]:.0f} % of float32){cost}'
  )


if __name__ == '__main__':
  command.run(main)
