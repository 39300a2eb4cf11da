"""How soon a view shows: its first and its final picture, by where nodes are.

The same made-up store lies in a folder and behind a loopback http server that
answers late, and then also fails: statuses 500, half answers, no answers.
"""

import tempfile
import time
import zlib
from typing import Any

import numpy as np

from infnerf_jax.evaluation.complexity import (
  stumbling_server,
  views,
  virtual_store,
)  # fmt: skip
from infnerf_jax.render import render_rays
from infnerf_jax.storage import key_values, node_store, tree_pages
from infnerf_jax.streaming import store_scene

LATENCY = 0.02  # seconds
POLICY = key_values.ReadPolicy(timeout=1.0)
OPTIONS = render_rays.RenderOptions(num_samples=(32, 16), near=1e-5)
# Share of requests that go wrong, by how.
FAILURES = {'error': 0.05, 'short': 0.03, 'hang': 0.01}
_SIDE, _MAX_LEVEL, _GRID_SIZE = 4000.0, 10, 64
_HEIGHT, _TILT = 20.0, 50.0
_STEP, _PREVIEW_LEVEL = 32, 2


def write_store(folder, num_nodes: float) -> int:
  """Writes a made-up store into a folder; returns its number of nodes."""
  reach = virtual_store.reach_for(num_nodes, _MAX_LEVEL)
  made_up = virtual_store.VirtualStore(
      virtual_store.VirtualTree(reach, _MAX_LEVEL),
      virtual_store.make_header(side=_SIDE, height=3.0, grid_size=_GRID_SIZE),
  )
  store = node_store.NodeStore(made_up)
  names = [tree_pages.page_name(tree_pages.ROOT_KEY, virtual_store.GENERATION)]
  for page in store.walk():
    names += map(tree_pages.page_name, page.page_keys, page.page_versions)
    names += [
        node_store.chunk_name(node_store.PARAMETERS, int(key), int(version))
        for key, version in zip(page.keys, page.versions)
    ]
  names.append(node_store.HEADER)
  key_values.TensorStoreKeyValues(folder).write_many(
      (name, made_up.read(name)) for name in names
  )
  return store.header.num_nodes


def failing(path: str, count: int) -> str | None:
  """What goes wrong with a request: the same in every run."""
  if path == node_store.HEADER:
    return None
  draw = zlib.crc32(f'{path} {count}'.encode()) / 2**32
  for trouble, share in FAILURES.items():
    if draw < share:
      return trouble
    draw -= share
  return None


def measure_location(location) -> dict[str, Any]:
  """Opens a store and shows one view of it, cold.

  Args:
    location: folder or address.

  Returns:
    `first_s`, `final_s` from opening the store, `pictures`, `rows_read`,
    and `unreachable` nodes of the final picture.
  """
  values = key_values.TensorStoreKeyValues(location, POLICY)
  start = time.perf_counter()
  scene = store_scene.StoreScene(node_store.NodeStore(values), options=OPTIONS)
  camera = views.camera_above([3.0, 3.0, 0.0], _HEIGHT, tilt=_TILT)
  first, steps = None, []
  for step in scene.render_progressively(
      camera, appearance=np.zeros(0), pixel_size=2.0, ray_block=1024,
      outputs=('rgb',), step=_STEP, preview_level=_PREVIEW_LEVEL,
  ):  # fmt: skip
    first = first or time.perf_counter() - start
    steps.append(step)
  final = time.perf_counter() - start
  scene.close()
  return {
      'first_s': first,
      'final_s': final,
      'pictures': len(steps),
      'rows_read': sum(step.report['rows_read'] for step in steps),
      'unreachable': len(steps[-1].report['unreachable']),
  }


def measure(num_nodes: float = 600) -> dict[str, Any]:
  """Latencies by where the store is.

  Args:
    num_nodes: of the store, about.

  Returns:
    {name: result of `measure_location`}; those of a server have
    `repeated_requests`.
  """
  with tempfile.TemporaryDirectory() as folder:
    write_store(folder, num_nodes)
    measure_location(folder)  # compiles
    found = {'folder': measure_location(folder)}
    late = f'http, {1e3 * LATENCY:g} ms late'
    for name, trouble in ((late, None), (f'{late}, failing', failing)):
      served = stumbling_server.serve(folder, trouble, LATENCY)
      with served as (address, server):
        found[name] = measure_location(address)
        # TensorStore repeats some by itself.
        found[name]['repeated_requests'] = sum(
            count - 1 for count in server.counts.values()
        )
  return found
