"""Nodes of a trained run in which there is nothing: measured, hidden, reported.

`pruned.json` of a workdir lists them for the checkpoint of one step. Whoever
renders, scores or exports that checkpoint does without them: their nearest
ancestor stands in, as for any node that is not resident. The checkpoint itself
keeps every row, so that the run can go on.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.models import node_evaluation, node_pool, scene_model
from infnerf_jax.octree import prune
from infnerf_jax.octree import tree as tree_lib

REPORT = 'pruned.json'
_GRID = 32  # cells along a node's side, one place in each is looked at


@functools.partial(jax.jit, static_argnames='spec')
def _node_density(nodes, tree, slot, corner, scale, *, spec):
  """[G, G, G] densities per metre in the cells of a part of a node's box.

  Args:
    nodes: stacked parameters.
    tree: TreeArrays.
    slot: [] of the field that is asked.
    corner: [3] of the part, in that node's box.
    scale: [] side of the part, in that node's box.
    spec: static facts.
  """
  # One place a cell, anywhere in it: a lattice would miss what is parallel.
  offset = jax.random.uniform(jax.random.key(0), (_GRID,) * 3 + (3,))
  cell = jnp.stack(jnp.meshgrid(*[jnp.arange(_GRID)] * 3, indexing='ij'), -1)
  position = corner + scale * (cell + offset) / _GRID
  position = jnp.where(slot == 0, 0.25 + 0.5 * position, position)
  flat = position.reshape(-1, 3)
  raw = node_evaluation.node_density(
      nodes,
      tree,
      flat,
      jnp.full(flat.shape[0], slot, jnp.int32),
      jnp.zeros(flat.shape[0], jnp.int32),
      spec=spec,
  )
  return scene_model.density(raw, spec).reshape((_GRID,) * 3)


def _greatest_opacity(density, cell_size) -> float:
  """Of the columns along all three axes of [G, G, G] densities per metre."""
  depth = [np.asarray(density, np.float64).sum(axis=axis) for axis in range(3)]
  return float(-np.expm1(-np.max(depth) * cell_size))


def measure_opacity(
    octree: tree_lib.Octree, model: scene_model.SceneModel, spec, box, field
) -> np.ndarray:
  """How opaque boxes of nodes are, straight through.

  Args:
    octree: tree.
    model: trained.
    spec: static facts.
    box: [K] nodes whose boxes are meant.
    field: [K] nodes, or ancestors of theirs, whose fields are asked.

  Returns:
    [K] float64 greatest opacity of a column of cells, of 32 along a side.
  """
  slots = np.asarray(model.tree.slot_of_node)
  found = np.zeros(len(box))
  for i, (node, asked) in enumerate(zip(box, field, strict=True)):
    deeper = int(octree.level[node] - octree.level[asked])
    corner = octree.coord[node] / 2.0**deeper - octree.coord[asked]
    density = _node_density(
        model.nodes,
        model.tree,
        jnp.int32(slots[asked]),
        jnp.asarray(corner, jnp.float32),
        jnp.float32(0.5**deeper),
        spec=spec,
    )
    side = octree.side / 2.0 ** float(octree.level[node])
    found[i] = _greatest_opacity(density, side / _GRID)
  return found


def find_empty(
    octree: tree_lib.Octree,
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    *,
    max_opacity: float,
    step: int,
) -> dict[str, Any]:
  """Measures the densities of all nodes that might go.

  Args:
    octree: tree.
    model: trained; nodes without a slot have no field of their own.
    spec: static facts.
    max_opacity: below it a node is empty.
    step: of the model.

  Returns:
    What `pruned.json` says.
  """
  slots = np.asarray(model.tree.slot_of_node)[: octree.num_nodes]
  measure = functools.partial(measure_opacity, octree, model, spec)
  found = prune.empty_nodes(
      octree, measure, max_opacity=max_opacity, candidates=slots >= 0
  )
  keys = tree_lib.node_key(octree.level, octree.coord)
  rows = np.flatnonzero(found.gone)
  size = node_pool.row_bytes(spec.field)['parameters']
  kept = (found.opacity < max_opacity) & ~found.gone
  return {
      'step': step,
      'max_opacity': max_opacity,
      'num_nodes': octree.num_nodes,
      'num_pruned': len(rows),
      'pruned_by_level': (
          np.bincount(octree.level[rows], minlength=octree.num_levels).tolist()
      ),
      'bytes_saved': len(rows) * size,
      'num_empty_but_parent_is_not': int(kept.sum()),
      'pruned': [
          {
              'node_key': int(keys[row]),
              'level': int(octree.level[row]),
              'opacity': found.opacity[row],
              'parent_opacity': found.stand_in_opacity[row],
          }
          for row in rows
      ],
  }


def write(workdir, report: dict[str, Any]) -> None:
  """Puts the report of `find_empty` into a run's folder."""
  json_files.write_json_atomic(pathlib.Path(workdir) / REPORT, report)


def forget(workdir) -> None:
  """Takes the report away: all nodes of the run are there again."""
  (pathlib.Path(workdir) / REPORT).unlink(missing_ok=True)


def without_pruned(
    workdir, tree: scene_model.TreeArrays, octree: tree_lib.Octree, step: int
) -> scene_model.TreeArrays:
  """The tree of a checkpoint without the nodes that its report lists.

  Args:
    workdir: folder of the run.
    tree: of the checkpoint.
    octree: the same on the host.
    step: of the checkpoint; reports of other steps say nothing of it.

  Returns:
    TreeArrays.

  Raises:
    InputError: a file that is no such report.
  """
  path = pathlib.Path(workdir) / REPORT
  if not path.is_file():
    return tree
  try:
    report = json_files.read_json(path)
    if int(report['step']) != step:
      return tree
    gone = [int(node['node_key']) for node in report['pruned']]
  except (KeyError, TypeError, ValueError) as error:
    raise errors.InputError(
        f'{path}: got {error}, expected the report of pruned nodes'
    ) from None
  keys = tree_lib.node_key(octree.level, octree.coord)
  hidden = jnp.asarray(np.isin(keys, gone))
  slots = jnp.where(hidden, -1, tree.slot_of_node)
  return tree._replace(slot_of_node=slots)
