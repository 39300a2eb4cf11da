"""Walks through a trained run, or one in training, in the browser.

python -m experiments.view --workdir=DIR_OR_STORE
"""

import os
import time

from absl import flags

from infnerf_jax import command, errors

_TOKEN_VARIABLE = 'INFNERF_VIEW_TOKEN'

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a run, trained or in training, or a store.'
)
_HOST = flags.DEFINE_string(
    'host', '127.0.0.1', 'Address to listen on; any but this machine needs a'
    ' --token.',
)  # fmt: skip
_PORT = flags.DEFINE_integer(
    'port', 8080, '0 is any free one.', lower_bound=0, upper_bound=65535
)
_TOKEN = flags.DEFINE_string(
    'token', '', 'Browsers must show it once, as ?token=...; also from'
    f' {_TOKEN_VARIABLE}, which other users of the machine cannot read.',
)  # fmt: skip
_APPEARANCE = flags.DEFINE_string(
    'appearance', 'mean', 'mean, or the photo whose embedding is taken.'
)
_MAX_MEMORY_MB = flags.DEFINE_float(
    'max_memory_mb', 0.0, 'Most memory (1e6 bytes) for model, rays and'
    " pictures; a store's views are coarsened to fit. 0: as in training.",
    lower_bound=0.0,
)  # fmt: skip
_MAX_MEMORY_GB = flags.DEFINE_float(
    'max_memory_gb', 0.0, 'The same in gigabytes.', lower_bound=0.0
)
flags.mark_flags_as_required(['workdir'])


def main(argv):
  """Opens the viewer and stays until it is interrupted."""
  del argv
  if _MAX_MEMORY_GB.value and _MAX_MEMORY_MB.value:
    raise errors.InputError(
        '--max_memory_mb: got a value beside --max_memory_gb, expected one'
    )
  from infnerf_jax import view  # jax only where it is needed

  token = _TOKEN.value or os.environ.get(_TOKEN_VARIABLE, '')
  with view.open_viewer(
      _WORKDIR.value,
      host=_HOST.value,
      port=_PORT.value,
      token=token,
      appearance=_APPEARANCE.value,
      max_memory_gb=_MAX_MEMORY_GB.value or _MAX_MEMORY_MB.value / 1e3 or None,
  ) as viewer:
    address = f'[{_HOST.value}]' if ':' in _HOST.value else _HOST.value
    question = '?token=...' if token else ''
    print(
        f'open http://{address}:{viewer.port}/{question} in a browser;'
        ' Ctrl-C ends',
        flush=True,
    )
    while True:
      time.sleep(3600)


if __name__ == '__main__':
  command.run(main)
