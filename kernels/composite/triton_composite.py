"""Compositing by Triton kernels: fixed samples a ray, and ragged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import batching
from kernels.composite import reference
from kernels.composite import triton_kernels as kernels
from kernels.triton_support import calls, capability


def ready() -> None:
  """Raises TritonUnavailable unless the kernels run on this device."""
  capability.trust("composite", (), _self_test)


def _blocks(num_rays: int, ragged: bool, backward: bool) -> dict[str, int]:
  """Tile of a program: 8 samples a thread; more would cost registers."""
  rays = calls.block_size(num_rays, 16 if ragged or backward else 32)
  return dict(BLOCK_R=rays, BLOCK_T=calls.block_size(128, 32))


def _launch(kernel, arrays, num_rays, out, num_samples, backward, **constexprs):
  blocks = _blocks(num_rays, num_samples == 0, backward)
  return calls.triton_call(
      kernel,
      *arrays,
      num_rays,
      out=[jax.ShapeDtypeStruct(s, jnp.float32) for s in out],
      grid=(-(-num_rays // blocks["BLOCK_R"]),),
      num_warps=4 if blocks["BLOCK_R"] == 32 else 2,
      NUM_SAMPLES=num_samples,
      **blocks,
      **constexprs,
  )


def _num_rays(starts, density, num_samples: int) -> int:
  if num_samples:
    return density.shape[0] // num_samples
  return starts.shape[0]


@functools.cache
def _forward(num_samples: int, min_transmittance: float, keep: bool):
  """Function of flat samples [S] and starts, ends [R]; batches fold into it."""

  def run(density, delta, rgb, distance, starts, ends):
    size = density.shape
    num_rays = _num_rays(starts, density, num_samples)
    after = size if keep else (1,)
    return _launch(
        kernels.composite_forward,
        (density, delta, rgb, distance, starts, ends),
        num_rays,
        (size, after, (num_rays, 3), (num_rays,), (num_rays,)),
        num_samples,
        False,
        MIN_TRANSMITTANCE=min_transmittance,
        KEEP=keep,
    )

  return _folding(run, num_samples, 4, (True, keep, True, True, True))


@functools.cache
def _backward(num_samples: int):
  """As _forward; samples first, then starts and ends, then cotangents [R]."""

  def run(density, delta, rgb, distance, weights, after, d_weights, *rest):
    starts, ends, d_color, d_opacity, d_mean = rest
    samples = (density, delta, rgb, distance, weights, after, d_weights)
    size = density.shape
    return _launch(
        kernels.composite_backward,
        samples + (d_color, d_opacity, d_mean, starts, ends),
        _num_rays(starts, density, num_samples),
        (size, size, size + (3,), size),
        num_samples,
        True,
    )

  return _folding(run, num_samples, 7, (True,) * 4)


def _folding(run, num_samples: int, num_per_sample: int, folded):
  """`run` whose vmap folds the batch into samples and rays.

  Args:
    run: takes arrays of samples, then starts and ends, then arrays of rays.
    num_samples: of each ray; 0: starts and ends say.
    num_per_sample: how many arrays of samples come first.
    folded: which outputs are of samples or rays.

  Returns:
    Function like `run`.
  """

  @jax.custom_batching.custom_vmap
  def call(*args):
    return run(*args)

  @call.def_vmap
  def _(axis_size, batched, *args):
    args = [batching.spread(a, b, axis_size) for a, b in zip(args, batched)]
    size = args[0].shape[1]
    if not num_samples:
      shift = jnp.arange(axis_size, dtype=jnp.int32)[:, None] * size
      for i in (num_per_sample, num_per_sample + 1):
        args[i] = args[i] + shift
    out = call(*(a.reshape((-1,) + a.shape[2:]) for a in args))
    unfold = lambda x: x.reshape((axis_size, -1) + x.shape[1:])
    return tuple(unfold(x) if f else x for x, f in zip(out, folded)), folded

  return call


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composite(rule, density, delta, rgb, distance, starts, ends):
  weights, _, *pixels = _forward(*rule, False)(
      density, delta, rgb, distance, starts, ends
  )
  return weights, *pixels


def _composite_fwd(rule, *args):
  weights, after, *pixels = _forward(*rule, True)(*args)
  return (weights, *pixels), (args, weights, after)


def _composite_bwd(rule, residual, cotangents):
  args, weights, after = residual
  d_weights, *d_pixels = cotangents
  out = _backward(rule[0])(
      *args[:4], weights, after, d_weights, *args[4:], *d_pixels
  )
  return *out, None, None


_composite.defvjp(_composite_fwd, _composite_bwd)


def composite(density, delta, rgb, distance, *, min_transmittance: float):
  """See api.composite."""
  shape = density.shape
  if 0 in shape:
    return reference.composite(density, delta, rgb, distance)
  flat = [x.reshape(-1) for x in (density, delta, distance)]
  unread = jnp.zeros(1, jnp.int32)
  weights, color, opacity, mean = _composite(
      (shape[-1], min_transmittance),
      flat[0],
      flat[1],
      rgb.reshape(-1, 3),
      flat[2],
      unread,
      unread,
  )
  rays = shape[:-1]
  return (
      weights.reshape(shape),
      color.reshape(rays + (3,)),
      opacity.reshape(rays),
      mean.reshape(rays),
  )


def composite_ragged(
    density, delta, rgb, distance, ray_offsets, *, min_transmittance: float
):
  """See api.composite_ragged."""
  starts, ends = ray_offsets[:-1], ray_offsets[1:]
  place = jnp.arange(density.shape[0], dtype=jnp.int32)
  real = (place >= ray_offsets[0]) & (place < ray_offsets[-1])
  # What belongs to no ray is not written by the kernels, forth or back.
  args = [jnp.where(real, x, 0.0) for x in (density, delta, distance)]
  weights, *pixels = _composite(
      (0, min_transmittance),
      args[0],
      args[1],
      jnp.where(real[:, None], rgb, 0.0),
      args[2],
      starts,
      ends,
  )
  return jnp.where(real, weights, 0.0), *pixels


def _self_test() -> None:
  rng = np.random.default_rng(0)
  shape = (37, 45)
  draw = lambda *s: jnp.asarray(rng.uniform(size=s), jnp.float32)
  args = (5 * draw(*shape), draw(*shape), draw(*shape, 3), draw(*shape))

  def run(function):
    out, vjp = jax.vjp(
        functools.partial(function, min_transmittance=0.01), *args
    )
    return out, vjp(jax.tree.map(jnp.cos, tuple(out)))

  got = jax.jit(functools.partial(run, composite))()
  want = jax.jit(functools.partial(run, reference.composite))()
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
