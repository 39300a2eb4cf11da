"""One client: what it looks at, and what it is shown."""

import secrets
import threading
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import pictures, render_loop, views

# The root's side in the browser's units, whatever it is in metres: its clip
# planes and its depth buffer are made for scenes of about this size.
_ROOT_UNITS = 20.0
_QUALITY = {False: 75, True: 92}
# Share of the canvas that a scale bar takes at most.
_BAR_SHARE = 0.2


class Place(NamedTuple):
  """The browser's world: `world = origin + units * scale`.

  Attributes:
    origin: [3] metres, the root's centre.
    scale: metres a unit.
  """

  origin: np.ndarray
  scale: float

  def to_world(self, points) -> np.ndarray:
    """[..., 3] metres, world."""
    return self.origin + self.scale * np.asarray(points, np.float64)

  def from_world(self, points) -> np.ndarray:
    """[..., 3] units of the browser."""
    return (np.asarray(points, np.float64) - self.origin) / self.scale


def place_of(octree) -> Place:
  """The browser's world of a tree."""
  return Place(np.asarray(octree.center, np.float64), octree.side / _ROOT_UNITS)


class Shown(NamedTuple):
  """The last picture that a client got, for what is under its pointer.

  Attributes:
    view: what it shows.
    camera: likewise.
    depth: [H, W] float32 metres, infinite without a surface.
    final: whether it is as fine as it gets.
    pixel_size: canvas pixels of a pixel.
  """

  view: views.View
  camera: cameras_lib.Cameras
  depth: np.ndarray
  final: bool
  pixel_size: float


class Session:
  """A client's state; its methods may be called from any thread.

  Attributes:
    app: what all clients share.
    client: viser's handle.
    name: what the page calls itself before the pointer's socket.
    mode: of pictures.
    appearance: [A].
    orthographic: whether rays are parallel.
    shown: the last picture, None before the first.
    on_picture: called with every Picture, in the render thread.
  """

  def __init__(self, app, client):
    self.app, self.client = app, client
    self.name = secrets.token_urlsafe(12)
    self.mode = pictures.MODES[0]
    self.appearance = app.appearance
    self.orthographic = False
    self.uses_depth = False
    self.shown: Shown | None = None
    self.on_picture: list[Any] = []
    self._fov = None
    self._lock = threading.Lock()
    self._last_view: views.View | None = None

  @property
  def place(self) -> Place:
    return self.app.place

  def view(self) -> views.View | None:
    """What the client looks at; None where it makes no sense."""
    camera = self.client.camera
    try:
      view = views.View(
          position=self.place.to_world(camera.position),
          rotation=views.quaternion_to_rotation(camera.wxyz),
          fov=float(camera.fov),
          width=int(camera.image_width),
          height=int(camera.image_height),
          target=self.place.to_world(camera.look_at),
          orthographic=self.orthographic,
      )
    except (TypeError, ValueError, AssertionError):
      return None
    return view if views.is_valid(view) else None

  def go_to(self, view: views.View) -> None:
    """Moves the client's camera."""
    camera, place = self.client.camera, self.place
    self.orthographic = view.orthographic
    with self.client.atomic():
      camera.up_direction = -view.rotation[:, 1]
      camera.position = place.from_world(view.position)
      camera.look_at = place.from_world(view.target)
      camera.fov = view.fov
    self.refresh(view)

  def refresh(self, view: views.View | None = None) -> None:
    """Asks for pictures of the present view."""
    view = view or self.view()
    if view is None:
      return
    camera = views.to_camera(view, self.app.box, self.app.near)
    with self._lock:
      self._last_view = view
    self.app.loop.submit(
        self.client.client_id,
        render_loop.Request(
            camera, self.appearance, self.mode,
            lambda picture: self._show(view, camera, picture), self._fail,
        ),
    )  # fmt: skip

  def camera_moved(self) -> None:
    """Asks for new pictures where the client's camera is another."""
    view = self.view()
    if view is None:
      return
    with self._lock:
      before = self._last_view
    if before is not None and _same(before, view):
      return
    self.refresh(view)

  def _show(self, view, camera, picture: render_loop.Picture) -> None:
    """Sends a picture; runs in the render thread."""
    self.shown = Shown(
        view, camera, picture.depth, picture.is_final, picture.pixel_size
    )
    depth = None
    if self.uses_depth and not view.orthographic:
      depth = (picture.depth / self.place.scale)[..., None]
    self.client.scene.set_background_image(
        picture.rgb,
        format='jpeg',
        jpeg_quality=_QUALITY[picture.is_final],
        depth=depth,
    )
    for listener in self.on_picture:
      listener(picture)

  def _fail(self, message: str) -> None:
    self.client.add_notification(
        'No picture', message, color='red', auto_close_seconds=10.0
    )

  def pointer(self, place: dict[str, Any]) -> dict[str, Any]:
    """What the page shows about a place of the canvas: see page.js."""
    shown = self.shown
    if shown is None:
      return {}
    answer = {'bar': scale_bar(shown)}
    u, v = place.get('u'), place.get('v')
    if all(isinstance(x, int | float) and 0 <= x <= 1 for x in (u, v)):
      answer['text'] = self.app.describe_place(*under(shown, u, v))
    return answer


def _same(first: views.View, second: views.View) -> bool:
  return all(
      np.allclose(a, b, rtol=1e-9, atol=1e-9)
      for a, b in zip(first, second, strict=True)
  )


def under(shown: Shown, u: float, v: float):
  """What a picture has at a place: ([3] point or None, metres a pixel)."""
  height, width = shown.depth.shape
  row, column = min(int(v * height), height - 1), min(int(u * width), width - 1)
  depth = float(shown.depth[row, column])
  if not np.isfinite(depth):
    return None, float('nan')
  camera = shown.camera
  origin, direction = views.pixel_ray(camera, u, v)
  axis = np.asarray(camera.cam_to_world)[:, 2]
  focal = float(camera.intrinsics[1])
  if shown.view.orthographic:
    return origin + depth * direction, 1 / focal
  return origin + depth / float(direction @ axis) * direction, depth / focal


def scale_bar(shown: Shown) -> dict[str, Any] | None:
  """A round length at the depth of the picture's middle.

  Args:
    shown: picture.

  Returns:
    `share` of the canvas's width, `text`; None where there is nothing.
  """
  if shown.view.orthographic:
    gsd = 1 / float(shown.camera.intrinsics[0])
  else:
    height, width = shown.depth.shape
    middle = shown.depth[
        height // 3 : max(2 * height // 3, height // 3 + 1),
        width // 3 : max(2 * width // 3, width // 3 + 1),
    ]
    known = middle[np.isfinite(middle)]
    if not known.size:
      return None
    gsd = float(np.median(known)) / float(shown.camera.intrinsics[0])
  size = views.nice_length(_BAR_SHARE * gsd * shown.view.width)
  text = f'{size:g} m' if size < 1000 else f'{size / 1000:g} km'
  if size < 1:
    text = f'{100 * size:g} cm'
  return {'share': size / (gsd * shown.view.width), 'text': text}
