"""The shared suite for every op."""

import jax.numpy as jnp
import numpy as np

from kernels import composite, hash_lookup, locate, node_field
from kernels.locate import native as locate_native
from tests.kernels import common, suite

NUM_SLOTS = 3
_EXTREMES = np.array([-(2**31), 2**31 - 1, NUM_SLOTS, -1], np.int32)


def _samples(spec, num_samples, seed):
  table, position, slot = common.samples(spec, num_samples, NUM_SLOTS, seed)
  slot[::7] = np.resize(_EXTREMES, slot[::7].shape)
  return jnp.asarray(table), jnp.asarray(position), jnp.asarray(slot)


class TestHashLookup(suite.OpSuite):
  sample_axes = (None, 0, 0)
  node_arguments = (0,)
  out_axes = (1,)
  grad_arguments = (1,)
  rtol, atol = 1e-4, 1e-4

  def arguments(self, num_samples, seed):
    return _samples(common.TINY, num_samples, seed)

  def run(self, implementation, table, position, slot):
    out = hash_lookup.hash_lookup(
        table, position, slot, spec=common.TINY, implementation=implementation
    )
    return (out,)


class TestComposite(suite.OpSuite):
  backends = tuple(b for b in common.BACKENDS if b != "native")
  sizes = (0, 1, 6, 40)
  sample_axes = (0, 0, 0, 0)
  out_axes = (0, 0, 0, 0)
  grad_arguments = (0, 1, 2, 3)

  def arguments(self, num_samples, seed):
    rng = np.random.default_rng(seed)
    shape = (num_samples, 33)
    parts = (
        rng.exponential(size=shape),
        rng.uniform(0.1, 1, shape),
        rng.uniform(size=shape + (3,)),
        np.cumsum(rng.uniform(size=shape), axis=-1),
    )
    return tuple(jnp.asarray(p, jnp.float32) for p in parts)

  def run(self, implementation, *arguments):
    out = composite.composite(*arguments, implementation=implementation)
    return tuple(out[:4])


class TestLocate(suite.OpSuite):
  sizes = (0, 1, 6, 40)
  sample_axes = (0, 0, 0, 0, 0, None, None)
  out_axes = (0, 0, 0, 0)
  vmap_backends = tuple(b for b in suite.KERNELS if b != "native")
  rtol, atol = 0, 1e-4

  def arguments(self, num_samples, seed):
    arrays = locate_native.example()
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, arrays[0].shape[0], num_samples)
    return tuple(a[pick] for a in arrays[:5]) + arrays[5:]

  def run(self, implementation, *arguments):
    rule = dict(root_side=17.0, max_level=3)
    return tuple(
        locate.locate(*arguments, **rule, implementation=implementation)
    )

  def close(self, got, want):
    """A sample on a face may fall to either side of it."""
    assert got[0].shape == want[0].shape
    same = np.asarray(got[0]) == np.asarray(want[0])
    assert same.size == 0 or same.mean() > 0.98
    pick = lambda arrays: [np.asarray(a)[same] for a in arrays]
    super().close(pick(got), pick(want))


class TestNodeField(suite.OpSuite):
  """Gradients of weights, positions, ray inputs and features."""

  sizes = (0, 1, 65, 150)
  sample_axes = (None,) * 6 + (0, 0, 0, None, 1)
  node_arguments = (0, 1, 2, 3, 4, 5)
  out_axes = (0, 0)
  grad_arguments = (1, 2, 3, 4, 5, 6, 9, 10)
  rtol, atol = 1e-3, 1e-4

  def arguments(self, num_samples, seed):
    spec = common.FIELD
    rng = np.random.default_rng(seed)
    table, position, slot = _samples(spec.grid, num_samples, seed)
    shapes = spec.weight_shapes(NUM_SLOTS)
    weights = [
        rng.normal(size=shapes[group][name]) / 3
        for group, names in (("density", "w0 w1"), ("color", "w0 w1 w2"))
        for name in names.split()
    ]
    rays = rng.normal(size=(9, spec.ray_input_dim))
    ray_idx = jnp.asarray(rng.integers(0, 9, num_samples), jnp.int32)
    probe = jnp.zeros(
        (spec.grid.num_grid_scales, num_samples, spec.grid.num_features)
    )
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    rays = jnp.asarray(rays, jnp.float32)
    return (table, *weights, position, slot, ray_idx, rays, probe)

  def run(self, implementation, table, d0, d1, c0, c1, c2, *rest):
    *rest, probe = rest
    params = {
        "table": table,
        "density": {"w0": d0, "w1": d1},
        "color": {"w0": c0, "w1": c1, "w2": c2},
    }
    return node_field.node_field(
        params,
        *rest,
        spec=common.FIELD,
        probe=probe,
        implementation=implementation,
    )
