"""The build against a point-by-point oracle, and its refusals."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import build, footprints, tree
from infnerf_jax.scene import scene as scene_lib


def _slow_cells(points, footprint, center, side, grid, max_level, min_points):
  """Descends point by point, then drops children without enough points."""
  count = {}
  for point, radius in zip(points, footprint):
    low, size = np.asarray(center) - side / 2, side
    cell, gsd = (0, 0, 0), side / (2 * grid)
    if np.any(point < low) or np.any(point >= low + size):
      continue
    for level in range(1, max_level + 1):
      if not radius < gsd:
        break
      size, gsd = size / 2, gsd / 2
      upper = point >= low + size
      low = low + size * upper
      cell = tuple(2 * c + int(u) for c, u in zip(cell, upper))
      count[level, cell] = count.get((level, cell), 0) + 1
  kept = {(0, (0, 0, 0))}
  for level, cell in sorted(count):
    parent = (level - 1, tuple(c // 2 for c in cell))
    if parent in kept and count[level, cell] > min_points:
      kept.add((level, cell))
  return kept


@pytest.mark.parametrize('min_points', [0, 2])
@pytest.mark.parametrize('max_level', [0, 2, 5])
def test_cells_equal_the_point_by_point_build(min_points, max_level):
  rng = np.random.default_rng(7)
  points = rng.normal(size=(400, 3)) * [3, 3, 0.4] + [10, -5, 2]
  footprint = 0.5 * 2.0 ** rng.uniform(-6, 1, 400)
  arguments = dict(center=[10, -5, 2], side=14.0, grid_size=16)
  cells = build.existing_cells(
      points,
      footprint,
      max_level=max_level,
      min_points=min_points,
      **arguments,
  )
  found = {
      (level, tuple(int(c) for c in cell))
      for level, rows in enumerate(cells)
      for cell in rows
  }
  expected = _slow_cells(
      points, footprint, [10, -5, 2], 14.0, 16, max_level, min_points
  )
  assert found == expected
  assert max_level == 0 or len(found) > 5


def _survey(num_points=600, seed=0, heights=(30.0, 90.0)):
  """A flat scene under a grid of nadir cameras at two heights."""
  rng = np.random.default_rng(seed)
  positions = rng.uniform([-40, -40, 0], [40, 40, 2], (num_points, 3))
  cameras = [
      cameras_lib.make_camera(
          focal=400.0,
          width=640,
          height=640,
          cam_to_world=cameras_lib.look_at([x, y, z], [x, y, 0]),
      )
      for z in heights
      for x in (-30, -10, 10, 30)
      for y in (-30, -10, 10, 30)
  ]
  names = tuple(f'{i:02}.png' for i in range(len(cameras)))
  return scene_lib.Scene(
      photos=scene_lib.Photos(names, names, (None,) * len(names)),
      cameras=cameras_lib.stack(cameras),
      points=scene_lib.Points(positions, np.zeros((num_points, 3), np.uint8)),
      visibility=None,
      frame={},
      report={},
  )


def test_built_tree_follows_from_its_points():
  scene = _survey()
  built = build.build_octree(scene, build.BuildOptions(grid_size=64))
  octree = built.octree
  seen = footprints.point_footprints(scene)
  kept = seen.num_cameras >= 3
  expected = _slow_cells(
      scene.points.positions[kept],
      seen.footprint[kept],
      octree.center,
      octree.side,
      64,
      8,
      0,
  )
  found = {
      (int(level), tuple(int(x) for x in cell))
      for level, cell in zip(octree.level, octree.coord)
  }
  assert found == expected
  assert built.report['nodes_by_level'] == np.bincount(octree.level).tolist()
  assert built.report['visibility'] == 'frustum'
  # No level is deeper than the smallest footprint asks for.
  assert octree.node_gsd(octree.num_levels - 2) > seen.footprint[kept].min()


def test_points_in_fewer_than_three_cameras_do_not_count():
  scene = _survey(heights=(30.0,))
  stray = np.array([[0.0, 0.0, 29.0]])  # just below one camera at most
  positions = np.concatenate([scene.points.positions, stray])
  scene = scene._replace(
      points=scene_lib.Points(positions, np.zeros((601, 3), np.uint8))
  )
  seen = footprints.point_footprints(scene)
  assert seen.num_cameras[-1] < 3
  built = build.build_octree(scene)
  assert built.report['points_kept'] == np.sum(seen.num_cameras >= 3) < 601


def test_strays_do_not_inflate_the_root():
  scene = _survey()
  positions = scene.points.positions.copy()
  positions[0] = [0, 0, -4e4]  # below every nadir camera: all see it
  far = scene._replace(points=scene.points._replace(positions=positions))
  plain, strayed = build.build_octree(scene), build.build_octree(far)
  assert strayed.octree.side == pytest.approx(plain.octree.side, rel=0.05)


def test_options_bound_the_tree():
  scene = _survey()
  of = lambda **kw: build.build_octree(scene, build.BuildOptions(**kw)).octree
  plain = of(grid_size=32)
  assert plain.num_levels >= 4
  assert of(grid_size=32, max_depth=1).num_levels == 2
  assert of(grid_size=32, max_depth=0).num_nodes == 1
  floor = plain.root_gsd / 4
  limited = of(grid_size=32, min_gsd=floor)
  assert limited.num_levels == 3
  assert limited.node_gsd(limited.num_levels - 1) >= floor * (1 - 1e-9)
  assert of(scene_bound=50.0).side == 100.0
  assert of(root_octaves=2).side == pytest.approx(4 * of().side)
  by_gsd = of(max_gsd=0.5)
  assert by_gsd.grid_size == round(by_gsd.side / 1.0)
  full = of(grid_size=32, max_depth=2, use_pruning=False)
  assert np.bincount(full.level).tolist() == [1, 8, 64]
  assert np.all(full.children[:9] >= 0)
  auto = of(target_depth=3)
  assert 3 <= auto.num_levels <= 5


@pytest.mark.parametrize(
    'options, match',
    [
        (dict(max_gsd=1e-3), r'octree.max_gsd: got 0.001 m, which needs'),
        (dict(max_gsd=0.1, grid_size=64), 'at most grid_size = 64'),
        (dict(use_pruning=False, max_depth=6, max_nodes=1000), '299593 nodes'),
        (dict(grid_size=32, max_nodes=20), 'octree.max_nodes = 20'),
    ],
)
def test_refusals(options, match):
  with pytest.raises(errors.InputError, match=match):
    build.build_octree(_survey(), build.BuildOptions(**options))


def test_points_that_no_camera_sees_are_refused():
  scene = _survey()
  above = scene.points.positions + [0, 0, 500]
  scene = scene._replace(points=scene.points._replace(positions=above))
  with pytest.raises(errors.InputError, match='no camera sees any'):
    build.build_octree(scene)


def test_scene_without_points_gets_a_root_where_the_cameras_look():
  ring = [
      cameras_lib.make_camera(
          focal=300.0,
          width=200,
          height=200,
          cam_to_world=cameras_lib.look_at(
              [7 + 5 * np.cos(a), -3 + 5 * np.sin(a), 2], [7, -3, 1]
          ),
      )
      for a in np.linspace(0, 2 * np.pi, 9)[:-1]
  ]
  scene = _survey()._replace(cameras=cameras_lib.stack(ring), points=None)
  built = build.build_octree(scene)
  assert built.octree.num_nodes == 1
  np.testing.assert_allclose(built.octree.center, [7, -3, 1], atol=0.01)
  assert built.octree.side == pytest.approx(2 * np.hypot(5, 1), rel=0.01)
  assert 'no sparse points' in built.report['octree']


def test_sample_box_holds_the_points_with_air_around():
  scene = _survey()
  box = build.build_octree(scene).sample_aabb
  low, high = scene.points.positions.min(0), scene.points.positions.max(0)
  size = high - low
  assert np.all(box[0] < low + 1e-3 * size) and np.all(
      box[1] > high - 1e-3 * size
  )
  # A quarter in the horizontal, hardly anything in height.
  assert (box[1] - box[0])[0] == pytest.approx(1.5 * size[0], rel=0.05)
  assert (box[1] - box[0])[2] < size[2] + 0.1 * size.max()


def test_node_count_is_bounded_by_names():
  octree = build.build_octree(_survey()).octree
  keys = tree.node_key(octree.level, octree.coord)
  assert len(np.unique(keys)) == octree.num_nodes
