"""The one thread that renders: the latest view of each client, in turns.

Clients wait for nobody: a view replaces the client's view before, and a band
of rows is all that is ever finished of what nobody wants any more.
"""

import collections
import concurrent.futures
import threading
import time
from typing import Any, Callable, NamedTuple

import numpy as np
from absl import logging

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.viewer import meter as meter_lib
from infnerf_jax.viewer import pictures, schedule
from infnerf_jax.viewer import renderer as renderer_lib

MAX_PIXELS = 1_500_000
# A band of a store's view stays below what its budget holds for a picture.
_MAX_BAND = 65_536
# Unfinished pictures are shown this often, seconds.
_SHOW_EVERY = 0.5


class Picture(NamedTuple):
  """A picture for a client.

  Attributes:
    rgb: [H, W, 3] uint8.
    depth: [H, W] float32 metres along the axis; infinite without a surface.
    pixel_size: canvas pixels of a pixel.
    is_final: nothing finer follows.
    meter: what it touched.
    seconds: since the view was asked for.
  """

  rgb: np.ndarray
  depth: np.ndarray
  pixel_size: float
  is_final: bool
  meter: meter_lib.Meter
  seconds: float


class Request(NamedTuple):
  """What a client wants to see.

  Attributes:
    camera: its canvas as a camera, a single row.
    appearance: [A].
    mode: one of `pictures.MODES`.
    publish: takes each Picture; called in the render thread.
    failed: takes a line that says why there is none.
  """

  camera: cameras_lib.Cameras
  appearance: np.ndarray
  mode: str
  publish: Callable[[Picture], None]
  failed: Callable[[str], None]


class _Task:
  """A request on its way; only the render thread touches what changes."""

  def __init__(self, request: Request, stages):
    self.request, self.stages = request, stages
    self.stage = self.band = 0
    self.started = self.shown = time.monotonic()
    self.served = 0
    self.meter: meter_lib.Meter | None = None
    self.limits = None
    self.rgb = self.depth = None

  @property
  def is_begun(self) -> bool:
    """Whether the first picture is under way."""
    return self.stage == 0 and self.band > 0

  @property
  def is_done(self) -> bool:
    return self.stage == len(self.stages)


def _surface_depth(image) -> np.ndarray:
  """[H, W] float32 metres along the axis to where half of the light is gone."""
  with np.errstate(invalid='ignore', divide='ignore'):
    cos = image.depth / image.distance
    depth = image.half_distance * cos
  return np.where(np.isfinite(depth), depth, np.inf).astype(np.float32)


class RenderLoop:
  """Renders for many clients in one thread; a context manager.

  Attributes:
    rays_per_second: measured.
  """

  def __init__(self, renderer: renderer_lib.Renderer):
    """Starts the thread.

    Args:
      renderer: from now on the thread's alone (see `call`).
    """
    self._renderer = renderer
    self._wake = threading.Condition()
    self._new: dict[int, Request] = {}
    self._tasks: dict[int, _Task] = {}
    self._jobs: collections.deque[Any] = collections.deque()
    self._closed = False
    self._count = 0
    self.rays_per_second = None
    self._thread = threading.Thread(
        target=self._run, name='render', daemon=True
    )
    self._thread.start()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def close(self) -> None:
    """Ends the thread after the band that it renders."""
    with self._wake:
      self._closed = True
      self._wake.notify()
    self._thread.join(timeout=30.0)

  def submit(self, client: int, request: Request) -> None:
    """Shows a client another view; returns at once.

    Args:
      client: who; its view before is given up.
      request: what it wants.
    """
    with self._wake:
      self._new[client] = request
      self._wake.notify()

  def remove(self, client: int) -> None:
    """Forgets a client that is gone; returns at once."""
    with self._wake:
      self._new.pop(client, None)
      self._tasks.pop(client, None)

  def call(self, function, *args) -> concurrent.futures.Future:
    """Runs a short function of the renderer in the render thread, soon.

    Args:
      function: takes the renderer and `args`.
      *args: further arguments.

    Returns:
      Future of what it returns.
    """
    future = concurrent.futures.Future()
    with self._wake:
      if self._closed:
        future.cancel()
      else:
        self._jobs.append((future, function, args))
        self._wake.notify()
    return future

  def _run(self) -> None:
    while True:
      with self._wake:
        while not (self._closed or self._jobs or self._new or self._waiting()):
          self._wake.wait()
        if self._closed:
          for future, _, _ in self._jobs:
            future.cancel()
          return
        job = self._jobs.popleft() if self._jobs else None
        self._begin_new()
        client = schedule.next_turn(self._waiting())
        task = self._tasks.get(client)
      # A job and a band by turns: neither holds the other up.
      if job is not None:
        self._run_job(*job)
      if task is not None:
        self._serve(client, task)

  def _waiting(self):
    return [
        schedule.Turn(client, task.stage, task.served)
        for client, task in self._tasks.items()
        if not task.is_done
    ]

  def _begin_new(self) -> None:
    """Makes tasks of new views; the lock is held."""
    clients = len(self._new.keys() | self._tasks.keys())
    for client in list(self._new):
      before = self._tasks.get(client)
      if before is not None and before.is_begun:
        # A camera that never rests must still see something: its first
        # picture is finished, whatever came since.
        continue
      request = self._new.pop(client)
      task = _Task(request, self._stages(request.camera, clients))
      if before is not None:
        task.served = before.served
      self._tasks[client] = task

  def _stages(self, camera, num_clients):
    most = schedule.pixel_limit(
        self._renderer.picture_bytes, num_clients,
        bytes_per_pixel=renderer_lib.PIXEL_BYTES, most=MAX_PIXELS,
    )  # fmt: skip
    return schedule.stages(
        int(camera.width),
        int(camera.height),
        rays_per_second=min(self.rays_per_second or 20e3, _MAX_BAND / 0.15),
        max_pixels=most,
        limits=self._renderer.limits,
    )

  def _run_job(self, future, function, args) -> None:
    if not future.set_running_or_notify_cancel():
      return
    try:
      future.set_result(function(self._renderer, *args))
    except BaseException as error:  # The caller's to raise.
      future.set_exception(error)

  def _serve(self, client: int, task: _Task) -> None:
    """One band for a client; whatever goes wrong ends its task only."""
    self._count += 1
    task.served = self._count
    try:
      self._render_band(client, task)
    except errors.InputError as error:
      self._drop(client, task, str(error))
    except Exception as error:
      logging.exception('a view could not be rendered')
      self._drop(client, task, f'{type(error).__name__}: {error}')

  def _drop(self, client, task, message: str) -> None:
    task.stage = len(task.stages)
    try:
      task.request.failed(message)
    except Exception:
      logging.exception('client %d could not be told', client)

  def _render_band(self, client: int, task: _Task) -> None:
    request, stage = task.request, task.stages[task.stage]
    start = time.monotonic()
    band = stage.bands[task.band]
    image, used = self._renderer.band(
        request.camera, stage, band, request.appearance
    )
    seconds = time.monotonic() - start
    rays = (band[1] - band[0]) * stage.width
    self.rays_per_second = schedule.update_speed(
        self.rays_per_second, rays, seconds
    )
    if task.band == 0:
      self._begin_stage(task, stage)
    task.meter = meter_lib.merge(task.meter, used)
    if task.limits is None and request.mode == 'depth':
      # The first picture's, so that colours stay as pixels become finer.
      task.limits = pictures.depth_limits(image.distance, image.opacity)
    rows = slice(*band)
    task.rgb[rows] = pictures.paint(
        request.mode, image,
        max_level=self._renderer.max_level, limits=task.limits,
    )  # fmt: skip
    task.depth[rows] = _surface_depth(image)
    task.band += 1
    self._show(client, task, stage)

  def _begin_stage(self, task: _Task, stage: schedule.Stage) -> None:
    """A canvas of the stage that shows the stage before."""
    size = stage.width, stage.height
    if task.rgb is None:
      task.rgb = np.zeros(size[::-1] + (3,), np.uint8)
      task.depth = np.full(size[::-1], np.inf, np.float32)
    else:
      # Copies: what was published stays as it is.
      task.rgb = pictures.enlarge(task.rgb, *size)
      task.depth = pictures.enlarge_nearest(task.depth, *size)
    task.meter = None

  def _show(self, client: int, task: _Task, stage: schedule.Stage) -> None:
    """Publishes what is finished, and now and then what is not."""
    first, now = task.stage == 0, time.monotonic()
    if task.band == len(stage.bands):
      task.stage, task.band = task.stage + 1, 0
    elif first or now - task.shown < _SHOW_EVERY:
      return
    with self._wake:
      if self._tasks.get(client) is not task:
        return  # gone
      if client in self._new and not first:
        return  # looks elsewhere by now
    task.shown = now
    whole = task.band == 0
    task.request.publish(
        Picture(
            # What is still being drawn into is not given away.
            task.rgb if whole else task.rgb.copy(),
            task.depth if whole else task.depth.copy(),
            stage.pixel_size, task.is_done, task.meter, now - task.started,
        )  # fmt: skip
    )
