"""Part 3: the share of a real capture's parameters that a view touches."""

import os
import pathlib
from typing import Any

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import build
from infnerf_jax.scene import readers
from infnerf_jax.storage import tree_pages
from infnerf_jax.streaming import working_set

CAPTURES = ('caliterra_infnerf', 'brighton_beach')
# Deepest level that an automatic grid_size aims at.
TARGET_DEPTHS = (2, 3, 4, 5)
_ROOT = pathlib.Path(__file__).resolve().parents[3]
# Heights as shares of the root's side.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def data_folder() -> pathlib.Path:
  """INFNERF_DATA, by default beside the checkout."""
  return _ROOT / os.environ.get('INFNERF_DATA', '../shared/data')


def measure_capture(name: str, target_depth: int) -> dict[str, Any]:
  """Shares at all heights above one capture's middle.

  Raises:
    InputError: the capture is not there.
  """
  scene = readers.load_scene(data_folder() / name)
  built = build.build_octree(
      scene, build.BuildOptions(target_depth=target_depth, max_depth=8)
  )
  octree = built.octree
  frame = working_set.Frame(
      octree.root_min, octree.side, octree.root_gsd, octree.num_levels - 1,
      built.sample_aabb, near=0.0,
  )  # fmt: skip
  tree = tree_pages.ResidentTree(octree)
  up = _up(scene.cameras.cam_to_world)
  center = np.median(scene.points.positions, axis=0)
  measured = []
  for share in SHARES:
    height = share * octree.side
    counts = [
        len(working_set.of_camera(tree, frame, camera).keys)
        for camera in _cameras(center, up, height, octree.side)
    ]
    measured.append(
        {
            'height': height,
            'touched_share': float(np.mean(counts)) / octree.num_nodes,
        }
    )
  return {
      'capture': name,
      'target_depth': target_depth,
      'grid_size': octree.grid_size,
      'levels': octree.num_levels,
      'num_nodes': octree.num_nodes,
      'views': measured,
  }


def _up(poses) -> np.ndarray:
  """[3] against the mean view of nadir photos."""
  forward = np.asarray(poses)[:, :, 2].mean(axis=0)
  return -forward / np.linalg.norm(forward)


def _cameras(center, up, height, side):
  """Views straight down onto five places, 640 pixels wide as photos are."""
  across = np.cross(up, [0.3, 0.9, 0.1])
  across /= np.linalg.norm(across)
  along = np.cross(up, across)
  focal = 0.5 * 640 / np.tan(np.radians(30))
  for east, north in ((0, 0), (0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2)):
    target = center + side * (east * across + north * along)
    yield cameras_lib.make_camera(
        focal=focal, width=640, height=480,
        cam_to_world=cameras_lib.look_at(target + height * up, target, along),
    )  # fmt: skip


def measure(
    names=CAPTURES, target_depths=TARGET_DEPTHS
) -> tuple[list[dict[str, Any]], list[str]]:
  """(results, reasons why captures are not among them)."""
  results, missing = [], []
  for name in names:
    try:
      results += [measure_capture(name, depth) for depth in target_depths]
    except errors.InputError as e:
      missing.append(str(e))
  return results, missing
