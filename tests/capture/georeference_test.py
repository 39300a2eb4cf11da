"""Models laid on GPS: known similarities, outliers, drift, single lines."""

import numpy as np
import pytest

from infnerf_jax.capture import georeference, metadata, similarity


def _rotation(seed):
  q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
  q = q * np.sign(np.diag(r))
  return q * np.sign(np.linalg.det(q))


def _flight(rows=6, columns=8, step=15.0, tilt=0.05, seed=0):
  """Poses [N, 3, 4] of a nadir flight in metres, east, north, up."""
  rng = np.random.default_rng(seed)
  poses = []
  for i in range(rows):
    for j in range(columns):
      sign = 1 if i % 2 else -1
      wobble = rng.normal(size=3) * tilt
      wobble[2] = 0
      down = np.array([0, 0, -1.0]) + wobble
      z = down / np.linalg.norm(down)
      y = np.array([0, -1.0 * sign, 0])
      y -= z * (z @ y)
      y /= np.linalg.norm(y)
      pose = np.stack([np.cross(y, z), y, z], axis=-1)
      centre = [j * step, i * step, 50 + rng.normal()]
      poses.append(np.concatenate([pose, np.array(centre)[:, None]], -1))
  return np.array(poses)


def _to_model(poses, scale=0.1, seed=5):
  """The same poses in a frame that structure from motion might choose."""
  turn = _rotation(seed)
  model = poses.copy()
  model[:, :, :3] = turn @ poses[:, :, :3]
  model[:, :, 3] = scale * poses[:, :, 3] @ turn.T + [3.0, -2.0, 1.0]
  return model


def _places(positions, has_height=True):
  base = np.array([620000.0, 3338000.0, 300.0])
  return georeference.MapPositions(32614, positions + base, has_height, [])


def _check(found, model, poses, tolerance):
  base = np.array([620000.0, 3338000.0, 300.0])
  placed = similarity.apply(found.transform, model[:, :, 3]) + found.offset
  error = placed - poses[:, :, 3] - base
  assert np.abs(error).max() < tolerance
  return error


@pytest.mark.parametrize(
    'latitude, longitude, epsg',
    [
        (30.17, -98.09, 32614),
        (46.8, -91.99, 32615),
        (-33.9, 151.2, 32756),
        (0.0, 179.99, 32660),
        (5.0, 180.0, 32601),
        (85.0, 10.0, 32661),
        (-85.0, 10.0, 32761),
    ],
)
def test_zone(latitude, longitude, epsg):
  assert georeference.utm_epsg(latitude, longitude) == epsg


def test_map_coordinates():
  # (30 N, 99 W) lies on the central meridian of zone 14: 500 km east.
  places = [metadata.Gps(30.0, -99.0, 10.0, 'EXIF')] * 3
  places += [None, metadata.Gps(30.001, -99.0, 12.0, 'EXIF')]
  places += [metadata.Gps(-3.0, 20.0, 12.0, 'EXIF')]
  found = georeference.to_map(places)
  assert found.epsg == 32614
  assert found.strays == [5]
  assert np.isnan(found.positions[[3, 5]]).all()
  np.testing.assert_allclose(found.positions[0, [0, 2]], [5e5, 10.0], atol=1e-6)
  # A degree of meridian at 30 N is 110.852 km, 0.9996 of it on the map.
  north = found.positions[4, 1] - found.positions[0, 1]
  assert north == pytest.approx(110.852 * 0.9996, abs=0.01)


def test_exact_positions_give_exact_similarity():
  poses = _flight()
  model = _to_model(poses)
  found = georeference.align(model, _places(poses[:, :, 3]))
  # 1e6 m in float64 keeps better than a micrometre; the offset is whole.
  _check(found, model, poses, 1e-6)
  assert found.tilt_from == 'gps'
  assert found.transform.scale == pytest.approx(10.0, rel=1e-9)
  assert (found.offset == np.round(found.offset)).all()


def test_outliers_do_not_pull():
  poses = _flight()
  model = _to_model(poses)
  rng = np.random.default_rng(1)
  gps = poses[:, :, 3] + rng.normal(size=(48, 3)) * 0.2
  gps[::5] += rng.normal(size=(10, 3)) * 80
  found = georeference.align(model, _places(gps))
  _check(found, model, poses, 0.5)
  wrong = np.zeros(48, bool)
  wrong[::5] = np.linalg.norm((gps - poses[:, :, 3])[::5, :2], axis=-1) > 5
  assert not found.inliers[wrong].any()
  assert found.inliers[~wrong].mean() > 0.9


def test_drifting_heights_do_not_tilt_the_ground():
  poses = _flight(tilt=0.02)
  model = _to_model(poses)
  gps = poses[:, :, 3].copy()
  gps[:, 2] += np.linspace(0, 20, 48)
  found = georeference.align(model, _places(gps))
  assert found.tilt_from == 'views'
  up = found.transform.rotation @ _rotation(5) @ [0, 0, 1.0]
  # 48 views of 1.1 degrees each.
  assert np.rad2deg(np.arccos(up[2])) < 1.0
  error = _check(found, model, poses, 100)
  assert np.abs(error[:, :2]).max() < 2.0


def test_heights_that_drift_as_far_as_the_flight_goes():
  # Laid on such heights the ground is steep and photos from above are oblique.
  poses = _flight(tilt=0.02)
  model = _to_model(poses)
  rng = np.random.default_rng(3)
  gps = poses[:, :, 3] + rng.normal(size=(48, 3)) * [6, 6, 10]
  gps[:, 2] += poses[:, 0, 3]
  found = georeference.align(model, _places(gps))
  assert found.tilt_from == 'views'
  up = found.transform.rotation @ _rotation(5) @ [0, 0, 1.0]
  assert np.rad2deg(np.arccos(up[2])) < 1.0


@pytest.mark.parametrize('noise', [0.1, 3.0])
def test_oblique_photos_do_not_say_where_up_is(noise):
  poses = _flight(tilt=0.02)
  c = np.sqrt(0.5)
  forward = np.array([[1, 0, 0], [0, c, -c], [0, c, c]])  # 45 degrees up
  poses[:, :, :3] = forward @ poses[:, :, :3]
  model = _to_model(poses)
  rng = np.random.default_rng(4)
  gps = poses[:, :, 3] + rng.normal(size=(48, 3)) * noise
  found = georeference.align(model, _places(gps))
  assert found.tilt_from == 'gps'
  up = found.transform.rotation @ _rotation(5) @ [0, 0, 1.0]
  assert np.rad2deg(np.arccos(up[2])) < 3.0


def test_single_line_takes_up_from_the_views():
  poses = _flight(rows=1, columns=12, tilt=0.0)
  model = _to_model(poses)
  gps = poses[:, :, 3] + np.random.default_rng(2).normal(size=(12, 3)) * 0.1
  found = georeference.align(model, _places(gps))
  assert found.tilt_from == 'views'
  _check(found, model, poses, 2.0)


def test_no_heights():
  poses = _flight(tilt=0.0)
  model = _to_model(poses)
  flat = poses[:, :, 3] * [1, 1, 0]
  found = georeference.align(model, _places(flat, has_height=False))
  assert found.tilt_from == 'views'
  assert np.abs(found.residuals[:, :2]).max() < 1e-6


def test_one_place_is_no_frame():
  poses = _flight(rows=1, columns=5, step=0.01)
  model = _to_model(poses)
  assert georeference.align(model, _places(poses[:, :, 3])) is None


def test_without_gps_up_is_up():
  poses = _flight(tilt=0.02)
  model = _to_model(poses)
  up = georeference.level_model(model) @ _rotation(5) @ [0, 0, 1.0]
  assert np.rad2deg(np.arccos(min(up[2], 1.0))) < 5.0


@pytest.mark.parametrize('target', [[0, 0, 1.0], [0, 0, -1.0], [0.6, 0, 0.8]])
def test_rotation_between(target):
  turn = similarity.rotation_between([0, 0, 1.0], target)
  np.testing.assert_allclose(turn @ [0, 0, 1.0], target, atol=1e-12)
  np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
  assert np.linalg.det(turn) == pytest.approx(1.0)
