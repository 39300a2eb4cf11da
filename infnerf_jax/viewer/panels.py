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
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import (
    jobs,
    measure_panel,
    meter,
    path_record,
    pictures,
    views,
)

# A browser draws so many photos' cameras, and lists so many names.
_MAX_FRUSTUMS, _MAX_NAMES = 200, 2000
_COMPARE_WIDTH = 320
_PHOTO_SHARE = 0.02  # of the root's side: a photo's frustum


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
    _photos_panel(here)
  with tabs.add_tab('Measure'):
    measure_panel.build(here)
  with tabs.add_tab('Path'):
    _path_panel(here)


def _view_panel(here) -> None:
  app, gui = here.app, here.client.gui
  status = gui.add_markdown('')
  mode = gui.add_dropdown('Show', pictures.MODES, initial_value=here.mode)
  names = ('mean',) + app.photo_names[:_MAX_NAMES]
  if app.appearance_name not in names:
    names += (app.appearance_name,)
  looks = gui.add_dropdown(
      'Appearance', names, initial_value=app.appearance_name,
      hint='Exposure and white balance: the mean, or those of a photo.',
  )  # fmt: skip
  flat = gui.add_checkbox(
      'Orthographic', False, hint='Parallel rays: one scale all over.'
  )
  top = gui.add_button('From above, north up')
  whole = gui.add_button('First view')
  shot = gui.add_button('Screenshot (PNG)')
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

  _screenshots(here, shot)

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


def _photos_panel(here) -> None:
  app, gui = here.app, here.client.gui
  if not app.photo_names:
    gui.add_markdown('This scene has no photos.')
    return
  visible = gui.add_checkbox('Show cameras', False)
  names = app.photo_names[:_MAX_NAMES]
  chosen = gui.add_dropdown('Photo', names)
  go = gui.add_button('Look from there')
  compare = gui.add_button('Compare with the photo')
  result = gui.add_markdown('')
  image = [None]
  handles = []

  def look(row):
    view = here.view()
    if view is not None:
      distance = 0.25 * app.spec.root_side
      camera = cameras_lib.take(app.cameras, row)
      here.go_to(views.of_photo(camera, view, distance))

  def show_pair(row):
    result.content = f'**{names[row] if row < len(names) else row}** …'
    try:
      pair, words = _pair(here, row)
    except (errors.InputError, OSError) as error:
      result.content = str(error)
      return
    if image[0] is not None:
      image[0].remove()
    image[0] = gui.add_image(pair, format='jpeg', jpeg_quality=88)
    result.content = words

  @go.on_click
  def _(_):
    look(app.photo_names.index(chosen.value))

  @compare.on_click
  def _(_):
    show_pair(app.photo_names.index(chosen.value))

  def pick(row):
    def clicked(_):
      if app.photo_names[row] in names:
        chosen.value = app.photo_names[row]
      look(row)
      show_pair(row)

    return clicked

  @visible.on_update
  def _(_):
    while handles:
      handles.pop().remove()
    if not visible.value:
      return
    count = len(app.photo_names)
    for row in np.unique(np.linspace(0, count - 1, _MAX_FRUSTUMS).astype(int)):
      frustum = _add_frustum(here, int(row))
      frustum.on_click(pick(int(row)))
      handles.append(frustum)


def _add_frustum(here, row: int):
  """A photo's camera in the browser's scene."""
  camera = cameras_lib.take(here.app.cameras, row)
  pose = np.asarray(camera.cam_to_world)
  fov = 2 * np.arctan(0.5 * float(camera.height) / float(camera.intrinsics[1]))
  units = here.app.spec.root_side / here.place.scale
  return here.client.scene.add_camera_frustum(
      f'/photos/{row}',
      fov=float(min(fov, 2.5)),
      aspect=float(camera.width) / float(camera.height),
      scale=_PHOTO_SHARE * units,
      thickness=2.0,
      thickness_units='screen',
      color=(255, 200, 0),
      wxyz=views.rotation_to_quaternion(pose[:, :3]),
      position=here.place.from_world(pose[:, 3]),
  )


def _pair(here, row: int):
  """(Photo beside render, a line about them)."""
  app = here.app
  camera = cameras_lib.take(app.cameras, row)
  name = app.photo_names[row]
  appearance = app.loop.call(lambda r: r.appearance(name)).result()
  render = jobs.picture(app.loop, camera, appearance, max_width=_COMPARE_WIDTH)
  if app.around.photo_pixels is None:
    return render, f'**{name}**: the render; a store holds no photos'
  photo = pictures.shrink(
      app.around.photo_pixels(row), render.shape[1], render.shape[0]
  )
  error = np.mean((photo / 255.0 - render / 255.0) ** 2)
  psnr = -10 * np.log10(max(error, 1e-10))
  words = (
      f'**{name}**: photo, render (with its own appearance); {psnr:.1f} dB at'
      f' {render.shape[1]} x {render.shape[0]}'
  )
  return pictures.side_by_side(photo, render), words


def _path_panel(here) -> None:
  app, gui = here.app, here.client.gui
  keys, handle = [], [None]
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
    if handle[0] is not None:
      handle[0].remove()
      handle[0] = None
    text.content = f'{len(keys)} views'
    if len(keys) > 1:
      frames = path_record.interpolate(keys, 16 * len(keys))
      line = here.place.from_world(np.stack([f.position for f in frames]))
      handle[0] = here.client.scene.add_line_segments(
          '/path', np.stack([line[:-1], line[1:]], axis=1).astype(np.float32),
          (255, 60, 60), thickness=3.0, thickness_units='screen',
      )  # fmt: skip

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
