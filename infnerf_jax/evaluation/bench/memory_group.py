"""A control group of Linux: bounds what a process and its page cache take."""

import contextlib
import os
import pathlib
from typing import Iterator

_ROOT = pathlib.Path('/sys/fs/cgroup')
# {what: file} of version 1 and of version 2.
_FILES = {
    1: ('memory.limit_in_bytes', 'memory.max_usage_in_bytes', 'rss', 'cache'),
    2: ('memory.max', 'memory.peak', 'anon', 'file'),
}


class MemoryGroup:
  """A group whose memory is bounded.

  Attributes:
    path: its folder.
  """

  def __init__(self, path):
    """Takes a folder that `make_group` made."""
    self.path = pathlib.Path(path)
    version = 1 if (self.path / _FILES[1][0]).exists() else 2
    self._limit, self._peak, self._anonymous, self._cached = _FILES[version]

  def set_limit(self, num_bytes: int) -> None:
    """Anonymous memory and page cache together."""
    (self.path / self._limit).write_text(str(int(num_bytes)))

  def enter(self) -> None:
    """Puts this process into the group."""
    (self.path / 'cgroup.procs').write_text(str(os.getpid()))

  def usage(self) -> dict[str, int]:
    """Bytes now: `anonymous` and `cached`."""
    lines = (self.path / 'memory.stat').read_text().splitlines()
    stat = dict(line.split() for line in lines)
    return {
        'anonymous': int(stat[self._anonymous]),
        'cached': int(stat[self._cached]),
    }

  def peak(self) -> int:
    """Most bytes so far, page cache among them."""
    return int((self.path / self._peak).read_text())


def _own_folder() -> pathlib.Path:
  """Of the memory group that this process is in."""
  for line in pathlib.Path('/proc/self/cgroup').read_text().splitlines():
    _, controllers, path = line.split(':', 2)
    if 'memory' in controllers.split(','):
      return _ROOT / 'memory' / path.lstrip('/')
    if not controllers and (_ROOT / 'cgroup.controllers').exists():
      return _ROOT / path.lstrip('/')
  raise OSError('no memory control group')


@contextlib.contextmanager
def make_group(limit_bytes: float) -> Iterator[MemoryGroup | None]:
  """A group below this process's own; None where none can be made.

  Args:
    limit_bytes: of all its processes and their page cache.
  """
  try:
    path = _own_folder() / f'infnerf_{os.getpid()}'
    path.mkdir()
  except OSError:
    yield None
    return
  try:
    group = MemoryGroup(path)
    try:
      group.set_limit(int(limit_bytes))
      group.usage()
    except (OSError, KeyError):
      group = None
    yield group
  finally:
    path.rmdir()
