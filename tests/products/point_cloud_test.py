"""Points of the synthetic city against the city itself."""

import numpy as np
import plyfile
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import point_cloud
from infnerf_jax.products import region as region_lib
from infnerf_jax.scene import city as city_lib

_SPACING = 0.5


class CityRays:
  """What `point_cloud.RaySource` says, by casting rays at the city."""

  near = 1.0
  sample_aabb = np.array([[-20.0, -20.0, -1.0], [20.0, 20.0, 40.0]])

  def __init__(self):
    self.city = city_lib.make_city(extent=40.0)
    self.largest = 0

  def render(self, camera):
    self.largest = max(self.largest, int(camera.width * camera.height))
    view = city_lib.render(self.city, camera, supersampling=1, with_depth=False)
    distance = np.asarray(view.depth)
    return point_cloud.Rendered(
        view.rgb, distance, np.isfinite(distance).astype(np.float32)
    )


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """(points, normals, colours, source, report) of a part of the city."""
  path = tmp_path_factory.mktemp('points') / 'city.ply'
  source = CityRays()
  region = region_lib.Region(
      np.array([-12.0, -12.0, -1.0]), np.array([48, 40, 60]), _SPACING, 3
  )
  report = point_cloud.write_points(source, region, path, tile=32)
  rows = plyfile.PlyData.read(str(path))['vertex']
  take = lambda names: np.stack([rows[n] for n in names], -1)
  return (
      take('xyz').astype(np.float64), take(('nx', 'ny', 'nz')),
      take(('red', 'green', 'blue')), source, report, region,
  )  # fmt: skip


def test_points_lie_on_the_surface(exported):
  points, normals, colors, source, report, _ = exported
  assert report['points'] == len(points) > 48 * 40
  assert report['spacing'] == _SPACING and report['tiles'] == 8
  # From a metre before each point the city is a metre away.
  back = normals.astype(np.float64)
  back /= np.linalg.norm(back, axis=-1, keepdims=True)
  for direction in point_cloud.view_directions():
    rows = np.flatnonzero((back @ -direction) > 0.99)[:300]
    assert len(rows)
    for row in rows[::30]:
      pose = point_cloud.parallel_camera(
          direction, np.stack([points[row]] * 2), _SPACING,
          source.sample_aabb, 1.0,
      )  # fmt: skip
      pose = cameras_lib.Cameras(*pose)
      center = points[row] - direction
      pose = pose._replace(
          cam_to_world=np.concatenate(
              [pose.cam_to_world[:, :3], center[:, None]], axis=-1
          ),
          width=np.int32(1), height=np.int32(1),
          intrinsics=np.array([1 / _SPACING, 1 / _SPACING, 0.5, 0.5]),
      )  # fmt: skip
      seen = source.render(pose)
      np.testing.assert_allclose(seen.distance[0, 0], 1.0, atol=2e-3)
      np.testing.assert_allclose(
          colors[row], 255 * np.clip(seen.rgb[0, 0], 0, 1), atol=1.5
      )


def test_roofs_streets_and_walls_are_all_there(exported):
  points, _, _, _, _, region = exported
  # One point a cell at most, none outside, every column of cells has one.
  cells = np.floor((points - region.low) / _SPACING + 1e-4).astype(int)
  assert (cells >= 0).all() and (cells < region.size).all()
  columns = {tuple(c) for c in cells[:, :2].tolist()}
  assert len(columns) == 48 * 40
  heights = points[:, 2]
  assert (heights < 0.5).sum() > 100 and (heights > 4).sum() > 100
  # Walls: columns of cells with points at many heights.
  _, counts = np.unique(cells[:, :2], axis=0, return_counts=True)
  assert counts.max() >= 6


def test_memory_is_that_of_a_tile(exported):
  _, _, _, source, _, _ = exported
  # 45 degrees: the picture of a cube is sqrt(2) high.
  assert source.largest <= 32 * (32 * np.sqrt(2) + 2)
