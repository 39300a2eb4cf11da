"""Writes docs/configuration.md from the configs.

python -m experiments.configuration
"""

import pathlib

from absl import flags

from infnerf_jax import command, config_reference, errors, json_files

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_OUT = flags.DEFINE_string(
    'out', str(_ROOT / 'docs' / 'configuration.md'), 'File to write.'
)
_CHECK = flags.DEFINE_bool('check', False, 'Only say whether it is up to date.')


def main(argv) -> None:
  """Writes the reference, or compares it."""
  del argv
  text = config_reference.document_folder(_ROOT / 'configs')
  path = pathlib.Path(_OUT.value)
  if not _CHECK.value:
    json_files.write_text_atomic(path, text)
    print(f'wrote {path}')
  elif not path.is_file() or path.read_text(encoding='utf-8') != text:
    raise errors.InputError(
        f'{path}: got another text, expected that of'
        ' `python -m experiments.configuration`'
    )


if __name__ == '__main__':
  command.run(main)
