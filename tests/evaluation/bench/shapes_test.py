"""Tests of the benchmark's data."""

import dataclasses

import numpy as np
import pytest

from infnerf_jax.evaluation.bench import shapes


@pytest.mark.parametrize('num_nodes, num_slots', [(9, 9), (64, 64), (64, 512)])
def test_samples_fill_the_nodes(num_nodes, num_slots):
  shape = dataclasses.replace(
      shapes.SHAPES['small'], num_nodes=num_nodes, num_slots=num_slots
  )
  data = shapes.make_data(shape)
  touched, counts = np.unique(data.slot, return_counts=True)
  assert len(touched) == num_nodes
  assert touched[0] == 0 and touched[-1] < num_slots
  assert counts[0] == pytest.approx(0.25 * data.slot.size)
  assert data.position.shape == (1024 * 48, 3)
  assert data.position.min() >= 0 and data.position.max() <= 1
  # Inside the box the root's contracted positions are its middle half.
  root = data.position[data.slot == 0]
  assert root.min() >= 0.25 - 1e-6 and root.max() <= 0.75 + 1e-6
  assert np.all(data.delta > 0)


def test_more_slots_hold_the_same_samples():
  few = dataclasses.replace(shapes.SHAPES['small'], num_nodes=64, num_slots=64)
  many = dataclasses.replace(few, num_slots=512)
  a, b = shapes.make_data(few), shapes.make_data(many)
  np.testing.assert_array_equal(a.position, b.position)
  np.testing.assert_array_equal(a.slot * 8, b.slot)


def test_children_are_the_octants_of_their_samples():
  shape = shapes.SHAPES['tiny']
  origin, direction = shapes.make_rays(shape, seed=5)
  data = shapes.make_data(shape, seed=5)
  below = data.slot > 0
  octant = data.slot[below] - 1
  bits = np.stack([octant >> 2 & 1, octant >> 1 & 1, octant & 1], axis=-1)
  point = 0.5 * (bits + data.position[below])
  # The points lie on their rays: independent of how they were routed.
  ray = data.ray_idx[below]
  offset = point - origin[ray]
  across = np.cross(offset, direction[ray])
  np.testing.assert_allclose(across, 0, atol=1e-5)
