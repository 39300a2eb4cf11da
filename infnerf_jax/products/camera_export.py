"""A run's cameras as nerfstudio's transforms.json."""

import os
import pathlib
from typing import Any

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_models, ply
from infnerf_jax.training import setup

FILE = 'transforms.json'
_FIELDS = {
    'PINHOLE': (),
    'OPENCV': ('k1', 'k2', 'p1', 'p2'),
    'FULL_OPENCV': ('k1', 'k2', 'p1', 'p2', 'k3', 'k4', 'k5', 'k6'),
    'OPENCV_FISHEYE': ('k1', 'k2', 'k3', 'k4'),
}
# Ours look along +z with y down; OpenGL's along -z with y up.
_OURS_TO_OPENGL = np.diag([1.0, -1.0, -1.0])


def to_transforms(
    cameras: cameras_lib.Cameras, names, frame: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Cameras as transforms.json has them.

  Args:
    cameras: table [P], perspective or fisheye.
    names: P photos; files are `images/NAME`.
    frame: what `frame.json` says; kept under `scene_frame`, since the poses
      are in the scene's metres.

  Returns:
    Content of the file.
  """
  frames = []
  for row, name in enumerate(names):
    camera = cameras_lib.take(cameras, row)
    lens = camera_models.Lens(
        int(camera.projection), camera.intrinsics, camera.distortion
    )
    model, params = camera_models.to_colmap(lens)
    pose = np.eye(4)
    pose[:3, :3] = camera.cam_to_world[:, :3] @ _OURS_TO_OPENGL
    pose[:3, 3] = camera.cam_to_world[:, 3]
    frames.append(
        {
            'file_path': f'images/{name}',
            'camera_model': model,
            'w': int(camera.width),
            'h': int(camera.height),
            **dict(zip(('fl_x', 'fl_y', 'cx', 'cy'), params[:4])),
            **dict(zip(_FIELDS[model], params[4:], strict=True)),
            'transform_matrix': pose.tolist(),
        }
    )
  # nerfstudio takes one model for all frames from here.
  content = {'camera_model': frames[0]['camera_model'], 'frames': frames}
  if frame:
    content['scene_frame'] = frame
  return content


def write_cameras(loaded, out, frame=None) -> dict[str, Any]:
  """Writes transforms.json of a run.

  Args:
    loaded: a LoadedScene or StoreScene.
    out: FILE.json, or a folder that then also gets links to the photos and the
      sparse points, so that other programs read it as a scene.
    frame: see `to_transforms`.

  Returns:
    `cameras`, `files`, `photos_linked`.

  Raises:
    InputError: what cannot be written.
  """
  out = pathlib.Path(out)
  content = to_transforms(loaded.cameras, loaded.photo_names, frame)
  path = out if out.suffix == '.json' else out / FILE
  linked = 0
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path is not out:
      linked = _link_scene(loaded, out, content)
    json_files.write_json_atomic(path, content)
  except OSError as error:
    raise errors.InputError(
        f'--out: {out}: {error.strerror}, expected a place that can be written'
    ) from None
  return {
      'cameras': len(content['frames']),
      'files': [os.fspath(path)],
      'photos_linked': linked,
  }


def _link_scene(loaded, out: pathlib.Path, content) -> int:
  """Links photos and points into a folder; photos linked."""
  if not hasattr(loaded, 'open_pyramid'):
    return 0  # A store knows no files.
  try:
    scene = setup.load_scenes(loaded.config, loaded.workdir).scene
  except errors.InputError:
    return 0
  paths = dict(zip(scene.photos.names, scene.photos.paths, strict=True))
  linked = 0
  for name in loaded.photo_names:
    if name not in paths:
      continue
    target = out / 'images' / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
      target.symlink_to(paths[name].resolve())
    linked += 1
  if scene.points is not None:
    ply.write(out / 'sparse_points.ply', scene.points)
    content['ply_file_path'] = 'sparse_points.ply'
  return linked
