"""Photos out of a video: sharp frames that overlap enough and not too much."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any, Callable, NamedTuple

import imageio_ffmpeg
import numpy as np
import PIL.Image

from infnerf_jax import errors, json_files, progress

SUFFIXES = ('.mp4', '.mov', '.m4v', '.mkv', '.avi', '.webm', '.mts', '.mpg')
REPORT = 'video.json'
# Frames that compete to be photos, and the sizes at which they are judged:
# blur needs pixels, motion does not.
_RATE = 8.0
_SHARP_WIDTH = 960
_MOTION_WIDTH = 160
# Below this correlation two pictures do not show the same.
_MIN_CORRELATION = 0.3
# A camera that stands still for so long gives a photo none the less.
_MAX_GAP = 40
_QUALITY = 95


class Options(NamedTuple):
  """How frames are chosen.

  Attributes:
    overlap: share of a photo that the next one shows at least.
    max_photos: more than this are thinned out evenly.
  """

  overlap: float = 0.8
  max_photos: int = 600


def is_video(path) -> bool:
  """Whether a path is a file whose name ends like a video's."""
  path = pathlib.Path(path)
  return path.is_file() and path.suffix.lower() in SUFFIXES


def stamp(path, options: Options) -> str:
  """A name for a video and how its frames are chosen."""
  stat = pathlib.Path(path).stat()
  content = json.dumps([stat.st_size, stat.st_mtime_ns, list(options), _RATE])
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def sharpness(picture) -> float:
  """How much detail a picture has: the spread of its Laplacian.

  Args:
    picture: [H, W] grey.

  Returns:
    Variance of the Laplacian over the picture's own variance, so that a dark
    frame is not a blurred one.
  """
  p = np.asarray(picture, np.float32)
  laplacian = (p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]) - 4 * p[
      1:-1, 1:-1
  ]
  return float(laplacian.var() / max(float(p.var()), 1.0))


def shared_part(first, second) -> float:
  """Share of a picture that another shows too, by their shift.

  Phase correlation finds the shift; where the parts that lie upon each other
  are unlike, the pictures share nothing.

  Args:
    first: [H, W] grey, small.
    second: [H, W].

  Returns:
    0 to 1.
  """
  a = np.asarray(first, np.float64)
  b = np.asarray(second, np.float64)
  window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
  spectrum = np.fft.rfft2((a - a.mean()) * window)
  spectrum = spectrum * np.conj(np.fft.rfft2((b - b.mean()) * window))
  spectrum /= np.maximum(np.abs(spectrum), 1e-9)
  peak = np.fft.irfft2(spectrum, a.shape)
  place = np.unravel_index(np.argmax(peak), a.shape)
  shift = [
      s - size if s > size // 2 else s
      for s, size in zip(place, a.shape, strict=True)
  ]
  cut = lambda s, size: slice(max(s, 0), size + min(s, 0))
  here = tuple(cut(s, n) for s, n in zip(shift, a.shape, strict=True))
  there = tuple(cut(-s, n) for s, n in zip(shift, a.shape, strict=True))
  x, y = a[here] - a[here].mean(), b[there] - b[there].mean()
  size = math.sqrt(float((x * x).sum() * (y * y).sum()))
  if size < 1e-6:
    return 1.0 if np.allclose(a, b) else 0.0
  if float((x * y).sum()) / size < _MIN_CORRELATION:
    return 0.0
  return x.size / a.size


def choose(
    sharp, share: Callable[[int, int], float], overlap: float
) -> list[int]:
  """Frames that become photos.

  Of the frames that share with the photo before at least `overlap`, and not
  more than half way to all, the sharpest is next.

  Args:
    sharp: [N] sharpness.
    share: (i, j) to the part of frame i that frame j shows.
    overlap: 0 to 1.

  Returns:
    Increasing rows of frames.
  """
  num = len(sharp)
  if not num:
    return []
  chosen = [int(np.argmax(sharp[: min(3, num)]))]
  near = 0.5 * (1 + overlap)
  while True:
    last = chosen[-1]
    window, beyond = [], None
    for j in range(last + 1, num):
      part = share(last, j)
      if part < overlap or j - last >= _MAX_GAP:
        beyond = j
        break
      if part <= near:
        window.append(j)
    if beyond is None:
      # The end of the flight counts where it shows something new.
      if window:
        chosen.append(max(window, key=lambda j: sharp[j]))
      return chosen
    chosen.append(max(window or [beyond], key=lambda j: sharp[j]))


def _frames(path, filters: str, *, grey: bool):
  """Yields pictures of a video, [H, W] or [H, W, 3] uint8."""
  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-nostdin', '-loglevel', 'error']
  command += ['-i', str(path), '-an', '-vf', filters]
  # Each picture of these formats begins with its own size.
  command += ['-f', 'image2pipe', '-c:v', 'pgm' if grey else 'ppm', '-']
  with tempfile.TemporaryFile() as log:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
    ) as process:
      count = 0
      try:
        while (picture := _read_picture(process.stdout)) is not None:
          count += 1
          yield picture
      finally:
        process.kill()
    log.seek(0)
    lines = log.read().decode(errors='replace').split('\n')
  if not count:
    text = next((line for line in reversed(lines) if line.strip()), 'no frames')
    raise errors.InputError(
        f'--photos: {path}: got {text.strip()[-120:]}, expected a video'
    )


def _read_picture(stream):
  """The next picture of a stream; None at its end or where it is cut."""
  if not (magic := stream.readline()):
    return None
  width, height = map(int, stream.readline().split())
  stream.readline()  # the largest value, 255
  channels = 1 if magic.startswith(b'P5') else 3
  data = stream.read(width * height * channels)
  if len(data) < width * height * channels:
    return None
  shape = (height, width) if channels == 1 else (height, width, 3)
  return np.frombuffer(data, np.uint8).reshape(shape)


def _judge(path):
  """(sharpness [N], small pictures) of the frames that compete."""
  sharp, small = [], []
  filters = f"fps={_RATE:g},scale='min({_SHARP_WIDTH},iw)':-2"
  for picture in _frames(path, filters, grey=True):
    sharp.append(sharpness(picture))
    step = max(1, picture.shape[1] // _MOTION_WIDTH)
    height, width = (n // step * step for n in picture.shape)
    blocks = picture[:height, :width].reshape(
        height // step, step, width // step, step
    )
    small.append(blocks.mean(axis=(1, 3)).astype(np.float32))
  return np.array(sharp), small


def extract(path, folder, options: Options = Options()) -> dict[str, Any]:
  """Writes a video's photos; what is there already is taken.

  Args:
    path: video.
    folder: to make; `frame_00001.jpg`, ... and `video.json`.
    options: see `Options`.

  Returns:
    `frames` judged, `photos` written, `thinned`, `sharpness` of both.

  Raises:
    InputError: no video, one without motion, a folder that holds something
      else or cannot be written, an overlap that is none.
  """
  path, folder = pathlib.Path(path), pathlib.Path(folder)
  if not 0.1 <= options.overlap <= 0.98:
    raise errors.InputError(
        f'--overlap: got {options.overlap}, expected 0.1 to 0.98'
    )
  wanted = stamp(path, options)
  if (folder / REPORT).is_file():
    report = json_files.read_json(folder / REPORT)
    if report.get('stamp') == wanted:
      return report
  elif folder.exists():
    raise errors.InputError(
        f'{folder}: got a folder that is not ours, expected it to be free'
    )
  sharp, small = _judge(path)
  chosen = choose(
      sharp, lambda i, j: shared_part(small[i], small[j]), options.overlap
  )
  if len(chosen) < 2:
    raise errors.InputError(
        f'--photos: {path}: got {len(sharp)} frames that all show the same,'
        ' expected a camera that moves'
    )
  total = len(chosen)
  if total > options.max_photos:
    keep = np.linspace(0, total - 1, options.max_photos).round().astype(int)
    chosen = [chosen[i] for i in np.unique(keep)]
  report = {
      'stamp': wanted,
      'video': path.name,
      'frames': len(sharp),
      'photos': len(chosen),
      'thinned': total - len(chosen),
      'sharpness_median': float(np.median(sharp)),
      'sharpness_of_photos_median': float(np.median(sharp[chosen])),
      'seconds_of_photos': [round(i / _RATE, 3) for i in chosen],
  }
  _write(path, folder, chosen, report)
  return report


def _write(path, folder: pathlib.Path, chosen, report) -> None:
  """The folder appears when it is complete."""
  partial = folder.with_name(f'{folder.name}.part')
  numbers = {frame: i + 1 for i, frame in enumerate(chosen)}
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with progress.Progress(len(chosen), description='frames') as bar:
      for i, picture in enumerate(_frames(path, f'fps={_RATE:g}', grey=False)):
        if i in numbers:
          name = f'frame_{numbers[i]:05d}.jpg'
          PIL.Image.fromarray(picture).save(
              partial / name, quality=_QUALITY, subsampling=0
          )
          bar.update(numbers[i])
        if i >= chosen[-1]:
          break
    json_files.write_json_atomic(partial / REPORT, report)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
  except OSError as error:
    raise errors.InputError(
        f'{folder}: got {error.strerror or error}, expected a folder that can'
        ' be written'
    ) from None
