"""Cameras at all heights, and what a view of each takes of a tree."""

import dataclasses
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.storage import tree_pages
from infnerf_jax.streaming import view_tiles, working_set


@dataclasses.dataclass(frozen=True)
class FinestPolicy:
  """Every sample at the deepest level: a partition without levels of detail."""

  def __call__(self, footprint, *, root_gsd: float, max_level: int):
    del root_gsd
    return jnp.full(jnp.shape(footprint), max_level, jnp.int32)


def camera_above(
    target, height: float, *, tilt: float = 0.0, width: int = 320, fov=60.0
) -> cameras_lib.Cameras:
  """A pinhole that looks at a place on the ground.

  Args:
    target: [3] metres.
    height: metres, distance from it.
    tilt: degrees from straight down; 90 looks along the ground, northwards.
    width: pixels; 4:3.
    fov: degrees, horizontal.

  Returns:
    One camera.
  """
  angle = np.radians(tilt)
  offset = height * np.array([0.0, -np.sin(angle), np.cos(angle)])
  position = np.asarray(target, np.float64) + offset
  focal = 0.5 * width / np.tan(np.radians(fov) / 2)
  return cameras_lib.make_camera(
      focal=focal, width=width, height=width * 3 // 4,
      cam_to_world=cameras_lib.look_at(position, target, (0.0, 1.0, 0.0)),
  )  # fmt: skip


def places(num: int) -> np.ndarray:
  """[num, 2] spread evenly over a square from -1/2 to 1/2."""
  # Multiples of the plastic number's powers: even at every count.
  return np.arange(1, num + 1)[:, None] * [0.7548776662, 0.5698402910] % 1 - 0.5


def camera_at(
    place, height: float, *, tilt: float, heading: float, width: int = 320
) -> cameras_lib.Cameras:
  """A pinhole of 60 degrees that stands over a place of the ground.

  Args:
    place: [2] metres, east and north.
    height: metres over the ground, which is at height 0.
    tilt: degrees from straight down; below 90.
    heading: degrees from north, towards the east.
    width: pixels; 4:3.

  Returns:
    One camera.
  """
  turn = np.radians(heading)
  north, down = np.array([np.sin(turn), np.cos(turn), 0.0]), np.radians(tilt)
  direction = np.sin(down) * north - np.array([0.0, 0.0, np.cos(down)])
  position = np.array([*place, height], np.float64)
  focal = 0.5 * width / np.tan(np.radians(30))
  return cameras_lib.make_camera(
      focal=focal, width=width, height=width * 3 // 4,
      cam_to_world=cameras_lib.look_at(
          position, position + height * direction, north
      ),
  )  # fmt: skip


def measure(
    tree,
    frame: working_set.Frame,
    camera,
    row_bytes: int,
    *,
    repeats: int = 2,
    pixel_size: float = 1.0,
) -> dict[str, Any]:
  """What a view takes: nodes, bytes, seconds to find them.

  Args:
    tree: what nodes exist.
    frame: where they lie.
    camera: view.
    row_bytes: of a node.
    repeats: selections; the fastest counts, and its pages are in memory.
    pixel_size: width of a picture's pixel in the camera's.

  Returns:
    {'nodes', 'parameters', 'bytes', 'selection_ms', 'levels'}.
  """
  tiles = view_tiles.view_tiles(camera, pixel_size=pixel_size)
  best, found = np.inf, None
  for _ in range(repeats):
    start = time.process_time()
    found = working_set.find(tree, frame, tiles)
    best = min(best, time.process_time() - start)
  levels = tree_pages.key_level(found.keys)
  return {
      'nodes': len(found.keys),
      'parameters': len(found.keys) * row_bytes // 4,
      'bytes': len(found.keys) * row_bytes,
      'selection_ms': 1e3 * best,
      'levels': [int(levels.min()), int(levels.max())],
  }


def flat_cells(tree, frame: working_set.Frame, camera) -> int:
  """Cells of the deepest level that a view needs without levels of detail."""
  flat = frame._replace(policy=FinestPolicy())
  found = working_set.of_camera(tree, flat, camera)
  levels = tree_pages.key_level(found.keys)
  return int(np.sum(levels == frame.max_level))
