"""Part 2: trees of 10^5 to 10^7 nodes from a store that makes itself up."""

import time
from typing import Any

import numpy as np
import psutil

from infnerf_jax.evaluation.complexity import views, virtual_store
from infnerf_jax.render import render_rays
from infnerf_jax.storage import node_store
from infnerf_jax.streaming import store_scene

SIDE = 4.2e6  # metres
MAX_LEVEL = 20  # leaves of 4 m
_GRID_SIZE = 64  # they resolve 3 cm
HEIGHTS = (2.0, 10.0, 50.0, 250.0, 1e3, 1e4, 1e5, 1e6)
SIZES = (1e5, 1e6, 1e7)
MAX_MEMORY_GB = 0.6
_OPENINGS = 5
OPTIONS = render_rays.RenderOptions(num_samples=(32, 16), near=1e-8)


def make_values(num_nodes: float) -> virtual_store.VirtualStore:
  """A made-up store of about so many nodes."""
  reach = virtual_store.reach_for(num_nodes, MAX_LEVEL)
  header = virtual_store.make_header(
      side=SIDE, height=2.0, grid_size=_GRID_SIZE
  )
  tree = virtual_store.VirtualTree(reach, MAX_LEVEL)
  return virtual_store.VirtualStore(tree, header)


def _resident() -> int:
  return psutil.Process().memory_info().rss


def _open(values) -> float:
  """CPU seconds of opening a store."""
  start = time.process_time()
  node_store.NodeStore(values)
  return time.process_time() - start


def measure_size(num_nodes: float, *, render: bool) -> dict[str, Any]:
  """Opening, selecting and reading views of one tree."""
  values = make_values(num_nodes)
  before = _resident()
  opening = min(_open(values) for _ in range(_OPENINGS))
  reads, read = values.num_reads, values.bytes_read
  store = node_store.NodeStore(values)
  reads, read = values.num_reads - reads, values.bytes_read - read
  scene = store_scene.StoreScene(
      store, options=OPTIONS, max_memory_gb=MAX_MEMORY_GB
  )
  frame, row = scene.frame(), store.header.group().nbytes
  measured = {}
  for height in HEIGHTS:
    pages, before_pages = store.tree.pages_read, values.bytes_read
    camera = views.camera_above([1.0, 1.0, 0.0], height, tilt=30.0)
    first = time.process_time()
    item = views.measure(store.tree, frame, camera, row, repeats=1)
    item['first_ms'] = 1e3 * (time.process_time() - first)
    item = {**item, **views.measure(store.tree, frame, camera, row)}
    item['pages_read'] = store.tree.pages_read - pages
    item['page_bytes_read'] = values.bytes_read - before_pages
    measured[f'{height:g} m'] = item
    if render:
      item.update(_render(scene, camera))
  result = {
      'num_nodes': store.header.num_nodes,
      'max_level': MAX_LEVEL,
      'row_bytes': row,
      'opening_ms': 1e3 * opening,
      'opening_reads': reads,
      'opening_bytes': read,
      'tree_bytes': store.tree.nbytes,
      'process_bytes': _resident(),
      'process_bytes_added': _resident() - before,
      'views': measured,
  }
  scene.close()
  return result


def _render(scene, camera) -> dict[str, Any]:
  """Reads and renders a view: decoding, checksums, positions at all levels."""
  image = scene.render(
      camera, appearance=np.zeros(0), pixel_size=2.0, ray_block=1024,
      outputs=('rgb', 'statistics'),
  )  # fmt: skip
  report, memory = scene.frame_report, scene.memory_report()
  assert np.isfinite(image.rgb).all() and not report['damaged']
  return {
      'touched': int(image.statistics.touched_slots.sum()),
      'deepest_level': int(
          np.flatnonzero(image.statistics.samples_by_level).max()
      ),
      'rows_read': report['rows_read'],
      'resident_bytes': report['nodes_resident'] * memory['rows']['bytes'],
      'cap_share_used': memory['device']['utilisation'],
  }


def measure(sizes=SIZES, *, render: bool = True) -> list[dict[str, Any]]:
  """All sizes, small to large."""
  # What compiling and caches take must not count as the first size's.
  measure_size(1e3, render=render)
  return [measure_size(size, render=render) for size in sizes]


def measure_zoom(
    num_nodes: float = SIZES[-1], *, num_frames: int = 24, ahead: bool = True
) -> dict[str, Any]:
  """A zoom from 10 km to 2 m: how long the pictures waited for nodes.

  Args:
    num_nodes: of the tree.
    num_frames: views.
    ahead: whether the next view's nodes are read while one is computed.

  Returns:
    {'wait_share', 'first_frame_s', 'rows_read', 'level_bias_max'}; the wait is
    a share of reading and rendering, without the first view, which compiles.
  """
  store = node_store.NodeStore(make_values(num_nodes))
  scene = store_scene.StoreScene(store, options=OPTIONS)
  heights = 1e4 * (2.0 / 1e4) ** np.linspace(0, 1, num_frames)
  cameras = [
      views.camera_above([1.0, 1.0, 0.0], height, tilt=30.0)
      for height in heights
  ]
  reports, start, first = [], time.perf_counter(), None
  for camera, following in zip(cameras, cameras[1:] + [None]):
    scene.render(
        camera, appearance=np.zeros(0), pixel_size=2.0, ray_block=2048,
        outputs=('rgb',), following=following if ahead else None,
    )  # fmt: skip
    first = first or time.perf_counter() - start
    reports.append(scene.frame_report)
  scene.close()
  waited = sum(r['read_seconds'] for r in reports[1:])
  rendered = sum(r['render_seconds'] for r in reports[1:])
  return {
      'wait_share': waited / (waited + rendered),
      'first_frame_s': first,
      'rows_read': sum(r['rows_read'] for r in reports),
      'level_bias_max': max(r['level_bias'] for r in reports),
  }
