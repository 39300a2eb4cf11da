"""Spherical harmonics are orthonormal and complete to degree 3."""

import numpy as np

from infnerf_jax.models import directions


def test_orthonormal_on_the_sphere():
  # Gauss-Legendre in z, equal steps in the azimuth: exact for degree 6.
  z, weight = np.polynomial.legendre.leggauss(8)
  azimuth = np.arange(16) * 2 * np.pi / 16
  z, azimuth = np.meshgrid(z, azimuth, indexing='ij')
  radius = np.sqrt(1 - z**2)
  points = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], -1)
  values = np.asarray(
      directions.spherical_harmonics(points.reshape(-1, 3).astype(np.float32))
  )
  weights = np.repeat(weight, 16) * 2 * np.pi / 16
  gram = np.einsum('ni,nj,n->ij', values, values, weights)
  np.testing.assert_allclose(gram, np.eye(16), atol=1e-5)


def test_first_is_constant():
  values = directions.spherical_harmonics(np.eye(3, dtype=np.float32))
  np.testing.assert_allclose(values[:, 0], 1 / np.sqrt(4 * np.pi), rtol=1e-6)
