"""The control panel of a client: pictures, octree, photos, paths.

Thin: what buttons do is in `session`, `jobs` and the pure modules.
"""

import io
import json
import threading
import time

import numpy as np
from PIL import Image

from infnerf_jax import errors
from infnerf_jax.viewer import (
    jobs,
    measure_panel,
    meter,
    path_record,
    photo_panel,
    pictures,
    views,
)


def build(here) -> None:
  """Makes all panels of a session."""
  # What a client's panel holds reaches its page alone: page.js reads it.
  here.client.gui.add_html(
      f'<span id="infnerf-session" data-name="{here.name}" hidden></span>'
  )
  tabs = here.client.gui.add_tab_group()
  with tabs.add_tab('View'):
    _view_panel(here)
  with tabs.add_tab('Octree'):
    _octree_panel(here)
  with tabs.add_tab('Photos'):
    photo_panel.build(here)
  with tabs.add_tab('Measure'):
    measure_panel.build(here)
  with tabs.add_tab('Path'):
    _path_panel(here)


def _view_panel(here) -> None:
  app, gui = here.app, here.client.gui
  status = gui.add_markdown('')
  mode = gui.add_dropdown('Show', pictures.MODES, initial_value=here.mode)
  names = ('mean',) + app.photo_names[: photo_panel.MAX_NAMES]
  if app.appearance_name not in names:
    names += (app.appearance_name,)
  looks = gui.add_dropdown(
      'Appearance', names, initial_value=app.appearance_name,
      hint='Exposure and white balance: the mean, or those of a photo.',
  )  # fmt: skip
  _camera_buttons(here)
  _screenshots(here, gui.add_button('Screenshot (PNG)'))
  gui.add_markdown(f'Coordinates: {app.around.frame.note}')

  @mode.on_update
  def _(_):
    here.mode = mode.value
    here.refresh()

  @looks.on_update
  def _(_):
    try:
      name = looks.value
      here.appearance = app.loop.call(lambda r: r.appearance(name)).result()
    except errors.InputError as error:
      tell(here, 'No such appearance', str(error))
      return
    here.refresh()

  def show(picture):
    words = [
        'sharp' if picture.is_final else f'1/{picture.pixel_size:.3g} size …',
        f'{picture.seconds:.1f} s',
        jobs.speed(app.loop),
    ]
    if app.num_steps is not None:
      words.append(f'step {app.num_steps:,}')
    status.content = ' · '.join(filter(None, words))

  here.on_picture.append(show)


def _camera_buttons(here) -> None:
  """Parallel rays, from above, and back to the beginning."""
  app, gui = here.app, here.client.gui
  flat = gui.add_checkbox(
      'Orthographic', False, hint='Parallel rays: one scale all over.'
  )
  top = gui.add_button('From above, north up')
  whole = gui.add_button('First view')

  @flat.on_update
  def _(_):
    view = here.view()
    if view is None or view.orthographic == flat.value:
      return
    if flat.value:
      here.go_to(views.orthographic(view))
    else:
      here.go_to(views.perspective(view, _fov_of(app)))

  @top.on_click
  def _(_):
    view = here.view()
    if view is not None:
      here.go_to(views.top_view(view, app.level))
      flat.value = True

  @whole.on_click
  def _(_):
    view = here.view()
    if view is not None:
      here.go_to(app.first_view(view.width, view.height))
      flat.value = False


def _fov_of(app) -> float:
  """Vertical field of view that a client begins with."""
  camera = app.around.first
  return 2 * np.arctan(0.5 * float(camera.height) / float(camera.intrinsics[1]))


def tell(here, title: str, body: str) -> None:
  """A line in the client's corner."""
  here.client.add_notification(title, body, auto_close_seconds=8.0)


def _screenshots(here, button) -> None:
  """Sends the next picture that is as fine as it gets."""
  wanted = threading.Event()

  @button.on_click
  def _(_):
    wanted.set()
    tell(here, 'Screenshot', 'follows when the picture is sharp')
    here.refresh()

  def send(picture):
    if not (picture.is_final and wanted.is_set()):
      return
    wanted.clear()
    file = io.BytesIO()
    Image.fromarray(picture.rgb).save(file, 'PNG')
    name = time.strftime('view_%Y%m%d_%H%M%S.png')
    here.client.send_file_download(name, file.getvalue(), save_immediately=True)

  here.on_picture.append(send)


def _octree_panel(here) -> None:
  app, gui = here.app, here.client.gui
  text = gui.add_markdown('')
  which = gui.add_dropdown('Boxes', ('none', 'touched', 'all'))
  low = gui.add_slider('From level', 0, max(app.max_level, 1), 1, 0)
  high = gui.add_slider(
      'To level', 0, max(app.max_level, 1), 1, max(app.max_level, 1)
  )
  latest, handle = [None], [None]

  def draw(keys):
    if handle[0] is not None:
      handle[0].remove()
      handle[0] = None
    if keys is None or not len(keys):
      return
    level, boxes = meter.boxes(
        keys[: meter.MAX_BOXES], app.root_min, app.spec.root_side
    )
    chosen = (level >= low.value) & (level <= high.value)
    if not chosen.any():
      return
    colors = pictures.to_bytes(pictures.level_color(level, app.max_level))
    handle[0] = here.client.scene.add_line_segments(
        '/octree',
        here.place.from_world(meter.edges(boxes[chosen])).astype(np.float32),
        np.repeat(colors[chosen], 12, axis=0)[:, None].repeat(2, axis=1),
        thickness=1.5,
        thickness_units='screen',
    )

  def update(_=None):
    here.uses_depth = which.value != 'none'
    if which.value == 'all':
      draw(app.loop.call(lambda r: r.all_keys()).result())
    else:
      draw(latest[0] if which.value == 'touched' else None)

  @which.on_update
  def _(_):
    update()
    here.refresh()  # with or without depth

  low.on_update(update)
  high.on_update(update)

  def show(picture):
    lines = meter.describe(picture.meter)
    text.content = lines
    latest[0] = picture.meter.keys
    if which.value == 'touched' and picture.is_final:
      draw(latest[0])

  here.on_picture.append(show)


def _path_panel(here) -> None:
  app, gui = here.app, here.client.gui
  keys, draw = [], _path_line(here)
  text = gui.add_markdown('No views yet.')
  add = gui.add_button('Add this view')
  undo = gui.add_button('Remove the last')
  clear = gui.add_button('Clear')
  seconds = gui.add_number('Seconds a view', 2.0, min=0.1, max=60.0, step=0.1)
  fps = gui.add_number('Frames a second', 24.0, min=1.0, max=120.0, step=1.0)
  save = gui.add_button('Save camera_path.json')
  gui.add_markdown(
      'Film it: `python -m experiments.render --path=camera_path.json …`'
  )

  def changed():
    text.content = f'{len(keys)} views'
    draw(keys)

  @add.on_click
  def _(_):
    view = here.view()
    if view is not None and len(keys) < path_record.MAX_KEYS:
      keys.append(path_record.key_of(view, _fov_of(app)))
      changed()

  @undo.on_click
  def _(_):
    if keys:
      keys.pop()
      changed()

  @clear.on_click
  def _(_):
    keys.clear()
    changed()

  @save.on_click
  def _(_):
    view = here.view()
    if not keys or view is None:
      tell(here, 'Nothing to save', 'add a view first')
      return
    content = path_record.to_nerfstudio(
        keys,
        width=view.width // 2 * 2,
        height=view.height // 2 * 2,
        fps=float(fps.value),
        seconds_per_key=float(seconds.value),
    )
    here.client.send_file_download(
        'camera_path.json',
        json.dumps(content, indent=1).encode(),
        save_immediately=True,
    )


def _path_line(here):
  """A function that draws the way through the views of a path."""
  handle = [None]

  def draw(keys):
    if handle[0] is not None:
      handle[0].remove()
      handle[0] = None
    if len(keys) > 1:
      frames = path_record.interpolate(keys, 16 * len(keys))
      line = here.place.from_world(np.stack([f.position for f in frames]))
      handle[0] = here.client.scene.add_line_segments(
          '/path', np.stack([line[:-1], line[1:]], axis=1).astype(np.float32),
          (255, 60, 60), thickness=3.0, thickness_units='screen',
      )  # fmt: skip

  return draw
