"""The viewer: a scene, a render thread, a web server and its clients."""

import contextlib
import io
import threading
from typing import Any, Callable, NamedTuple

import numpy as np
from absl import logging

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import (
  measure,
  panels,
  pictures,
  render_loop,
  renderer,
  session,
  views,
  web,
)  # fmt: skip

# Pixels of the picture that a page shows before it has said how large it is.
_FIRST_SIZE = 160, 90


class Surroundings(NamedTuple):
  """What the viewer is told of a scene besides its model.

  Attributes:
    first: camera to begin with, a single row.
    target: [3] metres, what it looks at.
    up: [3].
    frame: where the scene lies on a map: `from_scene`, `note`, `is_local`,
      `vertical_datum` (`geometry.map_frame.MapFrame`).
    photo_pixels: gives the pixels of a photo by its row, [H, W, 3] uint8;
      None where there are none.
    newer: gives a newer state of the scene, None while there is none; the
      whole is None where there never is one.
  """

  first: cameras_lib.Cameras
  target: np.ndarray
  up: np.ndarray
  frame: Any
  photo_pixels: Callable[[int], np.ndarray] | None = None
  newer: Callable[[], Any] | None = None


class Viewer:
  """Shows a scene in browsers; a context manager.

  Attributes:
    loop: the render thread.
    place: the browsers' world.
    level: level axes.
    box: [2, 3] metres of the scene.
    near: metres that parallel rays keep before it.
    appearance: [A] that clients begin with.
  """

  def __init__(
      self,
      loaded,
      around: Surroundings,
      *,
      host: str = '127.0.0.1',
      port: int = 8080,
      token: str = '',
      appearance: str | None = None,
      max_memory_gb: float | None = None,
      check_every: float = 5.0,
  ):
    """Compiles what pictures take, then opens the server.

    Args:
      loaded: a LoadedScene or StoreScene.
      around: see `Surroundings`.
      host: to listen on; others than this machine need a token.
      port: 0 is any free one.
      token: that clients must show, '' asks for none.
      appearance: a photo's name, None for the mean.
      max_memory_gb: cap of all that is held; None or 0 is the run's.
      check_every: seconds between looks for a newer state.

    Raises:
      InputError: the address is taken or not safe, the cap does not hold the
        scene, or there is no such photo.
    """
    self.around = around
    self.place = session.place_of(loaded.octree)
    self.level = views.make_level(around.up)
    renders = renderer.Renderer(loaded, max_memory_gb=max_memory_gb)
    self.box, self.near = renders.box, renders.near
    self.max_level, self.spec = renders.max_level, loaded.spec
    self.num_steps = renders.num_steps
    self.appearance = renders.appearance(appearance)
    self.appearance_name = appearance or 'mean'
    self.root_min = np.asarray(loaded.octree.root_min)
    self.photo_names = tuple(loaded.photo_names)
    self.cameras = loaded.cameras
    self._sessions: dict[int, session.Session] = {}
    self._closed = threading.Event()
    self.loop = render_loop.RenderLoop(renders)
    try:
      first = self._first_picture()
      self.server = web.start_server(
          host, port, token=token, label='infnerf_jax', answer=self._pointer,
          first=web.first_picture(first),
      )  # fmt: skip
    except BaseException:
      self.loop.close()
      raise
    self._begin_at_first_view()
    self.server.on_client_connect(self._connect)
    self.server.on_client_disconnect(self._disconnect)
    self._watcher = None
    if around.newer is not None:
      self._watcher = threading.Thread(
          target=self._watch, args=(check_every,), name='watch', daemon=True
      )
      self._watcher.start()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  @property
  def port(self) -> int:
    return self.server.get_port()

  def close(self) -> None:
    """Ends server and threads."""
    self._closed.set()
    with contextlib.redirect_stdout(io.StringIO()):  # viser's farewell
      self.server.stop()
    self.loop.close()
    if self._watcher is not None:
      self._watcher.join(timeout=30.0)

  def sessions(self) -> list[session.Session]:
    """Of all clients that are connected."""
    return list(self._sessions.values())

  def first_view(self, width: int, height: int) -> views.View:
    """What a client sees first on a canvas of a size."""
    camera = self.around.first
    distance = np.linalg.norm(self.around.target - camera.cam_to_world[:, 3])
    blank = views.View(
        np.zeros(3), np.eye(3), 1.0, width, height, self.around.target
    )
    return views.of_photo(camera, blank, float(distance))

  def _first_picture(self) -> np.ndarray:
    """[H, W, 3] uint8 of the first view; compiles what all pictures take."""
    view = self.first_view(*_FIRST_SIZE)
    camera = views.to_camera(view, self.box, self.near)
    image = self.loop.call(
        lambda r: r.render(camera, 1.0, self.appearance)
    ).result()
    return pictures.to_bytes(image.rgb)

  def _begin_at_first_view(self) -> None:
    """Where pages begin, and where viser's "Reset View" goes."""
    view, place = self.first_view(*_FIRST_SIZE), self.place
    camera = self.server.initial_camera
    self.server.scene.set_up_direction(tuple(map(float, self.around.up)))
    camera.position = place.from_world(view.position)
    camera.look_at = place.from_world(view.target)
    camera.up = -view.rotation[:, 1]
    camera.fov = view.fov

  async def _connect(self, client) -> None:
    """A client is there; runs in the server's event loop."""
    web.deny_uploads(client._websock_connection)
    here = session.Session(self, client)
    self._sessions[client.client_id] = here
    client.camera.on_update(_camera_listener(here))
    panels.build(here)
    width, height = client.camera.image_width, client.camera.image_height
    here.go_to(self.first_view(max(1, int(width)), max(1, int(height))))

  async def _disconnect(self, client) -> None:
    self._sessions.pop(client.client_id, None)
    self.loop.remove(client.client_id)

  def _pointer(self, place: dict[str, Any]) -> dict[str, Any]:
    for here in self.sessions():
      if here.name == place.get('session'):
        return here.pointer(place)
    return {}

  def describe_place(self, point, gsd: float) -> str:
    """A point and its ground sampling distance as lines for the pointer."""
    if point is None:
      return ''
    return f'GSD {measure.format_length(gsd)}\n{self.coordinates(point)}'

  def coordinates(self, point) -> str:
    """A world point in the map's coordinates."""
    east, north, height = self.around.frame.from_scene(point)
    names = ('x', 'y', 'z') if self.around.frame.is_local else ('E', 'N', 'h')
    return '  '.join(
        f'{name} {value:.2f}'
        for name, value in zip(names, (east, north, height), strict=True)
    )

  def _watch(self, check_every: float) -> None:
    """Takes newer states over while a run trains."""
    while not self._closed.wait(check_every):
      try:
        loaded = self.around.newer()
        if loaded is None:
          continue
        self.loop.call(lambda r, x: r.replace(x), loaded).result()
        self.num_steps = getattr(loaded, 'num_steps', None)
      except errors.InputError as error:
        # Half written, or just removed: the next look finds another.
        logging.info('no newer state: %s', error)
        continue
      except Exception:
        if not self._closed.is_set():
          logging.exception('a newer state could not be read')
        continue
      for here in self.sessions():
        here.refresh()


def _camera_listener(here: session.Session):
  """Runs in the event loop, in order: pools of threads keep none."""

  async def moved(camera) -> None:
    del camera
    here.camera_moved()

  return moved
