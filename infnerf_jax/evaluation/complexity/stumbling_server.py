"""A loopback http server of a folder that is slow and fails on demand."""

import contextlib
import http.server
import pathlib
import threading
import time
import urllib.parse
from typing import Callable, Iterator

# What may go wrong with a request.
TROUBLES = ('error', 'hang', 'short', 'wrong')
_HANG_SECONDS = 20.0
Trouble = Callable[[str, int], str | None]


class _Handler(http.server.BaseHTTPRequestHandler):
  """Files of the server's folder."""

  protocol_version = 'HTTP/1.1'
  # A head in one packet and its data in the next wait for each other's
  # acknowledgement otherwise, 40 ms each time.
  disable_nagle_algorithm = True

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
      server.stop.wait(_HANG_SECONDS)
      self.close_connection = True
    elif not file.is_file():
      self._answer(404, b'')
    elif trouble == 'short':
      data = file.read_bytes()
      self._answer(200, data[: len(data) // 2], length=len(data))
      self.close_connection = True
    elif trouble == 'wrong':
      data = bytearray(file.read_bytes())
      data[len(data) // 2] ^= 1
      self._answer(200, bytes(data))
    else:
      self._answer(200, file.read_bytes())

  def _answer(self, status, data, length=None):
    with contextlib.suppress(OSError):
      self.send_response(status)
      self.send_header('Content-Length', str(length or len(data)))
      self.end_headers()
      self.wfile.write(data)


@contextlib.contextmanager
def serve(
    folder,
    trouble: Trouble | None = None,
    latency: float = 0.0,
) -> Iterator[tuple[str, http.server.ThreadingHTTPServer]]:
  """Serves a folder on the loopback interface.

  Args:
    folder: what is served.
    trouble: what goes wrong with the `count`th request of a path, out of
      TROUBLES or None: a status 500, no answer, half of an answer, a flipped
      bit; None: nothing ever.
    latency: seconds before every answer.

  Yields:
    (address, server); `server.counts` has the requests by path, and `trouble`
    and `latency` may be set anew.
  """
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  server.daemon_threads = True
  server.folder, server.latency = folder, latency
  server.trouble = trouble or (lambda path, count: None)
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
