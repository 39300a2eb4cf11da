"""The tests that every backend of every op inherits.

An op subclasses OpSuite; a backend is a value of `implementation`. The oracle
is the reference, which the op's own tests hold against NumPy. It is compiled
once an op, at the largest size: fewer samples are the first ones, with the
cotangents of the others zero, and none of the others' effect on what is shared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.kernels import common

AXIS = "devices"
# Those whose transformations are not JAX's own.
KERNELS = tuple(b for b in common.BACKENDS if b != "xla")


class OpSuite:
  """Subclasses say what the op is, and which tests do not apply.

  backends: implementations under test.
  vmap_backends: those that have a vmap of their own.
  sizes: numbers of samples (rays), rising; 0 and 1 among them.
  sample_axes: of each argument, the axis of its samples; None: shared.
  node_arguments: indices of arguments stacked over nodes, which a vmap over
    pools of nodes batches too.
  out_axes: of each output, the axis of its samples; None: shared.
  grad_arguments: indices of arguments with a gradient.
  """

  backends = common.BACKENDS
  vmap_backends = KERNELS
  sizes = (0, 1, 65, 300)
  sample_axes = ()
  node_arguments = ()
  out_axes = (0,)
  grad_arguments = ()
  rtol, atol = 1e-4, 2e-5

  def arguments(self, num_samples: int, seed: int) -> tuple:
    """Arrays, ids out of range among them."""
    raise NotImplementedError

  def run(self, implementation: str, *arguments) -> tuple:
    """The op: a tuple of arrays."""
    raise NotImplementedError

  def without(self, size: int, arguments):
    """Arguments whose samples from `size` on do nothing to shared outputs."""
    assert None not in self.out_axes
    return arguments

  def close(self, got, want) -> None:
    """Both are tuples of arrays: outputs, then gradients."""
    assert len(got) == len(want)
    for a, b in zip(got, want):
      a, b = np.asarray(a), np.asarray(b)
      assert a.shape == b.shape and a.dtype == b.dtype
      atol = self.atol * (1 + float(np.max(np.abs(b), initial=0.0)))
      np.testing.assert_allclose(a, b, rtol=self.rtol, atol=atol)

  # What the tests share.

  def all(self, implementation, seeds, *arguments):
    """Outputs, then gradients of sum(output * seed) in grad_arguments."""

    def loss(*arguments):
      out = self.run(implementation, *arguments)
      return sum(jnp.sum(o * s) for o, s in zip(out, seeds)), tuple(out)

    if not self.grad_arguments:
      return loss(*arguments)[1]
    grads, out = jax.grad(loss, self.grad_arguments, has_aux=True)(*arguments)
    return (*out, *grads)

  @property
  def result_axes(self):
    """Axes of the samples in what `all` returns."""
    grads = [self.sample_axes[i] for i in self.grad_arguments]
    return (*self.out_axes, *grads)

  def case(self, size, seed=0, own=None):
    """The first samples: (seeds, *arguments), and what the reference gives.

    Where `own` is given, the arguments for which it is False are seed 0's.
    """
    full = self.arguments(self.sizes[-1], seed)
    if own is not None:
      shared = self.arguments(self.sizes[-1], 0)
      full = [a if mine else b for a, b, mine in zip(full, shared, own)]
    shapes = jax.eval_shape(functools.partial(self.run, "reference"), *full)
    rng = np.random.default_rng(9)
    seeds = [rng.normal(size=s.shape).astype(np.float32) for s in shapes]
    seeds = [
        s if axis is None else np.where(_positions(s, axis) < size, s, 0)
        for s, axis in zip(seeds, self.out_axes)
    ]
    want = _reference(type(self))(seeds, *self.without(size, full))
    cut = functools.partial(_first, size)
    want = [cut(a, axis) for a, axis in zip(want, self.result_axes)]
    seeds = [jnp.asarray(cut(s, a)) for s, a in zip(seeds, self.out_axes)]
    arguments = [cut(a, axis) for a, axis in zip(full, self.sample_axes)]
    return (seeds, *arguments), want

  @pytest.fixture(params=common.BACKENDS)
  def implementation(self, request):
    if request.param not in self.backends:
      pytest.skip(f"there is no {request.param} implementation")
    return request.param

  # The tests.

  def test_sizes_and_gradients(self, implementation):
    run = jax.jit(functools.partial(self.all, implementation))
    sizes = self.sizes
    if implementation == "xla":  # compiles for seconds
      sizes = sizes[::2]
    elif common.INTERPRETING:  # test_shard_map runs the third
      sizes = sizes[:2] + sizes[3:]
    for size in sizes:
      arguments, want = self.case(size)
      self.close(run(*arguments), want)

  @pytest.mark.parametrize("with_nodes", [False, True])
  def test_vmap(self, implementation, with_nodes):
    """Over samples alone, and over pools of nodes with samples of their own."""
    if implementation not in self.vmap_backends:
      pytest.skip(f"{implementation} has no vmap of its own")
    batched = [
        axis is not None or (with_nodes and i in self.node_arguments)
        for i, axis in enumerate(self.sample_axes)
    ]
    if with_nodes and not self.node_arguments:
      pytest.skip("no argument is stacked over nodes")
    size = self.sizes[2] // 2
    cases = [self.case(size, seed, batched) for seed in (0, 1)]
    (seeds, *_), _ = cases[0]
    columns = zip(*(arguments[1:] for arguments, _ in cases))
    stacked = [jnp.stack(c) if b else c[0] for c, b in zip(columns, batched)]
    run = jax.vmap(
        functools.partial(self.all, implementation, seeds),
        [0 if b else None for b in batched],
    )
    want = [np.stack(values) for values in zip(*(w for _, w in cases))]
    self.close(jax.jit(run)(*stacked), want)

  def test_shard_map(self, implementation):
    """Samples over all devices; gradients of what is shared are summed."""
    if implementation not in KERNELS:
      pytest.skip("its transformations are JAX's own")
    count = jax.device_count()
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(auto,))
    arguments, want = self.case(-(-self.sizes[2] // count) * count)
    num_out = len(self.out_axes)

    def run(seeds, *arguments):
      out = self.all(implementation, seeds, *arguments)
      summed = (
          jax.lax.psum(g, AXIS) if axis is None else g
          for g, axis in zip(out[num_out:], self.result_axes[num_out:])
      )
      return (*out[:num_out], *summed)

    run = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(
            [_spec(axis) for axis in self.out_axes],
            *(_spec(axis) for axis in self.sample_axes),
        ),
        out_specs=tuple(_spec(axis) for axis in self.result_axes),
        check_vma=False,
    )
    self.close(jax.jit(run)(*arguments), want)


@functools.cache
def _reference(cls):
  return jax.jit(functools.partial(cls().all, "reference"))


def _first(size, array, axis):
  return (
      array if axis is None else array[(slice(None),) * axis + (slice(size),)]
  )


def _positions(array, axis):
  shape = [1] * array.ndim
  shape[axis] = -1
  return np.arange(array.shape[axis]).reshape(shape)


def _spec(axis):
  if axis is None:
    return PartitionSpec()
  return PartitionSpec(*[None] * axis, AXIS)
