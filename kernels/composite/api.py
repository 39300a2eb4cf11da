"""Fold the samples of each ray into a pixel."""

from typing import NamedTuple

import jax

from kernels import dispatch
from kernels.composite import reference

_xla = jax.jit(reference.composite)


class Composited(NamedTuple):
  """weights [..., T]; rgb [..., 3]; opacity [...]; distance [...].

  rgb and distance are sums over the samples, not divided by opacity: what is
  behind the last sample adds (1 - opacity) times its own.
  """

  weights: jax.Array
  rgb: jax.Array
  opacity: jax.Array
  distance: jax.Array


def composite(
    density: jax.Array,
    delta: jax.Array,
    rgb: jax.Array,
    distance: jax.Array,
    *,
    implementation: str | None = None,
) -> Composited:
  """Emission-absorption: weight = alpha * transmittance before the sample.

  Args:
    density: [..., T] float32, per metre.
    delta: [..., T] float32, metres, length of each interval.
    rgb: [..., T, 3] float32.
    distance: [..., T] float32, metres.
    implementation: None, "reference" or "xla"; there is no native one.

  Returns:
    Composited.

  Raises:
    ValueError: shapes disagree.
    NotImplementedError: native.
  """
  if not density.shape == delta.shape == distance.shape == rgb.shape[:-1]:
    raise ValueError(
        f"composite: got density {density.shape}, delta {delta.shape}, rgb"
        f" {rgb.shape}, distance {distance.shape}, expected [..., T],"
        " [..., T], [..., T, 3], [..., T]"
    )
  if implementation is None:
    implementation = "xla"
  name = dispatch.choose("composite", implementation, _not_native)
  run = {"reference": reference.composite, "xla": _xla}[name]
  return Composited(*run(density, delta, rgb, distance))


def _not_native() -> None:
  raise NotImplementedError("composite: no native implementation")
