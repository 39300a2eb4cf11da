"""From a sample's footprint to its octree level (InfNeRF, equation 5)."""

import dataclasses
from typing import Protocol

import jax.numpy as jnp


class LevelPolicy(Protocol):
  """Maps footprints to target levels; may be replaced by the user's own."""

  def __call__(self, footprint, *, root_gsd: float, max_level: int):
    """Target levels.

    Args:
      footprint: [...] float32, metres.
      root_gsd: finest length that the root resolves, metres.
      max_level: deepest level of the tree.

    Returns:
      [...] int32 within 0 to max_level.
    """


def determine_lod_level(footprint, *, root_gsd: float, max_level: int):
  """The coarsest level whose node_gsd does not exceed the footprint.

  `clip(ceil(log2(root_gsd / footprint)), 0, max_level)`, which is the paper's
  equation 5, `floor(log2(GSD_root / radius))`, with its GSD twice ours. A
  sample descends while its footprint is below the node's node_gsd.

  Args:
    footprint: [...] float32, metres, radius of the cone at the sample.
    root_gsd: metres.
    max_level: deepest level.

  Returns:
    [...] int32.
  """
  octaves = jnp.log2(root_gsd / jnp.maximum(footprint, 1e-30))
  return jnp.clip(jnp.ceil(octaves), 0, max_level).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class BiasedPolicy:
  """Equation 5 with the footprint scaled by 2**bias.

  Attributes:
    bias: octaves; positive is coarser and cheaper.
  """

  bias: float = 0.0

  def __call__(self, footprint, *, root_gsd: float, max_level: int):
    return determine_lod_level(
        footprint * 2.0**self.bias, root_gsd=root_gsd, max_level=max_level
    )
