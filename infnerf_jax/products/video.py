"""Videos: pictures become an MP4 (H.264)."""

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess
import tempfile

import imageio_ffmpeg
import numpy as np

_FULL_BYTES = 1 << 20


def letterbox(picture, width: int, height: int) -> np.ndarray:
  """A picture in the middle of a black one of at least its size."""
  spare = height - picture.shape[0], width - picture.shape[1]
  before = spare[0] // 2, spare[1] // 2
  return np.pad(
      picture,
      [
          (before[0], spare[0] - before[0]),
          (before[1], spare[1] - before[1]),
          (0, 0),
      ],
  )


class Video:
  """Writes an MP4 (H.264); a context manager."""

  def __init__(self, path, width: int, height: int, *, fps: float):
    """Begins a file, which has its name once it is whole.

    Args:
      path: file.
      width: pixels, even.
      height: pixels, even.
      fps: frames a second.
    """
    if width % 2 or height % 2:
      raise ValueError(f'got {width}x{height}, expected even numbers')
    self.size = width, height
    self._path = pathlib.Path(path)
    self._partial = self._path.with_name(f'{self._path.name}.part')
    self._log = tempfile.TemporaryFile()
    # The library's own writer forks, which may deadlock JAX's threads; a new
    # session without a fork hook does not, and Ctrl-C leaves it to finish.
    self._process = subprocess.Popen(
        [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-loglevel', 'error']
        + ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{width}x{height}']
        + ['-r', str(fps), '-i', '-', '-an', '-c:v', 'libx264', '-crf', '18']
        + ['-pix_fmt', 'yuv420p', '-movflags', '+faststart', '-f', 'mp4']
        + [str(self._partial)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=self._log,
        start_new_session=True,
    )

  def __enter__(self):
    return self

  def __exit__(self, error_type, *unused):
    if error_type is None:
      self.close()
    else:
      self.close(keep=False)

  def add(self, picture) -> None:
    """Adds a frame [H, W, 3] uint8 of at most the video's size."""
    frame = np.ascontiguousarray(letterbox(picture, *self.size))
    try:
      self._process.stdin.write(frame)
    except BrokenPipeError:
      self.close()

  def close(self, *, keep: bool = True) -> None:
    """Waits until the file is whole and gives it its name.

    Args:
      keep: False throws it away.

    Raises:
      OSError: the encoder failed; its words.
    """
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    status = self._process.wait()
    if self._log.closed:
      return
    self._log.seek(0)
    words = self._log.read().decode(errors='replace').strip()
    self._log.close()
    if keep and not status:
      os.replace(self._partial, self._path)
      return
    self._partial.unlink(missing_ok=True)
    if keep:
      folder = self._path.parent
      if folder.is_dir() and shutil.disk_usage(folder).free < _FULL_BYTES:
        raise OSError(errno.ENOSPC, 'No space left on device', str(self._path))
      raise OSError(f'{self._path}: the video was not written: {words}')
