"""Equation 5 against the descent that it stands for."""

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax.octree import levels


def _descend(footprint, root_gsd, max_level):
  """A sample descends while its footprint is below the node's gsd."""
  level, gsd = 0, root_gsd
  while footprint < gsd and level < max_level:
    level, gsd = level + 1, gsd / 2
  return level


def test_levels_equal_the_descent():
  rng = np.random.default_rng(0)
  footprint = (0.7 * 2.0 ** rng.uniform(-12, 4, 2000)).astype(np.float32)
  found = levels.determine_lod_level(
      jnp.asarray(footprint), root_gsd=0.7, max_level=8
  )
  assert found.dtype == jnp.int32
  expected = [_descend(float(f), 0.7, 8) for f in footprint]
  np.testing.assert_array_equal(found, expected)
  assert set(expected) == set(range(9))


def test_equals_the_paper_s_floor_with_its_gsd():
  """floor(log2(GSD_root / radius)) where GSD = side / grid = 2 root_gsd."""
  footprint = 2.0 ** np.random.default_rng(1).uniform(-7.9, 0.9, 1000)
  paper = np.clip(np.floor(np.log2(2 * 1.0 / footprint)), 0, 8)
  found = levels.determine_lod_level(
      jnp.asarray(footprint, jnp.float32), root_gsd=1.0, max_level=8
  )
  np.testing.assert_array_equal(found, paper)


@pytest.mark.parametrize('exponent', range(0, 9))
def test_a_node_serves_exactly_its_own_gsd(exponent):
  """At footprint = node_gsd(level) the node of that level is fine enough."""
  gsd = 2.0**-exponent
  at = lambda f: int(
      levels.determine_lod_level(jnp.float32(f), root_gsd=1.0, max_level=20)
  )
  assert at(gsd) == exponent
  assert at(gsd * 0.999) == exponent + 1


def test_extremes_stay_within_the_tree():
  footprint = jnp.asarray([0.0, 1e-38, 1e30, jnp.inf], jnp.float32)
  found = levels.determine_lod_level(footprint, root_gsd=1.0, max_level=5)
  np.testing.assert_array_equal(found, [5, 5, 0, 0])


def test_bias_shifts_by_whole_octaves():
  footprint = 2.0 ** np.random.default_rng(2).uniform(-5, -2, 100)
  plain = levels.determine_lod_level(
      jnp.asarray(footprint, jnp.float32), root_gsd=1.0, max_level=20
  )
  coarser = levels.BiasedPolicy(1.0)(
      jnp.asarray(footprint, jnp.float32), root_gsd=1.0, max_level=20
  )
  np.testing.assert_array_equal(coarser, plain - 1)
  assert hash(levels.BiasedPolicy(1.0)) == hash(levels.BiasedPolicy(1.0))
