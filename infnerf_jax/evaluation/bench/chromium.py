"""A headless Chromium that looks at the viewer; playwright drives it."""

import contextlib
import glob
import io
import os
import shutil
import time
from typing import Any, Callable, Iterator

import numpy as np
from PIL import Image

# Of the window. The rest of the page is the panel's.
WINDOW = {'width': 900, 'height': 600}
_SCENE = {'x': 50, 'y': 100, 'width': 450, 'height': 450}
_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_CACHE = '~/.cache/ms-playwright/chromium*/chrome-linux*/'
_ARGS = (
    '--no-sandbox', '--disable-dev-shm-usage', '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
)  # fmt: skip
# Software rendering beside other work is slow; what never comes still fails.
PATIENCE = 240.0  # seconds
# Grey levels: a page without a picture has one colour where no panel is.
_LEAST_SPREAD = 5


def missing() -> str:
  """Why there is no browser here, '' where there is one."""
  try:
    import playwright.sync_api  # noqa: F401
  except ImportError:
    return 'needs playwright (requirements-dev.txt)'
  return '' if _path() else 'needs Chromium (apt install chromium)'


def _path() -> str:
  """Path of a Chromium, '' without one."""
  found = [shutil.which(name) or '' for name in _NAMES]
  for name in ('chrome', 'headless_shell'):
    found += sorted(glob.glob(os.path.expanduser(_CACHE) + name))
  return next(filter(None, found), '')


@contextlib.contextmanager
def launch() -> Iterator[Any]:
  """Playwright's browser; only where nothing is `missing`."""
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=_path(), args=list(_ARGS)
    )
    yield browser
    browser.close()


def scene(page) -> np.ndarray:
  """What a page of `WINDOW` shows where no panel is, [H, W, 3] int."""
  data = page.screenshot(clip=_SCENE)
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


def until(accept: Callable[[], Any], seconds: float = PATIENCE) -> Any:
  """Waits for a function to give something true.

  Args:
    accept: called again and again.
    seconds: at most.

  Returns:
    What it gave.

  Raises:
    TimeoutError: nothing came.
  """
  end = time.monotonic() + seconds
  while not (value := accept()):
    if time.monotonic() > end:
      raise TimeoutError(f'nothing came for {seconds:g} s')
    time.sleep(0.02)
  return value


def picture(page, seconds: float = PATIENCE) -> np.ndarray:
  """`scene` as soon as it shows more than one colour."""
  # Before, there is nothing that a screenshot could be taken of.
  page.wait_for_selector('canvas', timeout=1e3 * seconds)

  def seen():
    found = scene(page)
    return (found,) if found.std() > _LEAST_SPREAD else None

  return until(seen, seconds)[0]
