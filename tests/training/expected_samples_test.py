"""Expected samples of nodes against a descent in plain Python."""

import dataclasses

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.training import expected_samples
from tests.sharding import quad_scene
from tests.training import tiny


def _observations(tree, num_points, seed=0):
  """(Observations, [K, 3] points, [K] photo) of points near the ground."""
  rng = np.random.default_rng(seed)
  points = tree.center + rng.uniform([-1.9, -1.9, -0.5], [1.9, 1.9, 0], (
      num_points, 3
  ))  # fmt: skip
  photo = np.sort(rng.integers(tiny.NUM_PHOTOS, size=num_points))
  seen_by = cameras_lib.take(tiny.cameras(), photo)
  pix, _ = cameras_lib.project(seen_by, points)
  centre = np.asarray(seen_by.cam_to_world)[:, :, 3]
  distance = np.linalg.norm(points - centre, axis=-1)
  counts = np.bincount(photo, minlength=tiny.NUM_PHOTOS)
  observations = observations_lib.Observations(
      np.concatenate([[0], np.cumsum(counts)]),
      pix.astype(np.float32),
      distance.astype(np.float32),
  )
  return observations, points, photo


def _node_of(tree, point, footprint):
  """Deepest node that exists on the way to the level that is asked for."""
  rows = {
      (level, *coord): row
      for row, (level, coord) in enumerate(
          zip(tree.level, tree.coord.tolist(), strict=True)
      )
  }
  target = int(np.ceil(np.log2(tree.root_gsd / footprint)))
  found = 0
  for level in range(1, min(max(target, 0), 3) + 1):
    cell = (point - tree.root_min) / tree.side * 2**level
    row = rows.get((level, *np.floor(cell).astype(int).tolist()))
    if row is None:
      break
    found = row
  return found


def test_samples_lie_where_rays_meet_points():
  tree, pixel_size, later = quad_scene.uneven_octree(), 1.5, 1000
  around, spec = quad_scene.surroundings(tree), quad_scene.spec()
  observations, points, photo = _observations(tree, 200)
  options = dataclasses.replace(quad_scene.RENDER, num_samples=(1, later))
  found = expected_samples.expected_samples(
      observations, around, spec, options,
      pixel_sizes=(pixel_size,), ray_shares=(2.0,),
  )  # fmt: skip
  rays = cameras_lib.camera_rays(
      around.cameras,
      photo.astype(np.int32),
      observations.pix,
      np.full(200, pixel_size, np.float32),
      root_side=spec.root_side,
  )
  slope = np.asarray(rays.cone_slope)[:, 0]
  # The options' policy is two octaves finer than equation 5.
  nodes = [
      _node_of(tree, p, 0.25 * d * s)
      for p, d, s in zip(points, observations.distance, slope, strict=True)
  ]
  want = np.bincount(nodes, minlength=tree.num_nodes) / 200
  assert (want > 0).sum() > 20
  # What is left is the one sample that the first round places along each ray.
  first = found - later * want
  # Points on a border may be rounded to the other side of it.
  moved = np.abs(np.round(first / later * 200)).sum()
  assert moved <= 2
  np.testing.assert_allclose(found.sum(), later + 1)


def test_shares_mix_pyramid_levels():
  tree = quad_scene.uneven_octree()
  around, spec = quad_scene.surroundings(tree), quad_scene.spec()
  observations, _, _ = _observations(tree, 100)
  run = lambda sizes, shares: expected_samples.expected_samples(
      observations,
      around,
      spec,
      quad_scene.RENDER,
      pixel_sizes=sizes,
      ray_shares=shares,
  )
  fine, coarse = run((1.0,), (1,)), run((8.0,), (1,))
  levels = np.asarray(tree.level)
  assert fine @ levels > coarse @ levels
  mixed = run((1.0, 8.0), (3, 1))
  np.testing.assert_allclose(mixed, 0.75 * fine + 0.25 * coarse, atol=1e-12)


def test_without_sightings_nothing_is_expected():
  tree = quad_scene.uneven_octree()
  none = observations_lib.Observations(
      np.zeros(tiny.NUM_PHOTOS + 1, np.int64),
      np.zeros((0, 2), np.float32),
      np.zeros(0, np.float32),
  )
  found = expected_samples.expected_samples(
      none,
      quad_scene.surroundings(tree),
      quad_scene.spec(),
      quad_scene.RENDER,
      pixel_sizes=(1.0,),
      ray_shares=(1.0,),
  )
  np.testing.assert_array_equal(found, np.zeros(tree.num_nodes))
