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

# Of a window of 900 x 600, where no panel is.
_SCENE = {'x': 50, 'y': 100, 'width': 450, 'height': 450}
_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_CACHE = '~/.cache/ms-playwright/chromium*/chrome-linux*/'
_ARGS = (
    '--no-sandbox', '--disable-dev-shm-usage', '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
)  # fmt: skip
# Software rendering beside other work is slow; what never comes still fails.
PATIENCE = 240.0  # seconds
# Notes on the page's own clock, which begins with its navigation, when the
# browser has painted the picture that comes with the page, and when the canvas
# is covered by more than one colour. A screenshot would take a second of its
# own.
_WATCH = """
(() => {
  new PerformanceObserver((list) => {
    window.firstPicture = list.getEntries()[0].renderTime;
  }).observe({type: 'element', buffered: true});
  const drawn = new Set();
  const get = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function(kind, options) {
    if (kind.startsWith('webgl')) {
      options = {...options, preserveDrawingBuffer: true};
      drawn.add(this);
    }
    return get.call(this, kind, options);
  };
  const timer = setInterval(() => {
    const canvas = [...drawn].find((c) => c.isConnected && c.width);
    if (!canvas) return;
    const copy = document.createElement('canvas');
    copy.width = copy.height = 16;
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0, 16, 16);
    const pixels = context.getImageData(0, 0, 16, 16).data;
    const of = (channel) => pixels.filter((_, i) => i % 4 === channel);
    const green = of(1);
    if (Math.min(...of(3)) === 255 &&
        Math.max(...green) - Math.min(...green) > 20) {
      window.livePicture = performance.now();
      clearInterval(timer);
    }
  }, 50);
})();
"""


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


def open_page(browser, address: str, *, width: int = 900, height: int = 600):
  """A page of playwright's on its way to an address."""
  page = browser.new_page(viewport={'width': width, 'height': height})
  page.add_init_script(_WATCH)
  page.goto(address, wait_until='commit')
  return page


def picture_seconds(page, seconds: float = PATIENCE) -> tuple[float, float]:
  """Waits until a page's canvas shows a picture.

  Args:
    page: of `open_page`.
    seconds: at most.

  Returns:
    Seconds from the page's navigation to the picture that came with it, and to
    the canvas's first of its own camera, which the mouse moves.
  """
  found = page.wait_for_function(
      'window.firstPicture && window.livePicture'
      ' && [window.firstPicture, window.livePicture]',
      polling=50, timeout=1e3 * seconds,
  )  # fmt: skip
  first, live = found.json_value()
  return first / 1e3, live / 1e3


def scene(page) -> np.ndarray:
  """What a page of 900 x 600 shows where no panel is, [H, W, 3] int."""
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
