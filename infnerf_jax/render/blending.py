"""Two levels shown at once, so that nothing jumps from one to the next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Coarse(NamedTuple):
  """The level above, where a blended policy shows two at once.

  Attributes:
    share: [R, S] float32, of the coarser node's density.
    slot: [R, S] int32, -1 where the sample is not shared.
    position: [R, S, 3] in the coarser node's own box.
  """

  share: jax.Array
  slot: jax.Array
  position: jax.Array


def blend(fine, coarse, share):
  """Densities add by their shares, colours by the light that they send.

  Args:
    fine: ([R, S] density, [R, S, 3] rgb).
    coarse: likewise.
    share: [R, S] of the coarse.

  Returns:
    ([R, S] density, [R, S, 3] rgb).
  """
  fine_density, coarse_density = (1 - share) * fine[0], share * coarse[0]
  density = fine_density + coarse_density
  # Where nothing is, the colour does not matter.
  weight = (coarse_density / jnp.maximum(density, 1e-12))[..., None]
  return density, (1 - weight) * fine[1] + weight * coarse[1]
