"""Octree descent by the native CPU kernel (double precision inside)."""

import jax
import jax.numpy as jnp
import numpy as np

from kernels import dispatch
from kernels.locate import reference
from kernels.native import build

MAX_LEVEL = 30  # cells are numbered in int32


def library() -> build.Library:
  """Library of the ops that do not depend on the field's sizes."""
  return build.load("scene_ops")


def ready(max_level: int) -> None:
  """Raises when the native kernel cannot serve these arguments."""
  if max_level > MAX_LEVEL:
    raise NotImplementedError(
        f"locate: native needs max_level <= {MAX_LEVEL}, got {max_level}"
    )
  dispatch.trust(library(), "locate", _self_test)


def locate(
    origins,
    origins_lo,
    directions,
    t,
    target_level,
    children,
    slot_of_node,
    *,
    root_side: float,
    max_level: int,
):
  """See api.locate."""
  integers = jax.ShapeDtypeStruct(t.shape, jnp.int32)
  position = jax.ShapeDtypeStruct(t.shape + (3,), jnp.float32)
  call = jax.ffi.ffi_call(
      library().target("locate"),
      [integers, integers, integers, position],
      vmap_method="sequential",
  )
  args = (origins, origins_lo, directions, t, target_level)
  args = tuple(jax.lax.stop_gradient(a) for a in args)
  return tuple(
      call(
          *args,
          children,
          slot_of_node,
          root_side=np.float64(root_side),
          max_level=np.int64(max_level),
      )
  )


def example():
  """Arguments over a random tree of levels 0 to 2, some nodes not resident."""
  rng = np.random.default_rng(4)
  children = np.full((1 + 8 + 64, 8), -1, np.int32)
  children[0] = np.arange(1, 9)
  children[1:9] = np.arange(9, 73).reshape(8, 8)
  children[0, 3] = children[2, 5] = -1
  slot_of_node = rng.permutation(73).astype(np.int32)
  slot_of_node[rng.uniform(size=73) < 0.2] = -1
  slot_of_node[0] = 0
  origins = rng.uniform(-0.1, 1.1, (5, 3))
  high = origins.astype(np.float32)
  low = (origins - high).astype(np.float32)
  directions = rng.normal(size=(5, 3))
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  t = rng.uniform(0, 15, (5, 40)).astype(np.float32)
  target = rng.integers(0, 4, (5, 40)).astype(np.int32)
  arrays = (high, low, directions.astype(np.float32), t, target)
  arrays += (children, slot_of_node)
  return tuple(jnp.asarray(a) for a in arrays)


def _self_test() -> None:
  args = example()
  rule = dict(root_side=17.0, max_level=3)
  want = reference.locate(*args, **rule)
  got = locate(*args, **rule)
  unwanted = locate(*args[:4], jnp.full_like(args[4], -1), *args[5:], **rule)
  assert (np.asarray(unwanted[1]) == -1).all(), "locate: unwanted samples"
  # A sample on a face may fall to either side of it.
  same = np.asarray(got[0] == want[0])
  assert same.mean() > 0.98, "locate: nodes differ"
  for a, b in zip(got[1:], want[1:]):
    a, b = np.asarray(a)[same], np.asarray(b)[same]
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
