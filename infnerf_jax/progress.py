"""Progress of long work on stderr: a bar in a terminal, rare lines elsewhere.

Output is for whoever watches; nothing reads it back.
"""

import collections
import sys
import time

import rich.console
import rich.progress

# Seconds between lines where stderr is a file or a pipe.
LINE_EVERY = 30.0
# Updates over which the speed is taken: long enough to be calm, short enough
# to forget the compilation.
_WINDOW = 20


class Progress:
  """Shows how far work is; a context manager.

  Example:
    with Progress(5000, description='train') as progress:
      progress.update(50, rays_per_second=131072.0, psnr=21.3)
  """

  def __init__(
      self,
      total: int,
      *,
      first: int = 0,
      description: str = 'step',
      stream=None,
  ):
    """Describes the work.

    Args:
      total: units of work at the end.
      first: units that were done before (a resumed run).
      description: what the units are.
      stream: text file, None is stderr.
    """
    self._total = total
    self._description = description
    self._stream = stream or sys.stderr
    self._marks = collections.deque([(time.monotonic(), first)], _WINDOW)
    self._first = first
    self._last_line = time.monotonic()
    self._bar = None

  def __enter__(self):
    if self._stream.isatty():
      self._bar = rich.progress.Progress(
          rich.progress.TextColumn('{task.description}'),
          rich.progress.BarColumn(),
          rich.progress.MofNCompleteColumn(),
          rich.progress.TextColumn('{task.fields[detail]}'),
          console=rich.console.Console(file=self._stream),
          transient=False,
      )
      self._task = self._bar.add_task(
          self._description,
          total=self._total,
          completed=self._first,
          detail='',
      )
      self._bar.start()
    return self

  def __exit__(self, *unused):
    if self._bar is not None:
      self._bar.stop()
      self._bar = None

  def update(self, done: int, **values: float) -> None:
    """Tells how much is done by now.

    Args:
      done: units of work.
      **values: what to show beside it; `rays_per_second` and `psnr` (dB) with
        their units, all else as name and number.
    """
    now = time.monotonic()
    self._marks.append((now, done))
    detail = '  '.join(_show(k, v) for k, v in values.items())
    left = self.seconds_left()
    if left is not None:
      detail = f'{detail}  {clock(left)} left'.strip()
    if self._bar is not None:
      self._bar.update(self._task, completed=done, detail=detail)
    elif now - self._last_line >= LINE_EVERY:
      self._last_line = now
      share = done / max(self._total, 1)
      self._stream.write(
          f'{self._description} {done}/{self._total} ({share:.0%})  {detail}\n'
      )
      self._stream.flush()

  def seconds_left(self) -> float | None:
    """Expected seconds to the end by recent speed; None before it is known."""
    (start, before), (now, done) = self._marks[0], self._marks[-1]
    if done <= before or now <= start:
      return None
    return max(self._total - done, 0) * (now - start) / (done - before)


def _show(name: str, value: float) -> str:
  if name == 'rays_per_second':
    return f'{value / 1000:.1f}k rays/s'
  if name == 'psnr':
    return f'{value:.2f} dB'
  return f'{name.replace("_", " ")} {value:.4g}'


def clock(seconds: float) -> str:
  """Seconds as `m:ss`, or `h:mm:ss` from an hour on."""
  minutes, rest = divmod(int(round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02d}:{rest:02d}'
  return f'{minutes}:{rest:02d}'
