"""Camera pose refinement: small motions of photos, learned with the scene.

Off by default. A photo's motion is a rotation vector and a shift; samples are
placed without gradient, and their positions follow the motion to first order.
"""

import jax
import jax.numpy as jnp

from infnerf_jax.geometry import cameras as cameras_lib

# Adam moves a parameter by about its rate a step, whatever its unit: these
# make a step of the appearance's rate a hundredth of a typical pose error.
_ROTATION_UNIT = 0.02  # radians
_SHIFT_UNIT = 0.005  # root units


def camera_motion(poses, camera_idx):
  """[R, 6] motions of rays from the learned table.

  Args:
    poses: [P, 6] learned, dimensionless.
    camera_idx: [R] int32.
  """
  unit = jnp.array([_ROTATION_UNIT] * 3 + [_SHIFT_UNIT] * 3)
  return poses[camera_idx] * unit


def rotate(vectors, rotation_vectors):
  """Rodrigues' rotation.

  Args:
    vectors: [..., 3].
    rotation_vectors: [..., 3] axis times angle in radians.

  Returns:
    [..., 3].
  """
  angle2 = jnp.sum(rotation_vectors**2, axis=-1, keepdims=True)
  # Series below a milliradian: the closed form divides by the angle.
  small = angle2 < 1e-6
  angle = jnp.sqrt(jnp.where(small, 1.0, angle2))
  sine = jnp.where(small, 1 - angle2 / 6, jnp.sin(angle) / angle)
  cosine = jnp.where(small, 0.5 - angle2 / 24, (1 - jnp.cos(angle)) / angle**2)
  once = jnp.cross(rotation_vectors, vectors)
  return vectors + sine * once + cosine * jnp.cross(rotation_vectors, once)


def move_rays(rays: cameras_lib.Rays, motion) -> cameras_lib.Rays:
  """Rays of moved cameras.

  Args:
    rays: [R].
    motion: [R, 6] rotation vector (radians) about the camera's centre, then
      shift in root units.

  Returns:
    Rays; origins move in their low part, where no bit is lost.
  """
  return rays._replace(
      directions=rotate(rays.directions, motion[..., :3]),
      origins_lo=rays.origins_lo + motion[..., 3:],
  )


def follow(position, slot, level, rays: cameras_lib.Rays, t, *, root_side):
  """Positions of samples that follow their rays' motion, to first order.

  The value is `position`; the derivative is that of a point at distance t on
  the ray, in the units of the sample's node. Samples outside the root, where
  space is contracted, are held.

  Args:
    position: [R, S, 3] in each node's own box.
    slot: [R, S] int32, 0 is the root.
    level: [R, S] int32.
    rays: [R], carrying gradients.
    t: [R, S] metres.
    root_side: metres.

  Returns:
    [R, S, 3].
  """
  point = rays.origins_lo[:, None] + t[..., None] * rays.directions[:, None] / (
      root_side
  )
  scale = 2.0 ** level.astype(jnp.float32)
  # The root's box is the inner half of its contracted cube.
  inner = jnp.all(jnp.abs(position - 0.5) <= 0.25, axis=-1)
  scale = jnp.where(slot == 0, jnp.where(inner, 0.5, 0.0), scale)
  change = point - jax.lax.stop_gradient(point)
  return jax.lax.stop_gradient(position) + scale[..., None] * change
