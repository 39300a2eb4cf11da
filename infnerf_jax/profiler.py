"""Times and peak memory of named sections, above all of rendering.

  for camera in cameras:
    with profiler.profile('render') as section:
      section.block(scene.render(camera))
  print(profiler.summary())

Arrays of JAX are computed in the background; `block` waits for them, so that a
section's time is that of its results.
"""

import pathlib
import resource
import sys
import time
from typing import NamedTuple

import jax

_STATUS = pathlib.Path('/proc/self/status')
_CLEAR = pathlib.Path('/proc/self/clear_refs')


class Row(NamedTuple):
  """Statistics of one section.

  Attributes:
    name: section.
    calls: how often it ran.
    mean_ms: milliseconds, mean.
    min_ms: milliseconds, fastest.
    peak_bytes: most host memory resident in the process while it ran; since
      the process began where the system cannot reset the mark.
    device_peak_bytes: most device memory in use, as the device counts it since
      the process began; None where it does not (CPU).
    frames_per_second: 1000 / mean_ms.
  """

  name: str
  calls: int
  mean_ms: float
  min_ms: float
  peak_bytes: int
  device_peak_bytes: int | None
  frames_per_second: float


class Section:
  """A section that is running; made by `Profiler.profile`."""

  def __init__(self, profiler: 'Profiler', name: str):
    """A section of `profiler` called `name`; entered by `with`."""
    self._profiler = profiler
    self._name = name
    self._peak = 0
    self._start = 0.0

  def block(self, value):
    """Waits for every array in a pytree and returns it."""
    return jax.block_until_ready(value)

  def __enter__(self):
    self._profiler._enter(self)
    self._start = time.perf_counter()
    return self

  def __exit__(self, error_type, *unused):
    seconds = time.perf_counter() - self._start
    self._profiler._exit(self)
    if error_type is None:
      self._profiler._add(self._name, seconds, self._peak)

  def raise_peak(self, num_bytes: int) -> None:
    """Takes note of a peak, in bytes, that was reached while it ran."""
    self._peak = max(self._peak, num_bytes)


class Profiler:
  """Collects sections by name; sections may nest. For one thread."""

  def __init__(self):
    """Starts with no sections."""
    self._seconds: dict[str, list[float]] = {}
    self._peaks: dict[str, int] = {}
    self._running: list[Section] = []

  def profile(self, name: str) -> Section:
    """A section to be entered by `with`; one that raises is not counted."""
    return Section(self, name)

  def reset(self) -> None:
    """Forgets all finished sections."""
    self._seconds.clear()
    self._peaks.clear()

  def rows(self) -> list[Row]:
    """Statistics in the order in which sections first ended."""
    device_peak = device_peak_bytes()
    rows = []
    for name, seconds in self._seconds.items():
      mean = sum(seconds) / len(seconds)
      rows.append(
          Row(
              name=name,
              calls=len(seconds),
              mean_ms=1e3 * mean,
              min_ms=1e3 * min(seconds),
              peak_bytes=self._peaks[name],
              device_peak_bytes=device_peak,
              frames_per_second=1 / max(mean, 1e-12),
          )
      )
    return rows

  def summary(self) -> str:
    """The rows as a table in text."""
    width = max([len('section'), *(len(name) for name in self._seconds)])
    lines = [
        f'{"section":{width}}  {"calls":>6}  {"mean ms":>10}  {"min ms":>10}'
        f'  {"frames/s":>9}  {"peak MB":>8}  {"device MB":>9}'
    ]
    for row in self.rows():
      device = row.device_peak_bytes
      device = '-' if device is None else f'{device / 1e6:.0f}'
      lines.append(
          f'{row.name:{width}}  {row.calls:6d}  {row.mean_ms:10.2f}'
          f'  {row.min_ms:10.2f}  {row.frames_per_second:9.2f}'
          f'  {row.peak_bytes / 1e6:8.0f}  {device:>9}'
      )
    return '\n'.join(lines)

  def _share_peak(self) -> None:
    """Credits the mark so far to all running sections and resets it."""
    if self._running:
      peak = host_peak_bytes()
      for section in self._running:
        section.raise_peak(peak)
    _reset_host_peak()

  def _enter(self, section: Section) -> None:
    self._share_peak()
    self._running.append(section)

  def _exit(self, section: Section) -> None:
    self._share_peak()
    self._running.remove(section)

  def _add(self, name: str, seconds: float, peak: int) -> None:
    self._seconds.setdefault(name, []).append(seconds)
    self._peaks[name] = max(self._peaks.get(name, 0), peak)


def host_peak_bytes() -> int:
  """Most memory resident in this process since the mark was last reset."""
  try:
    for line in _STATUS.read_text().splitlines():
      if line.startswith('VmHWM:'):
        return int(line.split()[1]) * 1024
  except OSError:
    pass
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def _reset_host_peak() -> None:
  """Sets Linux's high-water mark to the present size, where that is allowed."""
  try:
    _CLEAR.write_text('5')
  except OSError:
    pass


def device_peak_bytes() -> int | None:
  """Most memory in use on the fullest device, None where it is not counted."""
  peaks = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
      peaks.append(stats['peak_bytes_in_use'])
  return max(peaks, default=None)


_DEFAULT = Profiler()
profile = _DEFAULT.profile
summary = _DEFAULT.summary
rows = _DEFAULT.rows
reset = _DEFAULT.reset
