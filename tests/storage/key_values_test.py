"""Reading over http that stumbles: bounded retries, nothing wrong believed."""

import contextlib
import http.server
import pathlib
import threading
import time
import urllib.parse

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.storage import key_values, node_store
from tests import tiny_store

QUICK = key_values.ReadPolicy(
    attempts=4, first_delay=0.01, max_delay=0.05, timeout=1.0
)


class _Handler(http.server.BaseHTTPRequestHandler):
  """Files of a folder; `server.trouble(path, count)` says what goes wrong."""

  protocol_version = 'HTTP/1.1'

  def log_message(self, *unused):
    pass

  def do_GET(self):  # noqa: N802
    path = urllib.parse.unquote(self.path).lstrip('/')
    server = self.server
    with server.lock:
      count = server.counts[path] = server.counts.get(path, 0) + 1
    trouble = server.trouble(path, count)
    time.sleep(server.latency)
    file = pathlib.Path(server.folder, path)
    if trouble == 'error':
      self._answer(500, b'no')
    elif trouble == 'hang':
      server.stop.wait(20)
      self.close_connection = True
    elif not file.is_file():
      self._answer(404, b'')
    elif trouble == 'short':
      data = file.read_bytes()
      self._head(200, len(data))
      self.wfile.write(data[: len(data) // 2])
      self.close_connection = True
    elif trouble == 'wrong':
      data = bytearray(file.read_bytes())
      data[len(data) // 2] ^= 1
      self._answer(200, bytes(data))
    else:
      self._answer(200, file.read_bytes())

  def _head(self, status, length):
    self.send_response(status)
    self.send_header('Content-Length', str(length))
    self.end_headers()

  def _answer(self, status, data):
    with contextlib.suppress(OSError):
      self._head(status, len(data))
      self.wfile.write(data)


@contextlib.contextmanager
def serve(folder, trouble=lambda path, count: None, latency=0.0):
  """A loopback server of a folder; yields (address, server)."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  server.daemon_threads = True
  server.folder, server.trouble, server.latency = folder, trouble, latency
  server.counts, server.lock = {}, threading.Lock()
  server.stop = threading.Event()
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_address[1]}/', server
  finally:
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_over_http(tmp_path):
  model, _, _ = tiny_store.make_store(tmp_path)
  with serve(tmp_path) as (address, _):
    store = node_store.open_store(address, QUICK)
    row = store.read_row(1)
    np.testing.assert_array_equal(row['table'], model.nodes['table'][0])
    assert not node_store.verify(store)
    with pytest.raises(errors.InputError, match='found no store.json'):
      node_store.open_store(address + 'elsewhere/', QUICK)


@pytest.mark.parametrize('trouble', ['error', 'hang', 'short'])
def test_what_passes_is_asked_for_again(tmp_path, trouble):
  """The first two answers to everything fail."""
  tiny_store.make_store(tmp_path)
  fails = lambda path, count: trouble if count <= 2 else None
  with serve(tmp_path, fails) as (address, server):
    store = node_store.open_store(address, QUICK._replace(timeout=0.3))
    assert store.read_row(1)['table'].shape == (
        store.header.group().fields[0].shape
    )
    assert max(server.counts.values()) <= 8


def test_what_stays_is_given_up_in_time(tmp_path):
  tiny_store.make_store(tmp_path)
  fails = lambda path, count: 'hang' if path.startswith('nodes') else None
  with serve(tmp_path, fails) as (address, server):
    store = node_store.open_store(address, QUICK._replace(timeout=0.2))
    start = time.perf_counter()
    with pytest.raises(key_values.UnreachableError, match='no answer within'):
      store.read_row(1)
    # Four reads of 0.2 s and three pauses.
    assert time.perf_counter() - start < 10
    assert sum(n for p, n in server.counts.items() if 'nodes' in p) <= 8


def test_flipped_bits_over_http_are_found(tmp_path):
  tiny_store.make_store(tmp_path)
  fails = lambda path, count: 'wrong' if path.startswith('nodes') else None
  with serve(tmp_path, fails) as (address, _):
    damage = node_store.verify(node_store.open_store(address, QUICK))
    assert len(damage) == 17
    assert all('crc32c' in d['reason'] for d in damage)


def test_nobody_there_is_one_line():
  policy = QUICK._replace(attempts=2)
  with pytest.raises(errors.InputError, match='expected a node store') as found:
    node_store.open_store('http://127.0.0.1:9/', policy)
  assert '\n' not in str(found.value)
