"""Locate: descent and box-local positions against a float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import locate
from kernels.locate import native
from tests.kernels import common


def _oracle(args, root_side, max_level):
  """NumPy, float64, one sample at a time; origins are high + low."""
  o, lo, d, t, target, children, slots = (np.asarray(a) for a in args)
  origin = o.astype(np.float64) + lo
  node_id = np.zeros(t.shape, int)
  level = np.zeros(t.shape, int)
  position = np.zeros(t.shape + (3,))
  margin = np.ones(t.shape)  # distance to the nearest face that mattered
  for r in range(t.shape[0]):
    for i in range(t.shape[1]):
      x = origin[r] + float(t[r, i]) * d[r].astype(np.float64) / root_side
      q = (x - 0.5) * 2
      m = np.abs(q).max()
      margin[r, i] = min(1, np.abs(np.abs(q) - 1).min())
      if m > 1:
        q = (2 - 1 / m) * q / m
      position[r, i] = (q + 2) / 4
      if not np.all((x >= 0) & (x < 1)):
        continue
      node, corner, local = 0, np.zeros(3), x
      for at in range(1, min(target[r, i], max_level) + 1):
        margin[r, i] = min(margin[r, i], np.abs(local - 0.5).min())
        upper = local >= 0.5
        node = children[node, upper @ [4, 2, 1]]
        if node < 0:
          break
        corner = 2 * corner + upper
        local = x * 2.0**at - corner
        if slots[node] >= 0:
          node_id[r, i], level[r, i] = node, at
          position[r, i] = local
  return node_id, slots[node_id], level, position, margin


def _check(got, want, min_clear, atol):
  clear = want[4] > min_clear
  assert clear.mean() > 0.9
  for a, b in zip(got[:3], want[:3]):
    np.testing.assert_array_equal(np.asarray(a)[clear], b[clear])
  np.testing.assert_allclose(
      np.asarray(got.position)[clear], want[3][clear], rtol=0, atol=atol
  )


@functools.cache
def _locate(implementation, root_side, max_level):
  """One program: op by op they would be compiled one by one."""
  run = functools.partial(
      locate.locate,
      root_side=root_side,
      max_level=max_level,
      implementation=implementation,
  )
  return jax.jit(run)


@functools.cache
def _want_random():
  return _oracle(native.example(), 17.0, 3)


@pytest.mark.parametrize("implementation", common.ALL)
def test_random_tree_equals_numpy(implementation):
  args = native.example()
  got = _locate(implementation, 17.0, 3)(*args)
  want = _want_random()
  assert len(np.unique(want[2])) == 3
  _check(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize("implementation", common.ALL)
def test_what_is_not_wanted_has_no_slot(implementation):
  args = native.example()
  skip = np.arange(args[4].size).reshape(args[4].shape) % 3 == 0
  some = args[:4] + (jnp.where(skip, -1, args[4]),) + args[5:]
  got = _locate(implementation, 17.0, 3)(*some)
  want = _locate(implementation, 17.0, 3)(*args)
  assert (np.asarray(got.slot)[skip] == -1).all()
  for a, b in zip(got, want):
    np.testing.assert_array_equal(np.asarray(a)[~skip], np.asarray(b)[~skip])


def _deep_tree(origin, max_level):
  """All eight children along the path to `origin` and its neighbours."""
  cells = {(0, 0, 0): 0}
  children = [[-1] * 8]
  for level in range(1, max_level + 1):
    centre = np.floor(origin * 2.0**level)
    new = {}
    for key, node in cells.items():
      for octant in range(8):
        bits = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
        cell = 2 * np.array(key) + bits
        if np.abs(cell - centre).max() <= 3:
          children[node][octant] = len(children)
          new[tuple(cell)] = len(children)
          children.append([-1] * 8)
    cells = new
  return np.array(children, np.int32)


_FAR = (1000e3, 20)  # metres, levels: cells of 0.95 m in 1,000 km


@functools.cache
def _far_from_the_corner():
  """Arguments, and what is right."""
  _, max_level = _FAR
  origin = np.array([0.7234567890123, 0.8123456789012, 0.6345678901234])
  rng = np.random.default_rng(0)
  children = _deep_tree(origin, max_level)
  high = origin.astype(np.float32)
  low = (origin - high).astype(np.float32)
  d = rng.normal(size=(20, 3))
  d = (d / np.linalg.norm(d, axis=-1, keepdims=True)).astype(np.float32)
  t = rng.uniform(0, 2.0, (20, 30)).astype(np.float32)
  args = (
      np.tile(high, (20, 1)),
      np.tile(low, (20, 1)),
      d,
      t,
      np.full((20, 30), 20, np.int32),
      children,
      np.arange(len(children), dtype=np.int32),
  )
  args = tuple(jnp.asarray(a) for a in args)
  return args, _oracle(args, *_FAR)


@pytest.mark.parametrize("implementation", common.ALL)
def test_level_20_next_to_a_camera_far_from_the_corner(implementation):
  args, want = _far_from_the_corner()
  got = _locate(implementation, *_FAR)(*args)
  assert np.all(want[2] == 20)
  _check(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize("implementation", common.ALL)
def test_missing_root_and_empty_rays(implementation):
  args = list(native.example())
  args[6] = jnp.full_like(args[6], -1)
  run = _locate(implementation, 17.0, 3)
  got = run(*args)
  assert np.all(got.slot == -1) and np.all(got.node_id == 0)
  empty = [a[:0] for a in args[:5]] + args[5:]
  assert run(*empty).position.shape == (0, 40, 3)


@pytest.mark.parametrize("implementation", common.BACKENDS)
def test_rays_may_be_differentiated_around(implementation):
  args = native.example()

  def loss(t):
    out = locate.locate(
        *args[:3],
        t,
        *args[4:],
        root_side=17.0,
        max_level=3,
        implementation=implementation,
    )
    return jnp.sum(out.position) + jnp.sum(t)

  np.testing.assert_array_equal(jax.jit(jax.grad(loss))(args[3]), 1.0)


@pytest.mark.parametrize("implementation", ["xla", *common.BACKENDS[2:]])
@pytest.mark.parametrize("own_trees", [False, True])
def test_vmap_equals_one_by_one(implementation, own_trees):
  args = list(native.example())
  for i in (0, 3, 4):
    args[i] = jnp.stack([args[i], args[i][::-1]])
  axes = [0, None, None, 0, 0, None, None]
  if own_trees:
    args[6], axes[6] = jnp.stack([args[6], args[6].at[5].set(-1)]), 0
  run = _locate(implementation, 17.0, 3)
  both = jax.jit(jax.vmap(run, in_axes=axes))(*args)
  for i in range(2):
    one = run(*(a if x is None else a[i] for a, x in zip(args, axes)))
    for a, b in zip(both, one):
      np.testing.assert_allclose(a[i], b, atol=1e-6)


def test_shapes_are_checked():
  args = list(native.example())
  args[4] = args[4][:, 1:]
  with pytest.raises(ValueError, match="target_level"):
    locate.locate(*args, root_side=1.0, max_level=3)
