"""Fold the samples of each ray into a pixel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.composite import reference, xla

_STATIC = ("min_transmittance",)
_RUN = {
    (module, op): jax.jit(getattr(run, op), static_argnames=_STATIC)
    for module, run in (("reference", reference), ("xla", xla))
    for op in ("composite", "composite_ragged")
}


class Composited(NamedTuple):
  """weights [..., T]; rgb [..., 3]; opacity [...]; distance [...].

  rgb and distance are sums over the samples, not divided by opacity: what is
  behind the last sample adds (1 - opacity) times its own.
  """

  weights: jax.Array
  rgb: jax.Array
  opacity: jax.Array
  distance: jax.Array


@jax.named_scope("composite")
def composite(
    density: jax.Array,
    delta: jax.Array,
    rgb: jax.Array,
    distance: jax.Array,
    *,
    min_transmittance: float = 0.0,
    implementation: str | None = None,
) -> Composited:
  """Emission-absorption: weight = alpha * transmittance before the sample.

  Args:
    density: [..., T] float32, per metre.
    delta: [..., T] float32, metres, length of each interval.
    rgb: [..., T, 3] float32.
    distance: [..., T] float32, metres.
    min_transmittance: samples that no more than this share of light reaches
      have weight 0; Triton does not read them (early stop). 0: none.
    implementation: None, "reference", "xla" or "triton"; there is no native
      one.

  Returns:
    Composited.

  Raises:
    ValueError: shapes disagree.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  if not density.shape == delta.shape == distance.shape == rgb.shape[:-1]:
    raise ValueError(
        f"composite: got density {density.shape}, delta {delta.shape}, rgb"
        f" {rgb.shape}, distance {distance.shape}, expected [..., T],"
        " [..., T], [..., T, 3], [..., T]"
    )
  args = (density, delta, rgb, distance)
  return _run("composite", args, min_transmittance, implementation)


@jax.named_scope("composite_ragged")
def composite_ragged(
    density: jax.Array,
    delta: jax.Array,
    rgb: jax.Array,
    distance: jax.Array,
    ray_offsets: jax.Array,
    *,
    min_transmittance: float = 0.0,
    implementation: str | None = None,
) -> Composited:
  """As `composite`, of rays with different numbers of samples.

  Args:
    density: [S] float32, per metre, ray behind ray.
    delta: [S] float32, metres.
    rgb: [S, 3] float32.
    distance: [S] float32, metres.
    ray_offsets: [R + 1] int32, not decreasing, within [0, S]: ray r's samples
      lie at [ray_offsets[r], ray_offsets[r + 1]); others weigh nothing.
    min_transmittance: see `composite`.
    implementation: see `composite`.

  Returns:
    Composited: weights [S]; rgb [R, 3]; opacity [R]; distance [R].

  Raises:
    See `composite`.
  """
  shape = (density.shape[0],)
  if (
      not density.shape == delta.shape == distance.shape == shape
      or rgb.shape != shape + (3,)
      or ray_offsets.ndim != 1
      or ray_offsets.shape[0] < 1
  ):
    raise ValueError(
        f"composite_ragged: got density {density.shape}, delta {delta.shape},"
        f" rgb {rgb.shape}, distance {distance.shape}, ray_offsets"
        f" {ray_offsets.shape}, expected [S], [S], [S, 3], [S], [R + 1]"
    )
  args = (density, delta, rgb, distance, jnp.asarray(ray_offsets, jnp.int32))
  return _run("composite_ragged", args, min_transmittance, implementation)


def _run(op, args, min_transmittance, implementation) -> Composited:
  name = dispatch.choose(
      "composite", implementation, None, lambda: _triton().ready()
  )
  if name == "triton":
    run = getattr(_triton(), op)
  else:
    run = _RUN[name, op]
  args = tuple(jnp.asarray(a) for a in args)
  return Composited(*run(*args, min_transmittance=float(min_transmittance)))


def _triton():
  return dispatch.triton_module("composite")
