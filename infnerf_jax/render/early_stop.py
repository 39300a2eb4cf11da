"""Densities from front to back: what lies behind a surface is not evaluated."""

import math
from typing import Callable

import jax
import jax.numpy as jnp

# Parts that a ray's samples are evaluated in; more stop sooner and each costs a
# call.
_PARTS = 4


def densities(
    evaluate: Callable[..., tuple[jax.Array, ...]],
    slot,
    delta,
    *,
    stop_below: float,
    num_parts: int = _PARTS,
) -> tuple[jax.Array, ...]:
  """Densities of samples until a ray's light is used up.

  Args:
    evaluate: ([R, S'] slot, slice of the samples) to arrays [R, S', ...], zero
      where the slot is -1; the first is the density per metre.
    slot: [R, S] int32.
    delta: [R, S] metres.
    stop_below: transmittance below which the samples that follow are left out,
      0: none are.
    num_parts: of the samples, in the order of distance.

  Returns:
    Arrays [R, S, ...] as `evaluate` gives them; zero where samples were left
    out.
  """
  num_samples = slot.shape[-1]
  if not stop_below:
    return evaluate(slot, slice(0, num_samples))
  depth = jnp.zeros(slot.shape[:1] + (1,))
  found, step = [], -(-num_samples // num_parts)
  for first in range(0, num_samples, step):
    part = slice(first, min(first + step, num_samples))
    going = depth < -math.log(stop_below)
    values = evaluate(jnp.where(going, slot[:, part], -1), part)
    depth += jnp.sum(values[0] * delta[:, part], axis=-1, keepdims=True)
    found.append(values)
  return tuple(jnp.concatenate(parts, axis=1) for parts in zip(*found))
