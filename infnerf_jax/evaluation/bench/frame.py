"""The frame that GPU kernels are measured on, and the work that it is.

A camera a metre and a half above a plane looks over it to the horizon: its
rays meet every level of a tree that is refined around the camera, as trees of
captures are. Arrays are NumPy, made from a seed: processes that never speak
to one another render the same picture.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from infnerf_jax.evaluation.bench import shapes
from infnerf_jax.octree import tree as tree_lib

_SIDE = 1000.0  # metres
PLANE = 0.4  # height of the surface, root units
_HEIGHT = 1.5  # of the camera above it, metres
_PITCH = np.deg2rad(20.0)
_REACH = 2  # nodes of a level around the camera's foot


@dataclasses.dataclass(frozen=True)
class FrameShape:
  """A frame's sizes.

  Attributes:
    width: pixels, and height.
    max_level: depth of the tree.
    rays_per_block: of one call; all samples of a block are in memory.
    max_samples: of a ray.
    num_located: samples of a ray that `locate` gets.
    max_steps: intervals that a ray is cut into at most.
    step_slope: length of an interval over its distance.
    field: sizes of the node fields.
  """

  width: int = 1024
  max_level: int = 8
  rays_per_block: int = 1 << 16
  max_samples: int = 64
  num_located: int = 32
  max_steps: int = 1024
  step_slope: float = 1 / 64
  field: shapes.StepShape = dataclasses.field(default_factory=shapes.StepShape)

  @property
  def rule(self) -> dict:
    """Keywords of the traversal."""
    return dict(
        root_side=_SIDE,
        min_step=0.01,
        step_slope=self.step_slope,
        max_steps=self.max_steps,
        max_samples_per_ray=self.max_samples,
    )


FRAME = FrameShape()
TINY = FrameShape(
    width=8,
    max_level=3,
    rays_per_block=32,
    max_samples=12,
    num_located=6,
    max_steps=256,
    step_slope=1 / 16,
    field=shapes.SHAPES['tiny'],
)


def from_dict(values: dict) -> FrameShape:
  """A shape from `dataclasses.asdict` of one, as workers get it."""
  field = shapes.StepShape(**values['field'])
  return FrameShape(**{**values, 'field': field})


class FrameData(NamedTuple):
  """Rays by row of the picture, and the tree.

  Attributes:
    origins: [R, 3] float32, root units.
    origins_lo: [R, 3] float32.
    directions: [R, 3] float32, unit.
    near: [R, 1] float32, metres.
    far: [R, 1] float32, metres.
    base_radius: [R, 1] float32, metres.
    cone_slope: [R, 1] float32.
    level_footprints: [max_level] float32, metres.
    children: [N, 8] int32.
    slot_of_node: [N] int32.
    occupied: [N, 4, 4, 4] bool, cells that meet the plane.
    ray_inputs: [R, D] float32.
  """

  origins: np.ndarray
  origins_lo: np.ndarray
  directions: np.ndarray
  near: np.ndarray
  far: np.ndarray
  base_radius: np.ndarray
  cone_slope: np.ndarray
  level_footprints: np.ndarray
  children: np.ndarray
  slot_of_node: np.ndarray
  occupied: np.ndarray
  ray_inputs: np.ndarray


def make_tree(max_level: int) -> tree_lib.Octree:
  """Nodes that hold the plane, near the camera's foot at every level."""
  coords = [np.zeros((1, 3), np.int64)]
  for level in range(1, max_level + 1):
    foot = int(0.5 * 2**level)
    low, high = max(foot - _REACH, 0), min(foot + _REACH, 2**level)
    along = np.arange(low, high)
    height = np.array([int(PLANE * 2**level)])
    grid = np.stack(np.meshgrid(along, along, height, indexing='ij'), -1)
    coords.append(grid.reshape(-1, 3))
  return tree_lib.from_coords(
      coords, center=(0, 0, 0), side=_SIDE, grid_size=2048
  )


def _occupied(octree) -> np.ndarray:
  """[N, 4, 4, 4] cells whose heights are within a tenth of the plane's."""
  cells = 4.0 * 2.0**octree.level  # along the root's side
  low = octree.coord[:, 2:] * 4 + np.arange(4)  # [N, 4] in those cells
  plane = (PLANE * cells)[:, None]
  meets = (low - 0.1 <= plane) & (plane < low + 1.1)
  return np.broadcast_to(meets[:, None, None], (len(cells), 4, 4, 4)).copy()


def make_frame(shape: FrameShape, seed: int = 0) -> FrameData:
  """The picture's rays and the tree.

  Args:
    shape: sizes.
    seed: of ray inputs.

  Returns:
    FrameData.
  """
  octree = make_tree(shape.max_level)
  pixel = (np.arange(shape.width) + 0.5) / shape.width * 2 - 1
  x, y = (0.5 * g for g in np.meshgrid(pixel, pixel))  # 53 degrees wide
  cos, sin = np.cos(_PITCH), np.sin(_PITCH)
  # Camera x right, y down, z forward; the world's z is up.
  d = np.stack([x, cos - y * sin, -sin - y * cos], -1).reshape(-1, 3)
  d /= np.linalg.norm(d, axis=-1, keepdims=True)
  num = d.shape[0]
  eye = np.array([0.5, 0.5, PLANE + _HEIGHT / _SIDE])
  with np.errstate(divide='ignore'):
    leave = np.max([-eye / d, (1 - eye) / d], axis=0).min(-1, keepdims=True)
  high = np.broadcast_to(eye.astype(np.float32), d.shape)
  float32 = lambda a: np.ascontiguousarray(a, np.float32)
  column = lambda v: np.full((num, 1), v, np.float32)
  levels = np.arange(shape.max_level)
  inputs = np.random.default_rng(seed).normal(
      size=(num, shape.field.ray_input_dim)
  )
  return FrameData(
      origins=float32(high),
      origins_lo=float32(eye - high),
      directions=float32(d),
      near=column(0.5),
      far=float32(leave * _SIDE),
      base_radius=column(0.0),
      cone_slope=column(0.564 / shape.width),
      level_footprints=float32(octree.node_gsd(levels)),
      children=octree.children,
      slot_of_node=np.arange(octree.num_nodes, dtype=np.int32),
      occupied=_occupied(octree),
      ray_inputs=float32(0.3 * inputs),
  )


def located_distances(near, far, num: int) -> np.ndarray:
  """[R, num] metres between near and far [R, 1], each farther by one factor."""
  share = (np.arange(num, dtype=np.float32) + 0.5) / num
  return (near * (far / near) ** share).astype(np.float32)


def field_shape(shape: FrameShape, data: FrameData) -> shapes.StepShape:
  """The node fields' sizes with a slot for every node."""
  slots = len(data.slot_of_node)
  return dataclasses.replace(shape.field, num_nodes=slots, num_slots=slots)


class Work(NamedTuple):
  """What an op must move and compute at least.

  Attributes:
    num_bytes: read and written once, of device memory.
    flops: multiplications and additions.
  """

  num_bytes: float
  flops: float


def works(
    shape: FrameShape, num_rays: int, num_samples: int
) -> dict[str, Work]:
  """Work of each op, from the numbers of rays and samples.

  Table rows count as if each were read from device memory; caches make the
  achieved figure exceed the device's peak where nodes are few.
  """
  f = shape.field
  s, r = num_samples, num_rays
  encoded = f.num_grid_scales * f.num_features
  hidden, dim = f.hidden_width, f.ray_input_dim
  color_in = f.num_geometry + dim
  macs = hidden * (encoded + 1 + f.num_geometry + color_in + hidden + 3)
  gathers = 8 * 4 * encoded
  lookup = Work(s * (16 + gathers + 4 * encoded), s * 24 * encoded)
  field = Work(
      s * (20 + gathers + 16) + 4 * r * dim, s * (24 * encoded + 2 * macs)
  )
  # t, delta, slot, node, ray and position of a sample.
  traverse = Work(64 * r + 32 * s, 0)
  composite = Work(28 * s + 28 * r, 20 * s)
  # Distance and level; node, slot, level and position of a sample.
  located = r * shape.num_located
  locate = Work(36 * r + 32 * located, 0)
  whole = [traverse, field, composite]
  return {
      'locate': locate,
      'traverse': traverse,
      'hash_lookup': lookup,
      'node_field': field,
      'composite': composite,
      'frame': Work(
          sum(w.num_bytes for w in whole), sum(w.flops for w in whole)
      ),
  }
