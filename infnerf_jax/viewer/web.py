"""viser's web server behind a guard, with a second socket for the pointer.

viser offers no hook for who may connect, how large a message may be, and what
else is served. Its one call of `websockets.asyncio.server.serve` is where all
of that is decided, so that call is wrapped while the server starts. A viser
that no longer makes it is refused rather than left open.
"""

import base64
import contextlib
import http
import io
import json
import pathlib
import socket
import urllib.parse
from typing import Any, Callable

import viser
import websockets.asyncio.server
import websockets.exceptions
from absl import logging
from PIL import Image
from viser import _messages
from websockets.datastructures import Headers
from websockets.http11 import Response

from infnerf_jax import errors
from infnerf_jax.viewer import guard as guard_lib

POINTER_PATH = '/pointer'
_MAX_CLIENTS = 64
_SCRIPT = pathlib.Path(__file__).with_name('page.js')


def check_address(host: str, port: int, token: str) -> None:
  """Refuses what `start_server` would refuse."""
  guard_lib.check_options(host, token)
  check_port(host, port)


def check_port(host: str, port: int) -> None:
  """Refuses an address that cannot be listened on.

  viser would take the next port in silence, or never return.

  Args:
    host: name or address.
    port: 0 is any free one.

  Raises:
    InputError: in use, not allowed, or no address of this machine.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
      # As the server does it: sockets that are closing do not count.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(address)
      probe.listen(1)
  except (OSError, UnicodeError) as e:
    reason = getattr(e, 'strerror', None) or str(e)
    raise errors.InputError(
        f'--host, --port: got {host}:{port}: {reason}, expected an address of'
        ' this machine that is free'
    ) from None


def _refusal(verdict: guard_lib.Verdict) -> Response:
  body = f'{verdict.reason}\n'.encode()
  headers = Headers()
  headers['Content-Type'] = 'text/plain; charset=utf-8'
  headers['Content-Length'] = str(len(body))
  headers['Connection'] = 'close'
  return Response(
      verdict.status, http.HTTPStatus(verdict.status).phrase, headers, body
  )


def first_picture(rgb) -> bytes:
  """A picture [H, W, 3] uint8 as the element that a page shows first."""
  file = io.BytesIO()
  Image.fromarray(rgb).save(file, 'JPEG', quality=85)
  data = base64.b64encode(file.getvalue())
  # Timed in Chromium by its name; page.js takes it away.
  return (
      b'<img id="infnerf-first" elementtiming="infnerf-first" alt=""'
      b' style="position:fixed;inset:0;width:100%;height:100%;'
      b'object-fit:cover;z-index:1;pointer-events:none;transition:opacity .3s"'
      b' src="data:image/jpeg;base64,' + data + b'">'
  )


def _with_ours(response: Response, first: bytes) -> Response:
  """The page with our script before its own, and a first picture."""
  script = b'<script>' + _SCRIPT.read_bytes() + b'</script>'
  body = response.body
  for tag, ours in ((b'<head>', script), (b'<body>', first)):
    if tag not in body:
      raise RuntimeError(
          f'viser {viser.__version__}: its page has no {tag.decode()}'
      )
    body = body.replace(tag, tag + ours, 1)
  response.headers.pop('Content-Length', None)
  response.headers['Content-Length'] = str(len(body))
  # The address may hold the token.
  response.headers['Referrer-Policy'] = 'no-referrer'
  response.headers['Cache-Control'] = 'no-store'
  response.body = body
  return response


def _process_request(original, guard: guard_lib.Guard, first: bytes):
  """A wrapper of viser's answer to requests."""

  def process(connection, request):
    verdict = guard_lib.check(guard, request.path, request.headers)
    if verdict.status != 200:
      return _refusal(verdict)
    path = urllib.parse.urlsplit(request.path).path
    is_page = path in ('', '/', '/index.html')
    if is_page:
      with contextlib.suppress(KeyError):
        del request.headers['Accept-Encoding']  # the page as it is
    response = original(connection, request)
    if response is not None and response.status_code == 200 and is_page:
      response = _with_ours(response, first)
      if verdict.cookie:
        response.headers['Set-Cookie'] = verdict.cookie
    return response

  return process


def _handler(original, answer: Callable[[dict[str, Any]], Any]):
  """A wrapper of viser's sockets that adds the pointer's."""
  num_open = 0

  async def handle(connection):
    nonlocal num_open
    url = urllib.parse.urlsplit(connection.request.path)
    if num_open >= 2 * _MAX_CLIENTS:
      await connection.close(1013, 'too many clients')
      return
    num_open += 1
    try:
      if url.path == POINTER_PATH:
        await _serve_pointer(connection, answer)
      else:
        await original(connection)
    except websockets.exceptions.ConnectionClosed:
      pass
    except Exception as error:
      # What is no message of viser's: the client's fault, and its end.
      logging.info('client closed: %s: %s', type(error).__name__, error)
      await connection.close(1003, 'not understood')
    finally:
      num_open -= 1

  return handle


async def _serve_pointer(connection, answer):
  """Answers where the pointer is with what is there."""
  async for message in connection:
    place = json.loads(message)
    if not isinstance(place, dict):
      raise ValueError('got no object')
    await connection.send(json.dumps(answer(place)))


@contextlib.contextmanager
def _wrapped_serve(guard, answer, first):
  """Wraps the call by which viser opens its server."""
  plain, calls = websockets.asyncio.server.serve, []

  def serve(handler, *args, process_request, **options):
    calls.append(args)
    options['max_size'] = guard_lib.MAX_MESSAGE_BYTES
    # A client that does not read fills no memory: viser keeps its latest.
    return plain(
        _handler(handler, answer),
        *args,
        process_request=_process_request(process_request, guard, first),
        **options,
    )

  websockets.asyncio.server.serve = serve
  try:
    yield calls
  finally:
    websockets.asyncio.server.serve = plain


def start_server(
    host: str,
    port: int,
    *,
    token: str,
    label: str,
    answer: Callable[[dict[str, Any]], Any],
    first: bytes = b'',
) -> viser.ViserServer:
  """Starts viser's server behind the guard.

  Args:
    host: to listen on.
    port: 0 is any free one.
    token: '' asks for none.
    label: of the control panel.
    answer: takes whose page asks (`session`) and where its pointer is (`u`,
      `v`, or nothing); returns JSON for the page. Runs in the server's event
      loop.
    first: see `first_picture`.

  Returns:
    ViserServer.

  Raises:
    InputError: see `guard.check_options` and `check_port`.
  """
  check_address(host, port, token)
  if port == 0:
    port = _free_port(host)
  with (
      _wrapped_serve(guard_lib.Guard(token, port), answer, first) as calls,
      # Its greeting has the address without the token.
      contextlib.redirect_stdout(io.StringIO()),
  ):
    server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
  if not calls:
    server.stop()
    raise RuntimeError(
        f'viser {viser.__version__} starts its server in a way that is not'
        ' known here: it would be open to strangers'
    )
  if server.get_port() != port:
    server.stop()
    raise errors.InputError(
        f'--port: got {port}, which was taken just now, expected a free one'
    )
  # Any client could ask for a tunnel that opens the viewer to the internet.
  server._websock_server.unregister_handler(_messages.ShareUrlRequest)
  deny_uploads(server._websock_server)
  server.gui.configure_theme(show_share_button=False, show_logo=False)
  return server


def deny_uploads(connection) -> None:
  """No panel takes files, but a client may send some, and viser keeps them.

  Args:
    connection: viser's, of the server or of a client.
  """
  for kind in (_messages.FileTransferStartUpload, _messages.FileTransferPart):
    connection.unregister_handler(kind)


def _free_port(host: str) -> int:
  """A port that is free now."""
  family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
  with socket.socket(family, socket.SOCK_STREAM) as probe:
    probe.bind((host, 0))
    return probe.getsockname()[1]
