"""Part 3: the share of a real capture's parameters that a view touches."""

import os
import pathlib
from typing import Any

import numpy as np

from infnerf_jax import errors
from infnerf_jax.evaluation.complexity import touched, views
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import build, levels
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.scene import readers
from infnerf_jax.storage import tree_pages
from infnerf_jax.streaming import working_set

CAPTURES = ('caliterra_infnerf', 'brighton_beach')
# Deepest level that an automatic grid_size aims at.
TARGET_DEPTHS = (2, 3, 4, 5)
_ROOT = pathlib.Path(__file__).resolve().parents[3]
# Heights as shares of the root's side.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# Places that are looked at, over so much of the root's side.
NUM_PLACES, _INNER = 5, 0.4
# How levels are chosen: equation 5, with levels that fade into each other as
# films have it, and an octave finer as the shipped configs have it.
POLICIES = {
    'plain': levels.determine_lod_level,
    'blended': levels.BlendedPolicy(0.25),
    'an octave finer': levels.BiasedPolicy(-1.0),
    'an octave finer, blended': levels.BlendedPolicy(0.25, -1.0),
}


def data_folder() -> pathlib.Path:
  """INFNERF_DATA, by default beside the checkout."""
  return _ROOT / os.environ.get('INFNERF_DATA', '../shared/data')


def measure_capture(
    name: str, target_depth: int, num_places: int = NUM_PLACES
) -> dict[str, Any]:
  """Shares at all heights above one capture's middle.

  Raises:
    InputError: the capture is not there.
  """
  scene = readers.load_scene(data_folder() / name)
  built = build.build_octree(
      scene, build.BuildOptions(target_depth=target_depth, max_depth=8)
  )
  octree = built.octree
  up = _up(scene.cameras.cam_to_world)
  center = np.median(scene.points.positions, axis=0)
  return {
      'capture': name,
      'target_depth': target_depth,
      'grid_size': octree.grid_size,
      'levels': octree.num_levels,
      'num_nodes': octree.num_nodes,
      'views': _shares(octree, built.sample_aabb, center, up, num_places),
  }


def _shares(octree, aabb, center, up, num_places) -> list[dict[str, Any]]:
  """Shares of the nodes that views of each height meet and need, by policy."""
  frame = working_set.Frame(
      octree.root_min, octree.side, octree.root_gsd, octree.num_levels - 1,
      aabb, near=0.0,
  )  # fmt: skip
  tree, measured = tree_pages.ResidentTree(octree), []
  dense = touched.DenseRays(octree, aabb)
  share = lambda counts: float(np.mean(counts)) / octree.num_nodes
  for height in SHARES:
    cameras = list(
        _cameras(
            center, up, height * octree.side, octree.side,
            _INNER * views.places(num_places),
        )
    )  # fmt: skip
    met, needed = {}, {}
    for name, policy in POLICIES.items():
      blend = getattr(policy, 'blend', 0.0)
      found = frame._replace(policy=policy, coarser=blend)
      needed[name] = share([
          len(working_set.of_camera(tree, found, camera).keys)
          for camera in cameras
      ])  # fmt: skip
      options = render_rays.RenderOptions(near=1e-5, level_policy=policy)
      met[name] = share(
          [dense.touched(camera, options).sum() for camera in cameras]
      )
    measured.append(
        {
            'height': height * octree.side,
            'touched_share': met,
            'needed_share': needed,
        }
    )
  return measured


def measure_run(loaded) -> dict[str, Any]:
  """Shares of a trained run's parameters that rendering addresses.

  Args:
    loaded: a LoadedScene.

  Returns:
    `views`: by height above the scene's middle, shares of the nodes that a
    picture touched and that its working set has; `photos`: the same of the
    test photos.
  """
  octree, options = loaded.octree, loaded.options
  frame = working_set.make_frame(
      octree, loaded.spec, options, loaded.sample_aabb
  )
  tree = tree_pages.ResidentTree(octree)

  def measure_view(camera, pixel_size):
    needed = working_set.of_camera(tree, frame, camera, pixel_size=pixel_size)
    image = loaded.render(
        camera, pixel_size=pixel_size, outputs=('rgb', 'statistics')
    )
    return {
        'touched_share': (
            float(image.statistics.touched_slots.sum()) / octree.num_nodes
        ),
        'needed_share': len(needed.keys) / octree.num_nodes,
    }

  up = _up(loaded.cameras.cam_to_world)
  finest = octree.level == octree.level.max()
  center = tree_lib.node_aabb(octree, np.flatnonzero(finest)).mean(axis=(0, 1))
  measured = []
  for share in SHARES:
    height = share * octree.side
    (camera,) = _cameras(center, up, height, octree.side, [(0.0, 0.0)])
    measured.append({'height': height, **measure_view(camera, 4.0)})
  photos = [
      measure_view(cameras_lib.take(loaded.cameras, row), loaded.downscale)
      for row in loaded.split['test']
  ]
  return {
      'run': loaded.workdir.name,
      'grid_size': octree.grid_size,
      'levels': octree.num_levels,
      'num_nodes': octree.num_nodes,
      'views': measured,
      'photos': photos,
  }


def _up(poses) -> np.ndarray:
  """[3] against the mean view of nadir photos."""
  forward = np.asarray(poses)[:, :, 2].mean(axis=0)
  return -forward / np.linalg.norm(forward)


def _cameras(center, up, height, side, places):
  """Views straight down, 640 pixels wide as photos are."""
  across = np.cross(up, [0.3, 0.9, 0.1])
  across /= np.linalg.norm(across)
  along = np.cross(up, across)
  focal = 0.5 * 640 / np.tan(np.radians(30))
  for east, north in places:
    target = center + side * (east * across + north * along)
    yield cameras_lib.make_camera(
        focal=focal, width=640, height=480,
        cam_to_world=cameras_lib.look_at(target + height * up, target, along),
    )  # fmt: skip


def measure(
    names=CAPTURES, target_depths=TARGET_DEPTHS, num_places: int = NUM_PLACES
) -> tuple[list[dict[str, Any]], list[str]]:
  """(results, reasons why captures are not among them)."""
  results, missing = [], []
  for name in names:
    try:
      results += [
          measure_capture(name, depth, num_places) for depth in target_depths
      ]
    except errors.InputError as e:
      missing.append(str(e))
  return results, missing
