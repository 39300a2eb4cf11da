"""Shapes of the benchmark's steps and the data that every contestant gets.

Arrays are NumPy, made from a seed, so that worker processes that never speak
to one another work on the same samples and start from the same parameters.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class StepShape:
  """A training step's sizes.

  Attributes:
    num_grid_scales: scales of a node's hash grid.
    log2_table_size: rows of a hashed scale, as a power of two.
    num_nodes: nodes that samples fall into, the root included.
    num_slots: resident rows, at least num_nodes.
    num_rays: rays of a step.
    num_samples: samples of a ray.
    base_resolution: coarsest grid.
    finest_resolution: finest grid.
    num_features: features of a row.
    hidden_width: of both MLPs.
    num_geometry: features that the density MLP hands to the colour MLP.
    appearance_dim: appearance inputs beside the 16 harmonics.
  """

  num_grid_scales: int = 8
  log2_table_size: int = 15
  num_nodes: int = 9
  num_slots: int = 9
  num_rays: int = 1024
  num_samples: int = 48
  base_resolution: int = 16
  finest_resolution: int = 2048
  num_features: int = 2
  hidden_width: int = 64
  num_geometry: int = 15
  appearance_dim: int = 32

  @property
  def ray_input_dim(self) -> int:
    """Width of the colour MLP's inputs that are shared along a ray."""
    return 16 + self.appearance_dim


# The two shapes that speed is promised for, and one for tests.
SHAPES = {
    'small': StepShape(),
    'paper': StepShape(num_grid_scales=16, log2_table_size=19),
    'tiny': StepShape(
        num_grid_scales=4,
        log2_table_size=10,
        num_rays=32,
        num_samples=8,
        finest_resolution=64,
    ),
}


class StepData(NamedTuple):
  """Located samples of a batch of rays.

  Attributes:
    position: [S, 3] float32 in the box of the sample's own node.
    slot: [S] int32.
    ray_idx: [S] int32.
    ray_inputs: [R, D] float32.
    delta: [R, S / R] float32, lengths of intervals in half root sides.
    target: [R, 3] float32 colours.
  """

  position: np.ndarray
  slot: np.ndarray
  ray_idx: np.ndarray
  ray_inputs: np.ndarray
  delta: np.ndarray
  target: np.ndarray


def _box_rays(rng, num_rays):
  """Rays from around the box through it: origin, direction, enter, leave."""
  origin = rng.normal(size=(num_rays, 3))
  origin = 0.5 + 1.5 * origin / np.linalg.norm(origin, axis=-1, keepdims=True)
  direction = rng.uniform(0.2, 0.8, (num_rays, 3)) - origin
  direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
  ends = np.stack([-origin / direction, (1 - origin) / direction])
  return origin, direction, ends.min(0).max(-1), ends.max(0).min(-1)


def make_rays(shape: StepShape, seed: int = 0):
  """([R, 3] origins, [R, 3] directions) of `make_data`, in root units."""
  return _box_rays(np.random.default_rng(seed), shape.num_rays)[:2]


def as_dict(shape: StepShape) -> dict[str, int]:
  """JSON form, for a worker."""
  return dataclasses.asdict(shape)


def _route(point, far, shape: StepShape):
  """Node and position in its box: far samples to the root, others below.

  The nodes below the root are the cells of the coarsest power-of-two grid
  that has enough of them; nodes beyond `num_nodes` share their rows.
  """
  cells = 1
  while cells**3 < shape.num_nodes - 1:
    cells *= 2
  scaled = np.clip(point * cells, 0, cells * (1 - 1e-6))
  cell = np.floor(scaled).astype(np.int64)
  below = (cell[:, 0] * cells + cell[:, 1]) * cells + cell[:, 2]
  node = np.where(far, 0, 1 + below % max(shape.num_nodes - 1, 1))
  # The root's inner box is the middle half of its contracted space.
  position = np.where(far[:, None], 0.25 + 0.5 * point, scaled - cell)
  stride = shape.num_slots // shape.num_nodes
  return (node * stride).astype(np.int32), position.astype(np.float32)


def make_data(shape: StepShape, seed: int = 0) -> StepData:
  """Rays through the box; the farthest quarter of each meets the root.

  Args:
    shape: sizes.
    seed: of everything drawn.

  Returns:
    StepData; touched slots are spread evenly over the resident ones.
  """
  rng = np.random.default_rng(seed)
  origin, direction, enter, leave = _box_rays(rng, shape.num_rays)
  num = shape.num_samples
  share = (np.arange(num) + rng.uniform(size=(shape.num_rays, num))) / num
  length = (leave - enter)[:, None]
  t = enter[:, None] + length * share
  point = (origin[:, None] + t[..., None] * direction[:, None]).reshape(-1, 3)
  far = np.broadcast_to(np.arange(num) >= num - num // 4, t.shape).reshape(-1)
  slot, position = _route(point, far, shape)
  float32 = lambda x: np.asarray(x, np.float32)
  return StepData(
      position=np.clip(position, 0, 1),
      slot=slot,
      ray_idx=np.repeat(np.arange(shape.num_rays, dtype=np.int32), num),
      ray_inputs=float32(
          0.3 * rng.normal(size=(shape.num_rays, shape.ray_input_dim))
      ),
      delta=float32(np.broadcast_to(2 * length / num, t.shape)),
      target=float32(rng.uniform(size=(shape.num_rays, 3))),
  )


def make_params(shape: StepShape, num_rows: int, seed: int = 1) -> Any:
  """Stacked node fields of ordinary magnitude.

  Args:
    shape: sizes.
    num_rows: rows of a node's table.
    seed: of everything drawn.

  Returns:
    {'table', 'density', 'color'} as `kernels.node_field` takes them, NumPy.
  """
  rng = np.random.default_rng(seed)

  def dense(num_in, num_out):
    limit = np.float32((6.0 / num_in) ** 0.5)
    draw = rng.random((shape.num_slots, num_in, num_out), np.float32)
    return (2 * draw - 1) * limit

  table = rng.random(
      (shape.num_slots, num_rows, shape.num_features), np.float32
  )
  # As large as features get in training, so that no output is degenerate.
  table -= 0.5
  encoded = shape.num_grid_scales * shape.num_features
  hidden, geometry = shape.hidden_width, shape.num_geometry
  return {
      'table': table,
      'density': {
          'w0': dense(encoded, hidden),
          'w1': dense(hidden, 1 + geometry),
      },
      'color': {
          'w0': dense(geometry + shape.ray_input_dim, hidden),
          'w1': dense(hidden, hidden),
          'w2': dense(hidden, 3),
      },
  }
