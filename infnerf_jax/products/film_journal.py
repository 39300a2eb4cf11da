"""The views of an unfinished film that are there already."""

import hashlib
import json
import os
import pathlib
import re
from typing import Any

import numpy as np
from PIL import Image

from infnerf_jax import errors, json_files

FILE = 'frames.jsonl.part'


def identity(
    loaded, path, appearance, options, max_memory_gb, outputs=()
) -> str:
  """A name for all that decides a film's views.

  Args:
    loaded: a LoadedScene, or what renders like one.
    path: camera_path.CameraPath.
    appearance: [A] embedding.
    options: sampling, or None.
    max_memory_gb: cap, or None.
    outputs: names of pictures beside the usual ones.

  Returns:
    Hexadecimal digits; equal ones mean equal pictures.
  """
  header = getattr(getattr(loaded, 'store', None), 'header', None)
  facts = [
      getattr(loaded, 'workdir', ''),
      getattr(loaded, 'num_steps', None),
      getattr(header, 'generation', None),
      path.names,
      path.pixel_size,
      options or getattr(loaded, 'options', None),
      max_memory_gb,
      outputs,
  ]
  # A function's address is another one in every process.
  words = re.sub(r' at 0x[0-9a-f]+', '', repr(facts))
  digest = hashlib.sha256(words.encode())
  for array in (*path.cameras, appearance):
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]


class FilmJournal:
  """Reports of finished views, a line each; a context manager.

  A view's line is written after its files. The journal goes when the film is
  complete.

  Attributes:
    done: report of each finished view by its name.
  """

  def __init__(self, out: pathlib.Path, job: str):
    """Takes up the views of the same job in a folder; forgets another's.

    Args:
      out: the film's folder.
      job: see `identity`.
    """
    self.done: dict[str, dict[str, Any]] = {}
    self._path, self._out, self._job = out / FILE, out, job
    self._file = None

  def __enter__(self):
    entries = self._read()
    lines = [{'job': self._job}, *entries]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    try:
      json_files.write_text_atomic(self._path, text)
      self._file = open(self._path, 'a', encoding='utf-8')
    except OSError as error:
      raise errors.InputError(
          f'{self._path}: got {error.strerror}, expected a folder that can be'
          ' written'
      ) from None
    self.done = {entry['frame']['name']: entry for entry in entries}
    return self

  def __exit__(self, *unused):
    self._file.close()

  def _read(self) -> list[dict[str, Any]]:
    """Entries of views whose files are there."""
    try:
      text = self._path.read_text(encoding='utf-8')
    except OSError:
      return []
    entries = []
    for line in text.split('\n'):
      try:
        entries.append(json.loads(line))
      except ValueError:  # The last line of a kill.
        break
    if not entries or entries[0] != {'job': self._job}:
      return []
    return [entry for entry in entries[1:] if self._is_whole(entry)]

  def _is_whole(self, entry) -> bool:
    files = (entry['frame'][k] for k in ('rgb', 'depth', 'depth_color'))
    return all((self._out / file).is_file() for file in files)

  def add(self, entry: dict[str, Any]) -> None:
    """Says that a view is finished.

    Args:
      entry: `frame`: what the report says of the view, with its files, and
        what else going on needs.
    """
    entry = json_files.plain(entry)
    self._file.write(json.dumps(entry) + '\n')
    self._file.flush()
    self.done[entry['frame']['name']] = entry

  def pictures(self, frame) -> tuple[np.ndarray, np.ndarray]:
    """Colours and coloured depth, [H, W, 3] uint8, of a finished view."""
    read = lambda key: np.asarray(Image.open(self._out / frame[key]))
    return read('rgb'), read('depth_color')

  def finish(self) -> None:
    """Takes the journal away: the film is complete."""
    os.unlink(self._path)
