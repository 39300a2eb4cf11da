"""What a result was made with: commit, versions, machine, date."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import psutil

PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'tensorstore',
    'numpy',
    'ml-collections',
    'absl-py',
    'pillow',
    'pycolmap',
    'plyfile',
    'dm-pix',
)

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def versions() -> dict[str, str | None]:
  """Versions of Python and of the packages results depend on."""
  found = {'python': platform.python_version()}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = None
  return found


def git_commit() -> str | None:
  """The commit that the code was checked out from.

  Returns:
    Its hash, with `-dirty` where tracked files have changed; None outside of a
    checkout or without git.
  """
  top = _git('rev-parse', '--show-toplevel')
  if top is None or pathlib.Path(top).resolve() != _ROOT:
    return None
  commit = _git('rev-parse', 'HEAD')
  if commit is None:
    return None
  changed = _git('status', '--porcelain', '--untracked-files=no')
  return f'{commit}-dirty' if changed else commit


def _git(*arguments) -> str | None:
  command = ['git', '-C', str(_ROOT), *arguments]
  try:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=True
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def machine() -> dict[str, Any]:
  """Processor, usable cores, memory (bytes) and system; no names."""
  return {
      'processor': _processor(),
      'cores': num_cores(),
      'memory_bytes': psutil.virtual_memory().total,
      'system': f'{platform.system()} {platform.release()}',
      'architecture': platform.machine(),
  }


def num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _processor() -> str:
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:
    return platform.processor()
  for line in text.splitlines():
    if line.startswith('model name'):
      return line.partition(':')[2].strip()
  return platform.processor()


def describe() -> dict[str, Any]:
  """Everything above and the time (UTC), for a JSON file beside a result."""
  now = datetime.datetime.now(datetime.timezone.utc)
  return {
      'date': now.isoformat(timespec='seconds'),
      'commit': git_commit(),
      'versions': versions(),
      'machine': machine(),
  }
