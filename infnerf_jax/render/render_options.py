"""How rays are sampled and composited."""

import dataclasses

from infnerf_jax.octree import levels as levels_lib


@dataclasses.dataclass(frozen=True)
class RenderOptions:
  """Sampling and compositing (hashable: a jit's static argument).

  Attributes:
    num_samples: samples of each sampling round; the last is composited.
    near: metres, in units of h (half the root's side).
    far: likewise.
    clip_to_box: whether the points' box bounds the rays.
    weight_power: anneal power on the weights of a round (0.9 in the paper).
    padding: share of a uniform histogram mixed into each round's weights.
    level_policy: footprint to level.
    opaque_end: whether the last interval has no end, so that what a ray
      does not meet before takes its colour: no colour passes for a clear ray.
    proposal_bias: octaves by which proposals are coarser than the last round.
    proposal_stride: pixels along a side of a picture's tiles that share
      proposals, 1: each pixel has its own; pictures only, two rounds.
    first_stride: pixels between corners of tiles that look along the whole
      ray; those between look where these met something. 0: all look
      everywhere.
    samples_per_interval: of the last round, by the number of proposals'
      intervals that a tile's weights spread over; no more than `num_samples`,
      0: always as many; tiles only.
    min_weight: samples of less weight get no colour, 0: all do; pictures only.
    stop_below: transmittance below which what lies behind is not evaluated, 0:
      everything is; pictures only.
    sampler: 'proposals' (sampling rounds), or 'traverse': even steps where
      space is not empty (`traversed_rays`); pictures only.
    step: of traverse, in the finest node_gsd.
    max_samples: of traverse, of a ray; what lies behind them is not seen.
  """

  num_samples: tuple[int, ...] = (64, 32)
  near: float = 0.03
  far: float = 1000.0
  clip_to_box: bool = True
  weight_power: float = 0.9
  padding: float = 0.01
  level_policy: levels_lib.LevelPolicy = levels_lib.determine_lod_level
  proposal_bias: float = 0.0
  opaque_end: bool = False
  proposal_stride: int = 1
  first_stride: int = 0
  samples_per_interval: float = 0.0
  min_weight: float = 0.0
  stop_below: float = 0.0
  sampler: str = 'proposals'
  step: float = 4.0
  max_samples: int = 64

  @property
  def largest_stride(self) -> int:
    """Pixels by which corners of tiles may lie beyond a picture's end, + 1."""
    return max(self.proposal_stride, self.first_stride)
