"""The viewer in a real browser: a headless Chromium."""

import glob
import io
import itertools
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('viser', reason='needs viser')
sync_api = pytest.importorskip(
    'playwright.sync_api', reason='needs playwright (requirements-dev.txt)'
)

from infnerf_jax import view  # noqa: E402
from tests.viewer import tiny_run  # noqa: E402

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
# Software rendering beside other work is slow; what never comes still fails.
_PATIENCE = 240.0  # seconds
_CACHE = '~/.cache/ms-playwright/chromium*/chrome-linux*/'
_ARGS = (
    '--no-sandbox', '--disable-dev-shm-usage', '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
)  # fmt: skip


def _browser() -> str:
  """Path of a Chromium, '' without one."""
  found = [shutil.which(name) or '' for name in _NAMES]
  for name in ('chrome', 'headless_shell'):
    found += sorted(glob.glob(os.path.expanduser(_CACHE) + name))
  return next(filter(None, found), '')


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not _browser(), reason='needs Chromium (apt install chromium)'
    ),
]


@pytest.fixture(scope='module')
def viewer(tmp_path_factory):
  folder = tiny_run.make_run(tmp_path_factory.mktemp('runs') / 'run')
  with view.open_viewer(folder, port=0) as viewer:
    yield viewer


@pytest.fixture(scope='module')
def browser():
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=_browser(), args=list(_ARGS)
    )
    yield browser
    browser.close()


@pytest.fixture
def page(browser, viewer):
  page = browser.new_page(viewport={'width': 900, 'height': 600})
  page.goto(f'http://127.0.0.1:{viewer.port}/')
  page.wait_for_selector('canvas', timeout=1e3 * _PATIENCE)
  yield page
  page.close()


def _shot(page) -> np.ndarray:
  data = page.screenshot()
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


def _scene(page) -> np.ndarray:
  """The part of the window that no panel covers."""
  return _shot(page)[100:550, 50:500]


def _until(accept, seconds=_PATIENCE):
  end = time.monotonic() + seconds
  while not (value := accept()):
    assert time.monotonic() < end, 'nothing came'
    time.sleep(0.2)
  return value


def _settled(viewer) -> bool:
  here = viewer.sessions()
  return bool(here) and all(s.shown and s.shown.final for s in here)


def test_the_page_shows_the_scene_and_follows_the_mouse(page, viewer):
  _until(lambda: _settled(viewer))
  before = _wait_picture(page)
  page.mouse.move(300, 300)
  page.mouse.down()
  page.mouse.move(420, 330, steps=6)
  page.mouse.up()
  _until(lambda: np.abs(_scene(page) - before).mean() > 3)
  _until(lambda: _settled(viewer))


def _wait_picture(page) -> np.ndarray:
  """The window once it shows more than one colour."""
  end = time.monotonic() + _PATIENCE
  while True:
    picture = _scene(page)
    if picture.std() > 5:
      return picture
    assert time.monotonic() < end, 'no picture came'
    time.sleep(0.2)


def test_scale_bar_and_pointer(page, viewer):
  _wait_picture(page)
  _until(lambda: _settled(viewer))
  tip = page.locator('#infnerf-pointer')
  # As a hand that does not rest, until there is something under it.
  columns = itertools.cycle(range(150, 560, 50))

  def pointed():
    page.mouse.move(next(columns), 300)
    return 'GSD' in (tip.text_content() or '')

  _until(pointed)
  assert 'E 512' in tip.text_content()
  assert page.locator('#infnerf-scale').text_content().endswith('m')


def test_panels_change_the_picture(page, viewer):
  before = _wait_picture(page)
  _until(lambda: _settled(viewer))
  # Exactly: switches of viser's own are labelled by what they show.
  page.get_by_label('Show', exact=True).click()
  page.get_by_role('option', name='level').click()
  _until(lambda: np.abs(_scene(page) - before).mean() > 3)
  page.get_by_role('button', name='From above, north up').click()
  _until(lambda: viewer.sessions()[0].orthographic)
  page.get_by_role('tab', name='Octree').click()
  _until(lambda: page.get_by_text('of 17 nodes').count())


def test_ten_tabs_and_one_that_goes(browser, viewer):
  pages = [
      browser.new_page(viewport={'width': 320, 'height': 240})
      for _ in range(10)
  ]
  for page in pages:
    page.goto(f'http://127.0.0.1:{viewer.port}/')
  _until(lambda: len(viewer.sessions()) >= 10)
  pages.pop().close()
  _until(lambda: len(viewer.sessions()) <= 9)
  _until(lambda: _settled(viewer))
  for page in pages:
    page.close()
