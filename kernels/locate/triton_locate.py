"""Octree descent by a Triton kernel (import needs triton).

The target level is an input, not a policy in the kernel: a policy is any
function of the user's, with jitter in training, and XLA fuses it into one
elementwise pass that writes four bytes a sample.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import batching
from kernels.locate import native, reference
from kernels.locate import triton_kernels as body
from kernels.triton_support import calls, capability

MAX_LEVEL = 30  # cells are numbered in int32
_BLOCK = 128


def ready(max_level: int) -> None:
  """Raises when the kernel cannot serve these arguments."""
  if max_level > MAX_LEVEL:
    raise NotImplementedError(
        f"locate: triton needs max_level <= {MAX_LEVEL}, got {max_level}"
    )
  capability.trust("locate", (), _self_test)


@functools.cache
def _run(root_side: float, max_level: int):
  """Function of the api's arrays; batches of rays fold into rays."""

  @jax.custom_batching.custom_vmap
  def run(*args):
    t = args[3]
    block = calls.block_size(t.size, _BLOCK)
    integers = jax.ShapeDtypeStruct(t.shape, jnp.int32)
    position = jax.ShapeDtypeStruct(t.shape + (3,), jnp.float32)
    return calls.triton_call(
        body.locate,
        *args,
        t.size,
        t.shape[1],
        out=[integers, integers, integers, position],
        grid=(-(-t.size // block),),
        MAX_LEVEL=max_level,
        ROOT_SIDE=root_side,
        BLOCK=block,
    )

  @run.def_vmap
  def _(size, batched, *args):
    if any(batched[5:]):  # trees of their own: one after another
      args = [batching.spread(a, b, size) for a, b in zip(args, batched)]
      return jax.lax.map(lambda one: run(*one), args), (True,) * 4
    rays = zip(args[:5], batched)
    out = run(*(batching.merge(a, b, size) for a, b in rays), *args[5:])
    unfold = lambda x: x.reshape((size, -1) + x.shape[1:])
    return tuple(unfold(x) for x in out), (True,) * 4

  return run


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
  args = (origins, origins_lo, directions, t, target_level)
  args = tuple(jax.lax.stop_gradient(a) for a in args)
  return _run(root_side, max_level)(*args, children, slot_of_node)


def _self_test() -> None:
  args = native.example()
  rule = dict(root_side=17.0, max_level=3)
  want = reference.locate(*args, **rule)
  got = locate(*args, **rule)
  # A sample on a face may fall to either side of it.
  same = np.asarray(got[0] == want[0])
  assert same.mean() > 0.98, "locate: nodes differ"
  for a, b in zip(got[1:], want[1:]):
    a, b = np.asarray(a)[same], np.asarray(b)[same]
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
