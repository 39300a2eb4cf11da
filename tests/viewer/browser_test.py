"""The viewer in a real browser: a headless Chromium."""

import itertools

import numpy as np
import pytest

pytest.importorskip('viser', reason='needs viser')

from infnerf_jax import view  # noqa: E402
from infnerf_jax.evaluation.bench import chromium  # noqa: E402
from infnerf_jax.products import camera_path  # noqa: E402
from tests.viewer import tiny_run  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(chromium.missing()), reason=chromium.missing() or 'there'
    ),
]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.make_run(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def viewer(workdir):
  with view.open_viewer(workdir, port=0) as viewer:
    yield viewer


@pytest.fixture(scope='module')
def browser():
  with chromium.launch() as browser:
    yield browser


@pytest.fixture
def open_page(browser, viewer):
  """Opens pages that are closed in the end."""
  pages = []

  def open_one(width=900, height=600):
    address = f'http://127.0.0.1:{viewer.port}/'
    pages.append(
        chromium.open_page(browser, address, width=width, height=height)
    )
    return pages[-1]

  yield open_one
  for page in pages:
    page.close()


def _settled(viewer) -> bool:
  here = viewer.sessions()
  return bool(here) and all(s.shown and s.shown.final for s in here)


def _is_other(page, before) -> bool:
  return np.abs(chromium.scene(page) - before).mean() > 3


def test_the_page_shows_the_scene_and_follows_the_mouse(open_page, viewer):
  page = open_page()
  chromium.picture_seconds(page)
  chromium.until(lambda: _settled(viewer))
  before = chromium.scene(page)
  page.mouse.move(300, 300)
  page.mouse.down()
  page.mouse.move(420, 330, steps=6)
  page.mouse.up()
  chromium.until(lambda: _is_other(page, before))
  chromium.until(lambda: _settled(viewer))


def test_scale_bar_and_pointer_of_two_pages(open_page, viewer):
  pages = open_page(), open_page()
  for page in pages:
    chromium.picture_seconds(page)
  chromium.until(lambda: _settled(viewer))
  # The second looks from far away.
  pages[1].mouse.move(300, 300)
  for _ in range(4):
    pages[1].mouse.wheel(0, 400)
  sizes = [_point(page) for page in pages]
  chromium.until(lambda: _point(pages[1]) != sizes[0])
  assert _point(pages[0]) == sizes[0]


def _point(page) -> str:
  """Moves over the scene until the pointer reads out; the scale bar."""
  tip = page.locator('#infnerf-pointer')
  page.bring_to_front()
  # As a hand that does not rest, until there is something under it.
  columns = itertools.cycle(range(150, 560, 50))

  def pointed():
    page.mouse.move(next(columns), 300)
    text = tip.text_content() or ''
    return text if 'GSD' in text else ''

  assert 'E 512' in chromium.until(pointed)
  size = page.locator('#infnerf-scale').text_content()
  assert size.endswith('m')
  return size


def test_panels_change_the_picture(open_page, viewer):
  page = open_page()
  chromium.picture_seconds(page)
  chromium.until(lambda: _settled(viewer))
  before = chromium.scene(page)
  # Exactly: switches of viser's own are labelled by what they show.
  page.get_by_label('Show', exact=True).click()
  page.get_by_role('option', name='level').click()
  chromium.until(lambda: _is_other(page, before))
  page.get_by_role('button', name='From above, north up').click()
  chromium.until(lambda: viewer.sessions()[0].orthographic)
  page.get_by_role('tab', name='Octree').click()
  chromium.until(lambda: page.get_by_text('of 17 nodes').count())


def test_photos_and_paths(open_page, viewer):
  page = open_page()
  chromium.picture_seconds(page)
  chromium.until(lambda: _settled(viewer))
  (here,) = chromium.until(
      lambda: len(found := viewer.sessions()) == 1 and found
  )
  page.get_by_role('tab', name='Path').click()
  page.get_by_role('button', name='Add this view').click()
  chromium.until(lambda: page.get_by_text('1 views').count())
  page.get_by_role('tab', name='Photos').click()
  page.get_by_label('Show cameras').click(force=True)
  page.get_by_role('button', name='Look from there').click()
  place = viewer.cameras.cam_to_world[0, :, 3]
  chromium.until(
      lambda: np.allclose(here.shown.view.position, place, atol=1e-3)
  )
  page.get_by_role('tab', name='Path').click()
  page.get_by_role('button', name='Add this view').click()
  chromium.until(lambda: page.get_by_text('2 views').count())
  with page.expect_download() as download:
    page.get_by_role('button', name='Save camera_path.json').click()
  path = camera_path.read_camera_path(
      download.value.path().rename(download.value.path().with_suffix('.json'))
  )
  np.testing.assert_allclose(
      path.cameras.cam_to_world[-1, :, 3], place, atol=1e-3
  )


def test_ten_tabs_and_one_that_goes(open_page, viewer):
  pages = [open_page(320, 240) for _ in range(10)]
  chromium.until(lambda: len(viewer.sessions()) >= 10)
  pages[-1].close()
  chromium.until(lambda: len(viewer.sessions()) <= 9)
  chromium.until(lambda: _settled(viewer))
