"""Suite `view`: how soon a browser shows a run.

The command starts anew in every round, in a process of its own, and Chromium
draws on the same cores. A picture counts when a screenshot of the page shows
it, not when it was sent.
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
  """Seconds: command to address, page to first picture, a second page."""
  start = time.monotonic()
  seconds = {}
  with _viewer(workdir) as port:
    seconds['start'] = time.monotonic() - start
    for name in ('first', 'again'):
      page = browser.new_page(viewport=chromium.WINDOW)
      opened = time.monotonic()
      page.goto(f'http://127.0.0.1:{port}/', wait_until='commit')
      chromium.picture(page)
      seconds[name] = time.monotonic() - opened
      page.close()
  return seconds


def measure(workdir, *, rounds: int = _ROUNDS) -> list[dict[str, float]]:
  """Opens a run in a browser again and again.

  Args:
    workdir: folder of a run, or a node store.
    rounds: starts of the command.

  Returns:
    A round each, seconds: `start` from the command to the address that it
    prints, `first` from there to a picture in the page, `again` the same of a
    second page.
  """
  with chromium.launch() as browser:
    return [_round(browser, workdir) for _ in range(rounds)]


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
  found = measure(
      context.scene.workdir, rounds=1 if context.tiny else _ROUNDS
  )
  return rows(found)


def rows(found: list[dict[str, float]]) -> list[harness.Row]:
  """Rows of what was measured; see `measure`."""
  middle = {k: statistics.median(r[k] for r in found) for k in found[0]}
  notes = {
      'first': 'from opening the page to a picture that a screenshot shows',
      'again': 'the same of a second page',
      'start': 'from the command to the address that it prints',
  }
  names = {'first': _NAME, 'again': 'view/second page/wall',
           'start': 'view/command to address/wall'}  # fmt: skip
  return [
      harness.make_row(
          names[key], middle[key], 's',
          ratio=middle[key] if key == 'first' else None,
          target=_TARGET if key == 'first' else None, rule='<=',
          note=f'{note}; median of {len(found)} starts',
          detail={'seconds': [round(r[key], 3) for r in found]},
      )
      for key, note in notes.items()
  ]  # fmt: skip
