"""The photos' panel: their cameras in the scene, and photo beside render."""

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import jobs, pictures, views

# A browser draws so many photos' cameras, and lists so many names.
_MAX_FRUSTUMS, MAX_NAMES = 200, 2000
_COMPARE_WIDTH = 320
_PHOTO_SHARE = 0.02  # of the root's side: a photo's frustum


def build(here) -> None:
  """Makes the panel of a session."""
  app, gui = here.app, here.client.gui
  if not app.photo_names:
    gui.add_markdown('This scene has no photos.')
    return
  visible = gui.add_checkbox('Show cameras', False)
  names = app.photo_names[:MAX_NAMES]
  chosen = gui.add_dropdown('Photo', names)
  go = gui.add_button('Look from there')
  compare = gui.add_button('Compare with the photo')
  result = gui.add_markdown('')
  image = [None]

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

  _frustums(here, visible, pick)


def _frustums(here, visible, pick) -> None:
  """Shows the photos' cameras while a checkbox is set.

  Args:
    here: session.
    visible: checkbox.
    pick: gives what a click on a photo's camera does, by its row.
  """
  handles = []

  @visible.on_update
  def _(_):
    while handles:
      handles.pop().remove()
    if not visible.value:
      return
    count = len(here.app.photo_names)
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
