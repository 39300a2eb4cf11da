"""What an octree holds and how it lies over its points."""

import pathlib
from typing import Any

import matplotlib
import numpy as np
from matplotlib import collections as mpl_collections
from matplotlib import patches
from matplotlib.backends import backend_agg
from matplotlib.figure import Figure

from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.octree import tree as tree_lib

_MAX_POINTS = 50_000
_VIEWS = (('from above', 0, 1), ('from the side', 0, 2))


def analyze_octree_memory(
    octree: tree_lib.Octree, spec: scene_model.ModelSpec
) -> dict[str, Any]:
  """Nodes and bytes by level.

  Args:
    octree: tree.
    spec: model of its nodes.

  Returns:
    `num_nodes`, `total_bytes` of parameters, `training_bytes` with Adam's
    moments, `bytes_per_node`, and a row for each level: `level`, `nodes`,
    `bytes`, `node_gsd` and `node_side` in metres.
  """
  size = node_pool.row_bytes(spec.field)
  counts = np.bincount(octree.level, minlength=octree.num_levels)
  return {
      'num_nodes': octree.num_nodes,
      'num_levels': octree.num_levels,
      'num_leaves': int(np.sum(np.all(octree.children < 0, axis=-1))),
      'root_side': float(octree.side),
      'root_center': np.asarray(octree.center).tolist(),
      'grid_size': int(octree.grid_size),
      'bytes_per_node': size['parameters'],
      'total_bytes': octree.num_nodes * size['parameters'],
      'training_bytes': octree.num_nodes * size['training'],
      'nodes_by_level': counts.tolist(),
      'by_level': [
          {
              'level': level,
              'nodes': int(count),
              'bytes': int(count) * size['parameters'],
              'node_gsd': float(octree.node_gsd(level)),
              'node_side': float(octree.side / 2.0**level),
          }
          for level, count in enumerate(counts)
      ],
  }


def _draw_view(axes, octree, shown, points, view, colors):
  """Boxes and points on two of the world's axes."""
  title, first, second = view
  boxes = tree_lib.node_aabb(octree, shown)
  if points is not None:
    axes.scatter(
        points[:, first],
        points[:, second],
        s=0.3,
        c='0.6',
        linewidths=0,
        rasterized=True,
    )
  rectangles = [
      patches.Rectangle(low[[first, second]], *(high - low)[[first, second]])
      for low, high in boxes
  ]
  axes.add_collection(
      mpl_collections.PatchCollection(
          rectangles,
          facecolor='none',
          edgecolor=colors[octree.level[shown]],
          linewidth=1.6 / (1 + octree.level[shown]),
      )
  )
  root = tree_lib.node_aabb(octree, np.array([0]))[0]
  margin = 0.05 * octree.side
  axes.set_xlim(root[0, first] - margin, root[1, first] + margin)
  axes.set_ylim(root[0, second] - margin, root[1, second] + margin)
  axes.set_aspect('equal')
  axes.set_title(title)
  axes.set_xlabel(f'{"xyz"[first]} (m)')
  axes.set_ylabel(f'{"xyz"[second]} (m)')


def level_colors(num_levels: int) -> np.ndarray:
  """[num_levels, 4] rgba: the colour of each octree level in all pictures."""
  levels = np.arange(num_levels)
  return matplotlib.colormaps['turbo'](
      0.1 + 0.8 * levels / max(num_levels - 1, 1)
  )


def visualize_octree(
    octree: tree_lib.Octree, max_depth: int | None, save_path, points=None
) -> pathlib.Path:
  """Draws the nodes' boxes from above and from the side.

  Args:
    octree: tree.
    max_depth: deepest level drawn; None is all.
    save_path: picture, of any type that matplotlib writes.
    points: [P, 3] metres, drawn beneath; many are thinned out.

  Returns:
    The picture's path.
  """
  depth = octree.num_levels - 1 if max_depth is None else max_depth
  shown = np.flatnonzero(octree.level <= depth)
  if points is not None:
    points = np.asarray(points, np.float64)
    points = points[:: -(-len(points) // _MAX_POINTS) or 1]
  colors = level_colors(octree.num_levels)
  figure = Figure(figsize=(13, 6.5), layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  for axes, view in zip(figure.subplots(1, 2), _VIEWS, strict=True):
    _draw_view(axes, octree, shown, points, view, colors)
  counts = np.bincount(octree.level[shown])
  figure.legend(
      handles=[
          patches.Patch(color=colors[level], label=f'level {level}: {count}')
          for level, count in enumerate(counts)
      ],
      loc='outside lower center',
      ncols=len(counts),
  )
  save_path = pathlib.Path(save_path)
  figure.savefig(save_path, dpi=130)
  return save_path
