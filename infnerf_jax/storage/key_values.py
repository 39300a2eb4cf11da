"""Keys and values on a disk, over http or in a bucket, with bounded retries.

TensorStore's drivers do the transport; what is retried, for how long, and when
a value counts as missing or out of reach is decided here, alike for all.
"""

import errno
import pathlib
import random
import time
from typing import Iterator, NamedTuple, Protocol

import tensorstore as ts

from infnerf_jax import errors


class MissingError(KeyError):
  """There is no such key."""


class UnreachableError(OSError):
  """All attempts failed; a later one may not."""


class ReadPolicy(NamedTuple):
  """How long a value is asked for.

  Attributes:
    attempts: at most this many reads.
    first_delay: seconds before the second; doubles each time, with jitter.
    max_delay: seconds.
    timeout: seconds of a single read.
  """

  attempts: int = 4
  first_delay: float = 0.05
  max_delay: float = 2.0
  timeout: float = 10.0


class KeyValues(Protocol):
  """What a node store reads from; a virtual one may make values up."""

  location: str

  def read(self, key: str) -> bytes:
    """The value; MissingError or UnreachableError without one."""


class TensorStoreKeyValues:
  """Values of a folder, an http server or a bucket."""

  def __init__(self, location, policy: ReadPolicy = ReadPolicy()):
    """Opens a location; nothing is read yet.

    Args:
      location: local folder, or a URL: http://, https://, s3://, gs://,
        memory://.
      policy: of reads.

    Raises:
      InputError: no such kind of location.
    """
    self.location = str(location)
    self.policy = policy
    self.num_retries = 0
    self._is_local = '://' not in self.location
    try:
      self._store = ts.KvStore.open(self._spec()).result()
    except ValueError as e:
      raise errors.InputError(
          f'{self.location}: {str(e).splitlines()[0]}, expected a folder or a'
          ' http, s3 or gs address'
      ) from e

  def spec(self) -> ts.KvStore.Spec:
    """TensorStore's description of the place."""
    return self._store.spec()

  def _spec(self):
    if self._is_local:
      path = pathlib.Path(self.location).absolute()
      return {'driver': 'file', 'path': f'{path}/'}
    url = self.location.rstrip('/') + '/'
    scheme = url.partition('://')[0]
    if scheme in ('http', 'https'):
      # Retries are counted and bounded here.
      return {
          'driver': 'http',
          'base_url': url,
          'http_request_retries': {
              'max_retries': 1,
              'initial_delay': '10ms',
              'max_delay': '20ms',
          },
      }
    return url

  def read(self, key: str) -> bytes:
    """Reads a value.

    Args:
      key: relative path.

    Returns:
      bytes.

    Raises:
      MissingError: there is none.
      UnreachableError: every attempt failed or timed out.
    """
    delay, reason = self.policy.first_delay, ''
    for attempt in range(self.policy.attempts):
      if attempt:
        self.num_retries += 1
        # Jitter keeps many readers from knocking all at once.
        time.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(2 * delay, self.policy.max_delay)
      future = self._store.read(key)
      try:
        result = future.result(timeout=self.policy.timeout)
      except TimeoutError:
        future.cancel()
        reason = f'no answer within {self.policy.timeout:g} s'
        continue
      except Exception as e:  # TensorStore raises by status, many types.
        reason = str(e).strip().splitlines()[0][:200]
        continue
      if result.state != 'value':
        raise MissingError(f'{self.location}: {key}')
      return result.value
    raise UnreachableError(f'{self.location}: {key}: {reason}')

  def write(self, key: str, value: bytes) -> None:
    """Replaces a value at once (a rename on a disk)."""
    try:
      self._store.write(key, value).result()
    except ValueError as e:
      raise _write_error(self.location, key, e) from e

  def write_many(self, items) -> None:
    """Writes (key, value) pairs, several under way at a time."""
    pending = []
    for key, value in items:
      pending.append((key, self._store.write(key, value)))
      if len(pending) > 16:
        self._finish(*pending.pop(0))
    for item in pending:
      self._finish(*item)

  def _finish(self, key, future) -> None:
    try:
      future.result()
    except ValueError as e:
      raise _write_error(self.location, key, e) from e

  def delete(self, key: str) -> None:
    """Removes a value; absent ones are no error."""
    self._store.write(key, None).result()

  def keys(self, prefix: str = '') -> Iterator[str]:
    """Keys under a prefix."""
    # Keys are ASCII: this bounds all that begin with the prefix.
    bounds = ts.KvStore.KeyRange(prefix, prefix + '\x7f') if prefix else None
    found = self._store.list(bounds).result()
    return (key.decode() for key in found)


def _write_error(location, key, error) -> OSError:
  """A failed write as the system's own error."""
  text = str(error).strip().splitlines()[0]
  full = 'No space left' in text or 'RESOURCE_EXHAUSTED' in text
  return OSError(
      errno.ENOSPC if full else errno.EIO,
      f'disk full: {key} was not written' if full else text,
      location,
  )
