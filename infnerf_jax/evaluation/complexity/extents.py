"""Part 1: the synthetic city at growing extents, seen by the same cameras."""

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from infnerf_jax.evaluation.complexity import views, virtual_store
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.scene.city import layout, rendering
from infnerf_jax.storage import node_store, tree_pages
from infnerf_jax.streaming import store_scene

BASE_EXTENT = 72.0  # metres
_BASE_LEVEL = 3  # of the smallest city's leaves
# Cells along a node: three times as many as the pictures' 320 pixels, as the
# paper's 2048 are of its photos, a few fewer, and a fifth. Smaller nodes make a
# view's ring of equal detail many nodes.
GRID_SIZES = (1024, 256, 64)
_MARGIN = 1.125
# The root's middle, metres: a plane between nodes of every level lies there. In
# the middle of the houses it would double the nodes of all views.
_MIDDLE_HEIGHT = -1.0
# name, height (m), tilt (degrees); the same for all extents.
CAMERAS = (
    ('street 2 m', 2.0, 85.0),
    ('roofs 25 m', 25.0, 70.0),
    ('block 60 m', 60.0, 45.0),
    ('district 300 m', 300.0, 20.0),
    ('city 1500 m', 1500.0, 0.0),
)
# Where the cameras look, as shares of the extent: a view's nodes depend on how
# the planes between nodes cut it, so each height is seen at five places.
PLACES = (
    (0.04, 0.04),
    (0.21, 0.13),
    (-0.17, 0.29),
    (0.31, -0.22),
    (-0.28, -0.12),
)
_RENDERED = ('street 2 m', 'block 60 m', 'city 1500 m')
OPTIONS = render_rays.RenderOptions(num_samples=(32, 16), near=1e-4)


def surface_points(city: layout.City, spacing: float) -> np.ndarray:
  """[P, 3] where parallel rays from five sides meet the city, metres."""
  half = 0.5 * city.extent
  steps = np.arange(-half, half, spacing)
  flat = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
  found = []
  for way in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
    direction = np.array([*way, -1.0])
    direction /= np.linalg.norm(direction)
    origins = np.concatenate([flat, np.zeros((len(flat), 1))], axis=-1)
    origins = origins - 150.0 * direction / -direction[2]
    rays = np.broadcast_to(direction, origins.shape)
    distance = rendering.cast_rays(city, origins, rays)
    points = origins + distance[:, None] * rays
    found.append(points[np.isfinite(distance)])
  points = np.concatenate(found)
  return points[np.all(np.abs(points[:, :2]) < half, axis=-1)]


@functools.lru_cache(maxsize=1)
def _unit_points(doublings: int, spacing: float) -> np.ndarray:
  """[P, 3] surface of the city in its root's box [0, 1)^3."""
  extent = BASE_EXTENT * 2**doublings
  points = surface_points(layout.make_city(extent=extent), spacing)
  low = np.array([0, 0, _MIDDLE_HEIGHT]) - 0.5 * _MARGIN * extent
  unit = (points - low) / (_MARGIN * extent)
  return unit[np.all((unit >= 0) & (unit < 1), axis=-1)]


def city_octree(
    doublings: int, *, grid_size: int = GRID_SIZES[0], spacing: float = 2.0
) -> tree_lib.Octree:
  """Tree of the city of `BASE_EXTENT * 2**doublings`; its leaves are alike."""
  unit = _unit_points(doublings, spacing)
  cells = [
      np.unique(np.floor(unit * 2**level).astype(np.int64), axis=0)
      for level in range(_BASE_LEVEL + doublings + 1)
  ]
  return tree_lib.from_coords(
      cells, center=[0.0, 0.0, _MIDDLE_HEIGHT],
      side=_MARGIN * BASE_EXTENT * 2**doublings, grid_size=grid_size,
  )  # fmt: skip


def make_scene(octree: tree_lib.Octree) -> store_scene.StoreScene:
  """A scene of the tree with generated parameters."""
  header = virtual_store.make_header(
      side=octree.side, height=60.0, grid_size=octree.grid_size
  )
  values = virtual_store.VirtualStore(virtual_store.OctreePages(octree), header)
  values.header = dataclasses.replace(
      values.header, center=tuple(octree.center.tolist())
  )
  return store_scene.StoreScene(
      node_store.NodeStore(values, tree_bytes=64 << 20), options=OPTIONS
  )


def measure_extent(
    doublings: int,
    *,
    grid_size: int,
    render: bool,
    flat: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """All cameras in the city of one extent; means over the places.

  Args:
    doublings: of the extent.
    grid_size: cells along a node.
    render: whether pictures are rendered.
    flat: result of another grid size, whose flat partition is the same.
  """
  octree = city_octree(doublings, grid_size=grid_size)
  scene = make_scene(octree)
  frame, row = scene.frame(), scene.store.header.group().nbytes
  tree = tree_pages.ResidentTree(octree)
  measured = {}
  for name, height, tilt in CAMERAS:
    items = []
    for camera in _cameras(doublings, height, tilt):
      item = views.measure(tree, frame, camera, row)
      del item['levels']
      if flat is None:
        item['flat_cells'] = views.flat_cells(tree, frame, camera)
      items.append(item)
    mean = {k: float(np.mean([i[k] for i in items])) for k in items[0]}
    if flat is not None:
      mean['flat_cells'] = flat['views'][name]['flat_cells']
    mean['flat_bytes'] = mean['flat_cells'] * row
    mean['nodes_by_place'] = [item['nodes'] for item in items]
    if render and name in _RENDERED:
      mean.update(_render(scene, doublings, height, tilt))
    measured[name] = mean
  scene.close()
  return {
      'extent': BASE_EXTENT * 2**doublings,
      'num_nodes': octree.num_nodes,
      'max_level': octree.num_levels - 1,
      'row_bytes': row,
      'views': measured,
  }


def _cameras(doublings, height, tilt):
  """One camera a place."""
  for share in PLACES:
    east, north = (BASE_EXTENT * 2**doublings * x for x in share)
    yield views.camera_above([east, north, 1.0], height, tilt=tilt)


def _render(scene, doublings, height, tilt) -> dict[str, Any]:
  """Nodes that a picture of 80 x 60 pixels addressed, and its CPU time."""
  camera = next(_cameras(doublings, height, tilt))
  draw = lambda: scene.render(
      camera, appearance=np.zeros(0), pixel_size=4.0, ray_block=1024,
      outputs=('rgb', 'statistics'),
  )  # fmt: skip
  image = draw()
  start = time.process_time()
  draw()
  return {
      'touched': int(image.statistics.touched_slots.sum()),
      'frame_cpu_s': time.process_time() - start,
      'num_rays': image.num_rays,
  }


def slope_per_doubling(results, name: str, key: str = 'nodes') -> list[float]:
  """What one doubling of n adds to a view, between neighbouring extents."""
  slopes = []
  for small, large in zip(results, results[1:]):
    doublings = np.log2(large['num_nodes'] / small['num_nodes'])
    added = large['views'][name][key] - small['views'][name][key]
    slopes.append(float(added / doublings))
  return slopes


def measure(
    doublings=range(5), *, render: bool = True
) -> dict[int, list[dict[str, Any]]]:
  """All extents, small to large, by the grid size of the nodes.

  Args:
    doublings: of the extent.
    render: whether pictures of the first grid size are rendered.
  """
  found = {grid_size: [] for grid_size in GRID_SIZES}
  for d in doublings:
    first = None
    for grid_size in GRID_SIZES:
      result = measure_extent(
          d, grid_size=grid_size, render=render and first is None, flat=first
      )
      first = first or result
      found[grid_size].append(result)
  return found
