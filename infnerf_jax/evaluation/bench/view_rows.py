"""Suite `view`: how soon a browser shows a run.

The command starts anew in every round, in a process of its own, and so does
Chromium, which draws on the same cores. A picture counts when the page has
painted it, not when it was sent.
"""

import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from typing import Any, Iterator

from infnerf_jax.evaluation.bench import chromium, harness

_ROOT = pathlib.Path(__file__).parents[3]
_ROUNDS = 5
# Seconds from navigation to a picture.
_TARGET = 2.0
_NAME = 'view/first picture/wall'
# Rows by what `measure` calls them: name and note.
_NOTES = {
    'first_page': (_NAME, "navigation of a browser's first page to a picture"),
    'second_page': ('view/second page/wall', 'the same of a second page'),
    'first_page_live': (
        'view/picture that moves/wall',
        'to one that follows the mouse, first page',
    ),
    'second_page_live': (
        'view/second page that moves/wall',
        'the same of a second page',
    ),
    'start': (
        'view/command to address/wall',
        'from the command to the address that it prints',
    ),
}


@contextlib.contextmanager
def _viewer(workdir) -> Iterator[int]:
  """The command as a user types it; gives the port it listens on."""
  process = subprocess.Popen(
      [sys.executable, '-m', 'experiments.view', f'--workdir={workdir}',
       '--port=0'],
      cwd=_ROOT, stdout=subprocess.PIPE, text=True,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
  )  # fmt: skip
  with process:
    try:
      found = re.search(r'http://[^:]+:(\d+)', process.stdout.readline())
      if found is None:
        raise RuntimeError('experiments.view ended; its stderr says why')
      yield int(found[1])
    finally:
      process.terminate()


def _round(browser, workdir) -> dict[str, float]:
  """Seconds of one start; see `measure`."""
  start = time.monotonic()
  seconds = {}
  with _viewer(workdir) as port:
    seconds['start'] = time.monotonic() - start
    for name in ('first', 'second'):
      page = chromium.open_page(browser, f'http://127.0.0.1:{port}/')
      picture, live = chromium.picture_seconds(page)
      seconds[f'{name}_page'], seconds[f'{name}_page_live'] = picture, live
      page.close()
  return seconds


def measure(workdir, *, rounds: int = _ROUNDS) -> list[dict[str, float]]:
  """Opens a run in a browser again and again.

  Args:
    workdir: folder of a run, or a node store.
    rounds: starts of the command.

  Returns:
    A round each, seconds: `start` from the command to the address that it
    prints; from the navigation of its browser's `first_page` and `second_page`
    to a picture, and with `_live` to one that follows the mouse.
  """
  found = []
  for _ in range(rounds):
    with chromium.launch() as browser:
      found.append(_round(browser, workdir))
  return found


def run(context: Any) -> list[harness.Row]:
  """Rows of a run.

  Args:
    context: of `suites`; its scene tells the run.

  Returns:
    Rows.
  """
  if context.scene is None:
    reason = 'no --workdir of a trained run'
  else:
    reason = chromium.missing()
  if reason:
    return [harness.missing_row(_NAME, 's', reason)]
  found = measure(context.scene.workdir, rounds=1 if context.tiny else _ROUNDS)
  return rows(found)


def rows(found: list[dict[str, float]]) -> list[harness.Row]:
  """Rows of what was measured; see `measure`."""
  middle = {k: statistics.median(r[k] for r in found) for k in found[0]}
  return [
      harness.make_row(
          name, middle[key], 's',
          ratio=middle[key] if name == _NAME else None,
          target=_TARGET if name == _NAME else None, rule='<=',
          note=f'{note}; median of {len(found)} starts',
          detail={'seconds': [round(r[key], 3) for r in found]},
      )
      for key, (name, note) in _NOTES.items()
  ]  # fmt: skip
