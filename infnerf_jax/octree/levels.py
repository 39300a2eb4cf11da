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


@dataclasses.dataclass(frozen=True)
class BlendedPolicy:
  """Equation 5 whose levels fade into each other.

  Where a footprint has just become fine enough for a level, the sample is also
  evaluated at the level above, whose share falls to zero over `blend` of an
  octave. So nothing jumps as a camera moves. Only coarser nodes are added:
  those are few and mostly resident.

  Attributes:
    blend: share of an octave, 0 to 1; 0 is equation 5 itself.
    bias: octaves; positive is coarser and cheaper.
  """

  blend: float = 0.25
  bias: float = 0.0

  def __call__(self, footprint, *, root_gsd: float, max_level: int):
    return determine_lod_level(
        footprint * 2.0**self.bias, root_gsd=root_gsd, max_level=max_level
    )

  def coarse_share(self, footprint, *, root_gsd: float, max_level: int):
    """Share of the level above the target's.

    Args:
      footprint: [...] float32, metres.
      root_gsd: metres.
      max_level: deepest level of the tree.

    Returns:
      [...] float32, 1 where the target is only just asked for, 0 from `blend`
      octaves on, and where there is no level above.
    """
    octaves = jnp.log2(root_gsd / jnp.maximum(footprint, 1e-30)) - self.bias
    # The target is the next whole number above; beyond the tree it stays.
    beyond = octaves - (jnp.clip(jnp.ceil(octaves), 0, max_level) - 1)
    share = 1 - beyond / max(self.blend, 1e-6)
    return jnp.where(octaves > 0, jnp.clip(share, 0.0, 1.0), 0.0)


def blended(policy: LevelPolicy, blend: float) -> LevelPolicy:
  """A policy of this module with another blending; 0 is none.

  Args:
    policy: equation 5, biased or blended.
    blend: share of an octave, 0 to 1.

  Returns:
    LevelPolicy.
  """
  if not 0 <= blend <= 1:
    raise ValueError(f'blend: got {blend}, expected a share of an octave')
  known = (BiasedPolicy, BlendedPolicy)
  if policy is not determine_lod_level and not isinstance(policy, known):
    raise ValueError(f'blend: got the policy {policy}, which has no octaves')
  bias = getattr(policy, 'bias', 0.0)
  if blend:
    return BlendedPolicy(blend, bias)
  return BiasedPolicy(bias) if bias else determine_lod_level
