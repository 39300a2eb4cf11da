"""A trained or training scene as one value: tree, pool, appearance."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.sharding import exchange
from kernels.node_field import specs as field_specs


class TreeArrays(NamedTuple):
  """What a device needs of an octree.

  Attributes:
    children: [N, 8] int32, -1 absent.
    slot_of_node: [N] int32, -1 not resident.
    shard: what of the slots this device holds, None: all of them.
    active: [N] bool, nodes that take part whether resident or not: a sample of
      one that is not resident is evaluated by its nearest resident ancestor
      and trains nothing. None: all that take part are resident.
  """

  children: jax.Array
  slot_of_node: jax.Array
  shard: exchange.Shard | None = None
  active: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """Static facts of a model (hashable: a jit's static argument).

  Attributes:
    field: shapes of the node fields.
    root_side: metres.
    root_gsd: metres.
    max_level: deepest level.
    appearance_dim: width of the appearance embedding, 0 is none.
    implementation: kernels' backend, None is the best that works.
  """

  field: field_specs.FieldSpec
  root_side: float
  root_gsd: float
  max_level: int
  appearance_dim: int
  implementation: str | None = None

  @property
  def half_side(self) -> float:
    """h, the unit of densities and of the sampling's linear part, metres."""
    return self.root_side / 2


class SceneModel(NamedTuple):
  """Everything on the device that rendering needs.

  Attributes:
    tree: node arrays.
    nodes: stacked parameters by slot.
    appearance: [num_photos, A] float32.
    sample_aabb: [2, 3] float32, root units; rays may be clipped to it.
    occupancy: `render.occupancy.Occupancy` whose empty cells are not evaluated;
      None: everything is.
    traversal: `render.traversal.Traversal` that samples may be placed by, or
      None.
  """

  tree: TreeArrays
  nodes: Any
  appearance: jax.Array
  sample_aabb: jax.Array
  occupancy: Any = None
  traversal: Any = None


def tree_arrays(octree: tree_lib.Octree, slot_of_node) -> TreeArrays:
  """Uploads an octree and its slot map."""
  return TreeArrays(
      children=jnp.asarray(octree.children, jnp.int32),
      slot_of_node=jnp.asarray(slot_of_node, jnp.int32),
  )


def sample_aabb_in_root_units(octree: tree_lib.Octree, aabb) -> np.ndarray:
  """[2, 3] float32 box in root units from metres."""
  return ((np.asarray(aabb) - octree.root_min) / octree.side).astype(np.float32)


def device_cameras(
    cameras: cameras_lib.Cameras, octree: tree_lib.Octree
) -> cameras_lib.DeviceCameras:
  """Camera table in the root units of `octree`."""
  return cameras_lib.to_device(cameras, octree.root_min, octree.side)


@jax.custom_jvp
def trunc_exp(raw):
  """exp whose argument is held below 15, in its derivative too.

  The derivative is that of exp at the held argument, not zero, so that a
  density that overshot can come back.
  """
  return jnp.exp(jnp.minimum(raw, 15.0))


@trunc_exp.defjvp
def _trunc_exp_jvp(primals, tangents):
  (raw,), (tangent,) = primals, tangents
  value = jnp.exp(jnp.minimum(raw, 15.0))
  return value, value * tangent


def density(raw, spec: ModelSpec):
  """Density per metre from the fields' raw output.

  `trunc_exp(raw) / h` with h half the root's side: a scene behaves alike in
  metres and in kilometres.

  Args:
    raw: [...].
    spec: model.

  Returns:
    [...] per metre.
  """
  return trunc_exp(raw) / spec.half_side
