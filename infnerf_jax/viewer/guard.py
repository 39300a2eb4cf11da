"""Who may connect, and what a message may weigh.

A browser lets any page on the internet open a socket to this machine's own
address; the page's origin, which it cannot forge, tells such a page from the
viewer's. A name of an attacker's that resolves to 127.0.0.1 is told by the
Host. Beyond this machine a token is asked for.
"""

import hmac
import ipaddress
import urllib.parse
from typing import Mapping, NamedTuple

from infnerf_jax import errors

# Cameras and clicks take hundreds of bytes.
MAX_MESSAGE_BYTES = 256 * 1024
MIN_TOKEN = 8


class Verdict(NamedTuple):
  """Whether a request is let in.

  Attributes:
    status: HTTP's, 200 lets in.
    reason: a line for whoever asked.
    cookie: Set-Cookie of the answer, None without one.
  """

  status: int
  reason: str
  cookie: str | None = None


class Guard(NamedTuple):
  """What requests are held against.

  Attributes:
    token: that every client must show; '' asks for none.
    port: of the server.
  """

  token: str
  port: int

  @property
  def cookie_name(self) -> str:
    """Cookies know no ports: each server has a name of its own."""
    return f'infnerf_view_{self.port}'


def is_loopback(host: str) -> bool:
  """Whether a host's name or address means this machine alone."""
  if host == 'localhost' or host.endswith('.localhost'):
    return True
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return False


def check_options(host: str, token: str) -> None:
  """Refuses a server that strangers could look at.

  Args:
    host: to listen on.
    token: '' is none.

  Raises:
    InputError: another host than loopback without a token, or a weak token.
  """
  if not token and not is_loopback(host):
    raise errors.InputError(
        f'--host: got {host} without --token, expected a token: whoever'
        ' reaches this address could look at the scene'
    )
  if token and (
      len(token) < MIN_TOKEN
      or not all(c.isascii() and (c.isalnum() or c in '-_.~') for c in token)
  ):
    raise errors.InputError(
        f'--token: got {len(token)} characters, expected at least {MIN_TOKEN}'
        ' letters, digits or -_.~'
    )


def _host_of(netloc: str) -> str:
  """A host without its port; '' where it is no host."""
  try:
    return urllib.parse.urlsplit(f'//{netloc}').hostname or ''
  except ValueError:
    return ''


def _netloc(origin: str) -> str | None:
  """Host and port of an origin; None where it has none."""
  try:
    return urllib.parse.urlsplit(origin).netloc or None
  except ValueError:
    return None


def _cookies(header: str) -> dict[str, str]:
  pairs = (part.strip().partition('=') for part in header.split(';'))
  return {name: value for name, _, value in pairs}


def check(guard: Guard, path: str, headers: Mapping[str, str]) -> Verdict:
  """Decides about a request, of a page or of a socket.

  Args:
    guard: what it is held against.
    path: with its query.
    headers: `get` finds them whatever their case.

  Returns:
    Verdict.
  """
  host, origin = headers.get('Host') or '', headers.get('Origin')
  if origin is not None:
    # A page of another site; `null` (a file, a sandbox) is one too.
    if _netloc(origin) != host:
      return Verdict(403, 'this page may not open the viewer')
  if not guard.token:
    if not is_loopback(_host_of(host)):
      return Verdict(403, 'open the viewer as http://127.0.0.1')
    return Verdict(200, '')
  same = lambda value: hmac.compare_digest(value.encode(), guard.token.encode())
  query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
  if same(query.get('token', [''])[0]):
    cookie = (
        f'{guard.cookie_name}={guard.token}; Path=/; HttpOnly; SameSite=Strict'
    )
    return Verdict(200, '', cookie)
  if same(_cookies(headers.get('Cookie') or '').get(guard.cookie_name, '')):
    return Verdict(200, '')
  return Verdict(401, 'open the viewer with ?token=...')
