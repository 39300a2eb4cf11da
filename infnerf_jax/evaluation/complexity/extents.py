"""Part 1: the synthetic city at growing extents, seen by the same cameras."""

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from infnerf_jax.evaluation.complexity import touched, views, virtual_store
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import memory, render_rays
from infnerf_jax.scene.city import layout, rendering
from infnerf_jax.storage import node_store, tree_pages
from infnerf_jax.streaming import store_scene, working_set

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
# name, height over the ground (m), tilt (degrees); the same for all extents.
CAMERAS = (
    ('street 2 m', 2.0, 85.0),
    ('roofs 25 m', 25.0, 70.0),
    ('block 60 m', 60.0, 45.0),
    ('district 300 m', 300.0, 20.0),
    ('city 1500 m', 1500.0, 0.0),
)
# A view's nodes depend on how the planes between nodes cut it: at each height
# cameras stand in so many places of the inner city, each looking elsewhere. A
# mean over 16 still has an error of half a node.
NUM_PLACES, _INNER = 64, 0.6
_TURN = 137.5  # degrees from one place to the next
# Of the first of these, what takes longer.
_NUM_DENSE, _NUM_FLAT = 16, 8
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


def _cameras(extent: float, height: float, tilt: float, num: int = NUM_PLACES):
  """One camera a place."""
  for i, place in enumerate(views.places(num) * _INNER * extent):
    yield views.camera_at(place, height, tilt=tilt, heading=_TURN * i)


def measure_extent(
    doublings: int,
    *,
    grid_size: int,
    render: bool,
    flat: dict[str, Any] | None = None,
    num_places: int = NUM_PLACES,
) -> dict[str, Any]:
  """All cameras in the city of one extent; means over the places.

  Args:
    doublings: of the extent.
    grid_size: cells along a node.
    render: whether pictures are rendered and nodes met by dense rays counted.
    flat: result of another grid size, whose flat partition is the same.
    num_places: cameras of each height.
  """
  octree = city_octree(doublings, grid_size=grid_size)
  extent, scene = BASE_EXTENT * 2**doublings, make_scene(octree)
  frame, row = scene.frame(), scene.store.header.group().nbytes
  tree, measured = tree_pages.ResidentTree(octree), {}
  dense = touched.DenseRays(octree, scene.store.header.sample_aabb)
  for name, height, tilt in CAMERAS:
    cameras = list(_cameras(extent, height, tilt, num_places))
    mean, by_place = _means(
        views.measure(tree, frame, camera, row, repeats=1) for camera in cameras
    )
    if flat is None:
      mean['flat_cells'] = float(np.mean([
          views.flat_cells(tree, frame, camera)
          for camera in cameras[:_NUM_FLAT]
      ]))  # fmt: skip
    else:
      mean['flat_cells'] = flat['views'][name]['flat_cells']
    mean['flat_bytes'] = mean['flat_cells'] * row
    if render:
      met = [
          int(dense.touched(camera, OPTIONS).sum())
          for camera in cameras[:_NUM_DENSE]
      ]
      mean['touched'] = float(np.mean(met))
      mean['touched_parameters'] = mean['touched'] * row / 4
      mean['needed_by_touched'] = float(
          np.median(np.divide(by_place[:_NUM_DENSE], met))
      )
      mean.update(_render(scene, cameras[0]))
    measured[name] = {**mean, 'nodes_by_place': by_place}
  scene.close()
  return {
      'extent': extent,
      'num_nodes': octree.num_nodes,
      'max_level': octree.num_levels - 1,
      'row_bytes': row,
      'views': measured,
  }


def _means(items) -> tuple[dict[str, float], list[int]]:
  """(means of what `views.measure` gave, nodes by place)."""
  items = list(items)
  names = [name for name in items[0] if name != 'levels']
  mean = {name: float(np.mean([i[name] for i in items])) for name in names}
  return mean, [item['nodes'] for item in items]


def _render(scene, camera) -> dict[str, Any]:
  """What a picture took: nodes that it addressed, bytes held, CPU time."""
  draw = lambda: scene.render(
      camera, appearance=np.zeros(0), outputs=('rgb', 'statistics')
  )
  image = draw()
  start = time.process_time()
  draw()
  return {
      'frame_cpu_s': time.process_time() - start,
      'frame_nodes': int(image.statistics.touched_slots.sum()),
      'frame_resident_bytes': (
          scene.frame_report['nodes_resident']
          * scene.store.header.group().nbytes
      ),
      'num_rays': image.num_rays,
  }


def measure_run(loaded) -> dict[str, Any]:
  """The same cameras in a city that a run has trained.

  Pictures have as few pixels to a node's cells as those of the first grid size.

  Args:
    loaded: a LoadedScene of the procedural city.
  """
  octree, extent = loaded.octree, loaded.config.data.city.extent
  frame = working_set.make_frame(
      octree, loaded.spec, loaded.options, loaded.sample_aabb
  )
  tree, measured = tree_pages.ResidentTree(octree), {}
  row = memory.model_bytes(loaded.model.nodes) // octree.num_nodes
  pixel_size = GRID_SIZES[0] / octree.grid_size
  for name, height, tilt in CAMERAS:
    cameras = list(_cameras(extent, height, tilt))
    mean, by_place = _means(
        views.measure(
            tree, frame, camera, row, repeats=1, pixel_size=pixel_size
        )
        for camera in cameras
    )
    draw = lambda camera: loaded.render(
        camera, pixel_size=pixel_size, outputs=('rgb', 'statistics')
    )
    draw(cameras[0])  # compiles
    start = time.process_time()
    images = [draw(camera) for camera in cameras[:_NUM_DENSE]]
    mean['frame_cpu_s'] = (time.process_time() - start) / len(images)
    mean['touched'] = float(np.mean(
        [image.statistics.touched_slots.sum() for image in images]
    ))  # fmt: skip
    measured[name] = {**mean, 'nodes_by_place': by_place}
  return {
      'run': loaded.workdir.name,
      'extent': extent,
      'num_nodes': octree.num_nodes,
      'max_level': octree.num_levels - 1,
      'grid_size': octree.grid_size,
      'num_steps': loaded.num_steps,
      'row_bytes': row,
      'views': measured,
  }


def measure_runs(scenes) -> list[dict[str, Any]]:
  """`measure_run` of those that trained the procedural city, small to large."""
  cities = [s for s in scenes if not s.config.data.path]
  return sorted(map(measure_run, cities), key=lambda found: found['num_nodes'])


def slope_per_doubling(results, name: str, key: str = 'nodes') -> list[float]:
  """What one doubling of n adds to a view, between neighbouring extents."""
  slopes = []
  for small, large in zip(results, results[1:]):
    doublings = np.log2(large['num_nodes'] / small['num_nodes'])
    added = large['views'][name][key] - small['views'][name][key]
    slopes.append(float(added / doublings))
  return slopes


def measure(
    doublings=range(5), *, render: bool = True, num_places: int = NUM_PLACES
) -> dict[int, list[dict[str, Any]]]:
  """All extents, small to large, by the grid size of the nodes.

  Args:
    doublings: of the extent.
    render: whether pictures of the first grid size are rendered.
    num_places: cameras of each height.
  """
  found = {grid_size: [] for grid_size in GRID_SIZES}
  for d in doublings:
    first = None
    for grid_size in GRID_SIZES:
      result = measure_extent(
          d, grid_size=grid_size, render=render and first is None, flat=first,
          num_places=num_places,
      )  # fmt: skip
      first = first or result
      found[grid_size].append(result)
  return found
