"""A flight over known points, and what its importers must agree with."""

import json

import numpy as np
import pycolmap

from tests.scene import builders

SIZE = (480, 360)
NAMES = ('DJI_01.jpg', 'DJI_02.jpg', 'DJI_03.jpg')


def photos(folder, *, names=NAMES, size=SIZE):
  for i, name in enumerate(names):
    builders.save_photo(folder / name, size=size, seed=i)


def points(num=30):
  """[num, 3] metres, on the ground below the cameras of `poses`."""
  rng = np.random.default_rng(7)
  return rng.uniform([-8, -6, 0], [8, 6, 3], (num, 3))


def poses(num=len(NAMES)):
  """[num, 4, 4] camera to world, y down, z forward: nadir with tilts."""
  rng = np.random.default_rng(3)
  found = []
  for i in range(num):
    pose = np.eye(4)
    tilt = pycolmap.Rotation3d(rng.normal(size=3) * 0.1).matrix()
    turn = pycolmap.Rotation3d(np.array([0.0, 0.0, 0.7 * i])).matrix()
    pose[:3, :3] = turn @ np.diag([1.0, -1.0, -1.0]) @ tilt
    pose[:3, 3] = [3.0 * i - 3, i - 1, 20 + 0.3 * i]
    found.append(pose)
  return np.array(found)


def local(pose, positions):
  """[N, 3] positions in a camera's frame."""
  return (positions - pose[:3, 3]) @ pose[:3, :3]


def write_json(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))
