"""Walking through a scene in the browser: loads it and opens the viewer."""

import pathlib
from typing import Any

import numpy as np

from infnerf_jax import errors, loaded
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import camera_path, paths, surroundings
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.storage import checkpoint, node_store
from infnerf_jax.viewer import app, web


class _Photos:
  """Pixels of a run's photos, opened when they are first asked for."""

  def __init__(self, scene: loaded.LoadedScene):
    self._scene, self._pyramid = scene, None

  def __call__(self, row: int) -> np.ndarray:
    if self._pyramid is None:
      self._pyramid = self._scene.open_pyramid()
    return pyramid_lib.photo(self._pyramid, row, 0)[0]


class _Newer:
  """Loads the newest checkpoint of a run where it is not loaded yet."""

  def __init__(self, workdir, num_steps: int):
    self._workdir, self._num_steps = pathlib.Path(workdir), num_steps
    self._manager = checkpoint.CheckpointManager(self._workdir / 'checkpoints')

  def __call__(self) -> Any:
    latest = self._manager.latest_step()
    if latest is None or latest <= self._num_steps:
      return None
    scene = loaded.load(self._workdir)
    if scene.num_steps <= self._num_steps:
      return None  # the newest is damaged: the one before is what is shown
    self._num_steps = scene.num_steps
    return scene


def _frame(scene) -> map_frame.MapFrame:
  """Where a run or a store lies on a map."""
  return map_frame.make_frame(map_frame.read_frame(scene.workdir))


def _first_camera(scene) -> tuple[cameras_lib.Cameras, np.ndarray, np.ndarray]:
  """(A camera that sees the scene as photos do, its target, up)."""
  if len(scene.photo_names):
    frames = camera_path.Frames(num=1, width=640)
    path = paths.spiral_path(scene.cameras, scene.octree, frames)
    camera = cameras_lib.take(path.cameras, 0)
    view = surroundings.surround(scene.cameras, scene.octree)
    pose = camera.cam_to_world
    # The target that the view turns about: on its axis, where the scene is.
    distance = float((view.target - pose[:, 3]) @ pose[:, 2])
    distance = max(distance, 0.05 * scene.octree.side)
    return camera, pose[:, 3] + distance * pose[:, 2], view.up
  target = np.asarray(scene.octree.center, np.float64)
  offset = scene.octree.side * np.array([0.0, -0.8, 0.8])
  camera = cameras_lib.make_camera(
      focal=480, width=640, height=480,
      cam_to_world=cameras_lib.look_at(target + offset, target),
  )  # fmt: skip
  return camera, target, np.array([0.0, 0.0, 1.0])


def open_viewer(
    workdir,
    *,
    host: str = '127.0.0.1',
    port: int = 8080,
    token: str = '',
    appearance: str | None = None,
    max_memory_gb: float | None = None,
    check_every: float = 5.0,
) -> app.Viewer:
  """Opens the viewer of a run or a node store.

  Args:
    workdir: folder of a run, trained or in training, or an exported store.
    host: to listen on; others than this machine need a token.
    port: 0 is any free one.
    token: that browsers must show once, `http://host:port/?token=...`.
    appearance: name of a photo; None for the mean embedding.
    max_memory_gb: cap of all that is held; None is the run's.
    check_every: seconds between looks for a newer checkpoint.

  Returns:
    Viewer; close it, or use it in a `with`.

  Raises:
    InputError: no such scene, an address that is taken or not safe, a cap
      that does not hold the scene.
  """
  web.check_address(host, port, token)  # before the minutes of a large scene
  is_run = not node_store.is_store(workdir)
  reloads = False
  if is_run and (pathlib.Path(workdir) / 'checkpoints').is_dir():
    reloads = _room_to_reload(workdir, max_memory_gb)
  scene = loaded.load(workdir)
  camera, target, up = _first_camera(scene)
  around = app.Surroundings(
      first=camera,
      target=target,
      up=up,
      frame=_frame(scene),
      photo_pixels=_Photos(scene) if is_run else None,
      newer=_Newer(workdir, scene.num_steps) if reloads else None,
  )
  return app.Viewer(
      scene,
      around,
      host=host,
      port=port,
      token=token,
      appearance=None if appearance == 'mean' else appearance,
      max_memory_gb=max_memory_gb,
      check_every=check_every,
  )


def _room_to_reload(workdir, max_memory_gb: float | None) -> bool:
  """Whether a newer checkpoint may be read beside what is shown.

  Raises:
    InputError: the cap does not even hold the first.
  """
  if not max_memory_gb:
    return True
  manager = checkpoint.CheckpointManager(pathlib.Path(workdir) / 'checkpoints')
  stored = manager.stored_bytes()
  model = manager.stored_bytes(prefix='params')
  if 1e9 * max_memory_gb < stored + model:
    raise errors.InputError(
        f'--max_memory_mb: got {1e3 * max_memory_gb:g}, expected at least'
        f' {(stored + model) / 1e6:.0f}: the checkpoint of a run is read whole,'
        ' moments included; a node store (experiments.export) needs less'
    )
  return 1e9 * max_memory_gb >= stored + 2 * model
