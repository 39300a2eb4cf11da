"""Pose refinement: rotations, and samples that follow their rays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.training import poses
from tests.training import tiny


def _matrix(vector):
  """Rotation matrix by the exponential series, in float64."""
  x, y, z = vector
  skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  term, total = np.eye(3), np.eye(3)
  for k in range(1, 30):
    term = term @ skew / k
    total = total + term
  return total


@pytest.mark.parametrize('angle', [0.0, 1e-5, 1e-3, 0.3, 3.0])
def test_rotate_is_the_exponential(angle):
  rng = np.random.default_rng(0)
  axis = rng.normal(size=3)
  vector = angle * axis / np.linalg.norm(axis)
  points = rng.normal(size=(5, 3))
  got = poses.rotate(
      jnp.asarray(points, jnp.float32), jnp.asarray(vector, jnp.float32)
  )
  np.testing.assert_allclose(got, points @ _matrix(vector).T, atol=2e-6)


def test_rotation_has_a_gradient_at_zero():
  slope = jax.jacfwd(lambda v: poses.rotate(jnp.asarray([0.0, 0, 1]), v))(
      jnp.zeros(3)
  )
  # d(v x e_z) / dv.
  np.testing.assert_allclose(slope, [[0, 1, 0], [-1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize('level, slot', [(2, 5), (0, 0)])
def test_positions_follow_as_points_of_the_ray_do(level, slot):
  side, t = 4.0, 1.5
  ray = cameras_lib.Rays(
      origins=jnp.asarray([[0.4, 0.5, 0.6]]),
      origins_lo=jnp.zeros((1, 3)),
      directions=jnp.asarray([[0.6, 0.0, 0.8]]),
      base_radius=jnp.zeros((1, 1)),
      cone_slope=jnp.zeros((1, 1)),
      camera_idx=jnp.zeros((1, 1), jnp.int32),
  )
  held = jnp.full((1, 1, 3), 0.5)

  def position(motion):
    return poses.follow(
        held,
        jnp.asarray([[slot]]),
        jnp.asarray([[level]]),
        poses.move_rays(ray, motion[None]),
        jnp.asarray([[t]]),
        root_side=side,
    )[0, 0]

  np.testing.assert_array_equal(position(jnp.zeros(6)), held[0, 0])
  slope = np.asarray(jax.jacfwd(position)(jnp.zeros(6)))
  # In float64, with the node's box: 2**level, or half for the root's cube.
  scale = 2.0**level if slot else 0.5
  direction = np.array([0.6, 0, 0.8])
  for axis in range(3):
    step = np.zeros(3)
    step[axis] = 1e-6
    moved = (_matrix(step) @ direction - direction) * t / side / 1e-6
    np.testing.assert_allclose(slope[:, axis], scale * moved, atol=1e-5)
  np.testing.assert_allclose(slope[:, 3:], scale * np.eye(3), atol=1e-6)


def test_a_step_moves_only_the_batch_s_photos():
  options = tiny.replace(tiny.STEP, refine_poses=True)
  state = tiny.state(options)
  batch = tiny.batch()._replace(photo_idx=jnp.full(32, 1, jnp.int32))
  step = tiny.train_step(None, options)
  key = jax.random.key(0, impl='rbg')
  state, metrics = step(state, batch, tiny.surroundings(), key)
  assert all(bool(x) for x in metrics.finite.values())
  moved = np.any(np.asarray(state.params['poses']) != 0, axis=-1)
  assert moved.tolist() == [False, True, False, False]
