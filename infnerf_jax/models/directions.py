"""Spherical harmonics of viewing directions."""

import jax.numpy as jnp

NUM_HARMONICS = 16


def spherical_harmonics(directions):
  """Real spherical harmonics of degrees 0 to 3 (16 values, "degree 4").

  Args:
    directions: [..., 3] unit.

  Returns:
    [..., 16], orthonormal on the unit sphere.
  """
  x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
  xx, yy, zz = x * x, y * y, z * z
  return jnp.stack(
      [
          jnp.full_like(x, 0.28209479177387814),
          -0.4886025119029199 * y,
          0.4886025119029199 * z,
          -0.4886025119029199 * x,
          1.0925484305920792 * x * y,
          -1.0925484305920792 * y * z,
          0.31539156525252005 * (3 * zz - 1),
          -1.0925484305920792 * x * z,
          0.5462742152960396 * (xx - yy),
          -0.5900435899266435 * y * (3 * xx - yy),
          2.890611442640554 * x * y * z,
          -0.4570457994644658 * y * (5 * zz - 1),
          0.3731763325901154 * z * (5 * zz - 3),
          -0.4570457994644658 * x * (5 * zz - 1),
          1.445305721320277 * z * (xx - yy),
          -0.5900435899266435 * x * (xx - 3 * yy),
      ],
      axis=-1,
  )
