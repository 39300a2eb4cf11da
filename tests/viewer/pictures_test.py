"""Pictures, and the meter of nodes and bytes."""

import types

import numpy as np
import pytest

from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.viewer import meter, pictures
from tests import tiny_model


def _image(shape=(4, 6)):
  ramp = np.linspace(1, 50, shape[0] * shape[1]).reshape(shape)
  opacity = np.ones(shape)
  opacity[0, 0] = 0.1
  return types.SimpleNamespace(
      rgb=np.full(shape + (3,), 0.5), level=np.minimum(ramp // 10, 4),
      opacity=opacity, distance=ramp, half_distance=ramp, depth=ramp,
  )  # fmt: skip


def test_modes():
  image = _image()
  paint = lambda mode, limits=None: pictures.paint(
      mode, image, max_level=4, limits=limits
  ).astype(int)
  np.testing.assert_array_equal(paint('colour'), 128)
  level = paint('level')
  np.testing.assert_array_equal(level[0, 0], 0)  # nothing there
  assert level[0, 1, 2] > level[0, 1, 0]  # the root: blue
  assert level[-1, -1, 0] > level[-1, -1, 2]  # fine: red
  limits = pictures.depth_limits(image.distance, image.opacity)
  depth = paint('depth', limits)
  assert depth[0, 1, 0] > depth[0, 1, 2]  # near: red
  assert depth[-1, -1, 2] > depth[-1, -1, 0]
  np.testing.assert_array_equal(paint('opacity')[0, 0], 26)
  with pytest.raises(ValueError, match="got 'heat'"):
    paint('heat')
  assert pictures.depth_limits(image.distance, 0 * image.opacity) is None
  assert paint('depth').shape == (4, 6, 3)


def test_enlarging():
  picture = np.zeros((2, 3, 3), np.uint8)
  picture[1, 2] = 200
  large = pictures.enlarge(picture, 30, 20)
  assert large.shape == (20, 30, 3) and large[-1, -1, 0] == 200
  same = pictures.enlarge(picture, 3, 2)
  same[:] = 7
  assert picture.max() == 200  # a copy
  depth = np.array([[1.0, np.inf], [3.0, 4.0]])
  large = pictures.enlarge_nearest(depth, 4, 6)
  np.testing.assert_array_equal(large[:3, 2:], np.inf)
  np.testing.assert_array_equal(large[3:, :2], 3)


def test_photo_beside_render():
  left, right = np.zeros((10, 8, 3), np.uint8), np.full((5, 4, 3), 9, np.uint8)
  both = pictures.side_by_side(left, right, gap=2)
  assert both.shape == (5, 10, 3)
  np.testing.assert_array_equal(both[:, 6:], 9)
  np.testing.assert_array_equal(both[:, 4:6], 255)


@pytest.mark.parametrize(
    'heights', [[1, 2, np.nan, 4, 3], [np.nan] * 5, [2] * 5]
)
def test_profiles_are_drawn(heights):
  plot = pictures.profile_plot(np.arange(5.0), heights)
  assert plot.shape == (150, 360, 3)
  red = (plot[..., 0] > 150) & (plot[..., 1] < 100)
  assert red.any() == np.isfinite(heights).any()


def test_bands_of_a_picture_touch_what_either_does():
  one = meter.Meter(np.array([1, 9, 12]), 1000, 500, 0.0, 2)
  two = meter.Meter(np.array([9, 70]), 1000, 500, 0.25, 3)
  both = meter.merge(meter.merge(None, one), two)
  assert both.keys.tolist() == [1, 9, 12, 70]
  assert both.rows_read == 5 and both.level_bias == 0.25
  text = meter.describe(both)
  assert '4 of 1,000 nodes' in text and 'log₂ n = 10.0' in text
  assert '2 kB of 500 kB' in text and '1 · 2 · 1' in text
  assert '0.25 octaves' in text and '5 nodes read' in text
  assert '0 of 1 nodes' in meter.describe(meter.Meter(np.zeros(0, int), 1, 4))


@pytest.mark.parametrize(
    'size,text', [(12, '12 B'), (1500, '1.5 kB'), (2.5e9, '2.5 GB')]
)
def test_bytes(size, text):
  assert meter.format_bytes(size) == text


def test_boxes_are_the_trees_own():
  octree = tiny_model.make_octree()
  keys = tree_lib.node_key(octree.level, octree.coord)
  level, boxes = meter.boxes(keys, octree.root_min, octree.side)
  np.testing.assert_array_equal(level, octree.level)
  np.testing.assert_allclose(boxes, tree_lib.node_aabb(octree))
  edges = meter.edges(boxes[:2])
  assert edges.shape == (24, 2, 3)
  lengths = np.linalg.norm(edges[:, 1] - edges[:, 0], axis=-1)
  np.testing.assert_allclose(lengths, [4.0] * 12 + [2.0] * 12)
  # Twelve different ones, each along one axis.
  assert len(np.unique(edges[:12].reshape(12, 6), axis=0)) == 12
