"""Density and colour of a trained scene at points, at one octree level."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import directions as directions_lib
from infnerf_jax.models import node_evaluation, scene_model
from kernels.locate import api as locate_op

# Points of one device call: tens of MB of features.
_BLOCK = 1 << 15


def _locate(model, spec, origins, origins_lo, level):
  num = origins.shape[0]
  ahead = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (num, 3))
  return locate_op.locate(
      origins, origins_lo, ahead, jnp.zeros((num, 1)),
      jnp.full((num, 1), level, jnp.int32),
      model.tree.children, model.tree.slot_of_node,
      root_side=spec.root_side, max_level=spec.max_level,
      implementation=spec.implementation,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames='spec')
def _density(model, origins, origins_lo, *, spec, level):
  """[B] per metre."""
  at = _locate(model, spec, origins, origins_lo, level)
  slot = at.slot[:, 0]
  raw = node_evaluation.node_density(
      model.nodes, model.tree, at.position[:, 0], slot,
      jnp.arange(origins.shape[0], dtype=jnp.int32), spec=spec,
  )  # fmt: skip
  return jnp.where(slot < 0, 0.0, scene_model.density(raw, spec))


@functools.partial(jax.jit, static_argnames='spec')
def _colors(model, origins, origins_lo, directions, appearance, *, spec, level):
  """[B, 3] in [0, 1]."""
  at = _locate(model, spec, origins, origins_lo, level)
  num = origins.shape[0]
  inputs = jnp.concatenate(
      [
          directions_lib.spherical_harmonics(directions),
          jnp.broadcast_to(appearance, (num,) + appearance.shape),
      ],
      axis=-1,
  )
  _, rgb = node_evaluation.node_colors(
      model.nodes, model.tree, at.position[:, 0], at.slot[:, 0],
      jnp.arange(num, dtype=jnp.int32), inputs, spec=spec,
  )  # fmt: skip
  return rgb


class FieldPoints:
  """A trained scene, asked at points."""

  def __init__(self, loaded, *, level: int, appearance: str | None = None):
    """Asks nothing yet.

    Args:
      loaded: a LoadedScene; a store is read view by view and not asked here.
      level: a point's node is the finest down to this level that exists.
      appearance: name of a photo, None for the mean embedding.

    Raises:
      InputError: a store, or no such photo.
    """
    if not hasattr(loaded, 'model'):
      raise errors.InputError(
          f'--workdir: got the store {loaded.workdir}, expected the folder of'
          ' a trained run (a store gives points, not meshes)'
      )
    self._model, self._spec = loaded.model, loaded.spec
    self._octree, self._level = loaded.octree, level
    self._appearance = jnp.asarray(loaded.appearance(appearance), jnp.float32)

  def density(self, points) -> np.ndarray:
    """[N] float32 per metre at [N, 3] float64 points in metres."""
    return self._in_blocks(_density, points, ())

  def colors(self, points, directions) -> np.ndarray:
    """[N, 3] float32 in [0, 1], seen along unit directions [N, 3]."""
    ask = functools.partial(self._ask_colors)
    return self._in_blocks(ask, points, (np.asarray(directions, np.float32),))

  def _ask_colors(self, model, origins, origins_lo, directions, **static):
    return _colors(
        model, origins, origins_lo, directions, self._appearance, **static
    )

  def _in_blocks(self, function, points, others) -> Any:
    """Runs a function over blocks of one static size."""
    points = np.asarray(points, np.float64)
    unit = (points - self._octree.root_min) / self._octree.side
    arrays = (*cameras_lib.split_float64(unit), *others)
    parts = []
    for start in range(0, len(points), _BLOCK):
      block = [x[start : start + _BLOCK] for x in arrays]
      num = len(block[0])
      block = [np.pad(x, ((0, _BLOCK - num), (0, 0))) for x in block]
      values = function(self._model, *block, spec=self._spec, level=self._level)
      parts.append(np.asarray(values)[:num])
    return np.concatenate(parts)
