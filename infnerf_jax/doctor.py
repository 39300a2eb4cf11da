"""What this machine can run: versions, devices, kernels, room."""

import os
import pathlib
import platform
import shutil
import sys
from importlib import metadata
from typing import Callable, NamedTuple

import psutil
import rich.markup
import rich.table
from packaging import requirements

from infnerf_jax import provenance

OK, NOTE, FAILED = 'ok', 'note', 'failed'
_ROOT = pathlib.Path(__file__).resolve().parents[1]


class Check(NamedTuple):
  """One line of the table.

  Attributes:
    name: what was looked at.
    found: what there is.
    status: OK; NOTE where something optional is absent or short; FAILED where
      something that should work does not.
    advice: what to do about it, '' if nothing.
  """

  name: str
  found: str
  status: str
  advice: str = ''


def examine() -> list[Check]:
  """Looks at everything; builds and tests the native kernels on the way."""
  checks = [check_python(), *check_packages(_ROOT / 'requirements.txt')]
  broken = {c.name for c in checks if c.status == FAILED}
  if broken & {'jax', 'jaxlib', 'numpy'}:
    return checks + check_room()  # The rest needs them.
  return checks + check_devices() + check_kernels() + check_room()


def check_python() -> Check:
  """Python's version against 3.11 and 3.12."""
  found = platform.python_version()
  if (3, 11) <= sys.version_info[:2] <= (3, 12):
    return Check('python', found, OK)
  return Check('python', found, FAILED, 'use Python 3.11 or 3.12')


def check_packages(path) -> list[Check]:
  """Installed packages against a requirements list.

  Args:
    path: requirements.txt.

  Returns:
    A check for each requirement that applies to this Python.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return [Check(path.name, 'absent', NOTE, 'run from a checkout')]
  checks = []
  for line in path.read_text().splitlines():
    line = line.partition('#')[0].strip()
    if not line or line.startswith('-'):
      continue
    wanted = requirements.Requirement(line)
    if wanted.marker is None or wanted.marker.evaluate():
      checks.append(_check_package(wanted))
  return checks


def _check_package(wanted: requirements.Requirement) -> Check:
  advice = f'pip install "{wanted.name}{wanted.specifier}"'
  try:
    found = metadata.version(wanted.name)
  except metadata.PackageNotFoundError:
    return Check(wanted.name, 'not installed', FAILED, advice)
  allowed = str(wanted.specifier) or 'any'
  if wanted.specifier.contains(found, prereleases=True):
    return Check(wanted.name, f'{found} ({allowed})', OK)
  return Check(wanted.name, f'{found} ({allowed})', FAILED, advice)


def check_devices() -> list[Check]:
  """A small sum on each device of JAX."""
  import jax
  import jax.numpy as jnp

  try:
    devices = jax.devices()
  except RuntimeError as error:
    return [Check('devices', _first_line(error), FAILED, 'unset JAX_PLATFORMS')]
  checks = []
  for device in devices:
    name = f'device {device.id}'
    try:
      total = float(jnp.sum(jax.device_put(jnp.arange(9.0), device)))
      status = OK if total == 36.0 else FAILED
      checks.append(
          Check(name, f'{device.platform}, {device.device_kind}', status)
      )
    except Exception as error:  # Drivers fail in their own ways.
      checks.append(Check(name, _first_line(error), FAILED))
  if shutil.which('nvidia-smi') and jax.default_backend() == 'cpu':
    advice = 'pip install -r requirements-gpu.txt'
    checks.append(
        Check('gpu', 'NVIDIA driver, but JAX sees none', NOTE, advice)
    )
  return checks


def check_kernels() -> list[Check]:
  """The compiler, and which backend each op gets on the default device.

  Returns:
    A check for the compiler, the threads, Triton and each op, whose self-test
    it runs. An op without its kernel for want of a compiler or of a device
    that could run it is a note; one whose build or self-test fails is a
    failure.
  """
  from kernels import dispatch
  from kernels.native import build
  from kernels.triton_support import capability

  checks = []
  try:
    checks.append(Check('compiler', build.find_compiler(), OK))
  except build.NativeUnavailable as error:
    advice = 'install g++ or clang++, or set CXX: native kernels are faster'
    checks.append(Check('compiler', _first_line(error), NOTE, advice))
  try:
    checks.append(Check('kernel threads', str(build.get_num_threads()), OK))
  except ValueError:
    value = os.environ.get('INFNERF_NUM_THREADS')
    advice = 'set INFNERF_NUM_THREADS to a positive number'
    return checks + [Check('kernel threads', repr(value), FAILED, advice)]
  wanted, problem = dispatch.preferred(), capability.problem()
  lacking = {'triton': problem}
  if checks[0].status != OK:
    lacking['native'] = checks[0].found
  checks.append(_check_triton(problem, wanted == 'triton'))
  return checks + [
      _check_op(op, wanted, ready.get(wanted), lacking.get(wanted, ''))
      for op, ready in _kernels().items()
  ]


def _check_triton(problem: str, wanted: bool) -> Check:
  """Whether the GPU's kernels can run; a note where they are wanted and not."""
  if not problem:
    return Check('triton', 'can run', OK)
  # An old device stays old, what is not installed can be.
  installable = 'install' in problem or 'import' in problem
  advice = 'pip install -r requirements-gpu.txt'
  return Check(
      'triton',
      problem,
      NOTE if wanted else OK,
      advice if wanted and installable else '',
  )


def _kernels() -> dict[str, dict[str, Callable[[], None]]]:
  """Ops' own kernels by backend; each raises where it cannot be trusted."""
  from kernels import dispatch
  from kernels.hash_lookup import native as hash_lookup
  from kernels.locate import native as locate
  from kernels.node_field import native as node_field
  from kernels.node_field import specs
  from kernels.sparse_adam import native as sparse_adam

  spec = specs.SMALL
  params = node_field.example(specs.TINY)[0]
  table, weights = params['table'], params['density']['w0']
  on_gpu = lambda op: dispatch.triton_module(op)
  return {
      'hash_lookup': {
          'native': lambda: hash_lookup.ready(table, spec.grid),
          'triton': lambda: on_gpu('hash_lookup').ready(table, spec.grid),
      },
      'node_field': {
          'native': lambda: node_field.ready(params, spec),
          'triton': lambda: on_gpu('node_field').ready(params, spec),
      },
      'sparse_adam': {
          'native': lambda: sparse_adam.ready(table, spec.grid),
          'triton': lambda: on_gpu('sparse_adam').ready(table, spec.grid),
      },
      'slot_adam': {
          'native': lambda: sparse_adam.ready_slots(weights),
          'triton': lambda: on_gpu('sparse_adam').ready_slots(weights),
      },
      'locate': {
          'native': lambda: locate.ready(8),
          'triton': lambda: on_gpu('locate').ready(8),
      },
      'traverse': {'triton': lambda: on_gpu('traverse').ready(8)},
      'composite': {'triton': lambda: on_gpu('composite').ready()},
  }


def _check_op(
    op: str, wanted: str | None, ready: Callable[[], None] | None, lacking: str
) -> Check:
  """What serves an op on the default device, and why.

  Args:
    op: name.
    wanted: backend that the device prefers, None: none but xla.
    ready: runs that backend's self-test, None: the op has no such kernel.
    lacking: why the backend cannot run here at all, '' if it can.

  Returns:
    Check.
  """
  name = f'kernel {op}'
  if wanted is None:
    return Check(name, 'xla: no kernels for this platform', OK)
  if ready is None:
    return Check(name, f'xla: there is no {wanted} kernel', OK)
  if lacking:
    return Check(name, f'xla: {wanted}: {lacking}', OK)
  try:
    ready()
    return Check(name, f'{wanted}, self-test passed', OK)
  except Exception as error:  # Whatever it is, the op does not work.
    advice = 'xla serves instead'
    if wanted == 'native':
      advice += f'; rebuild without {_cache()}'
    return Check(name, _first_line(error), FAILED, advice)


def _cache() -> str:
  from kernels.native import build

  return str(build.cache_dir())


def check_room() -> list[Check]:
  """Cores, memory and disk of the current folder."""
  memory = psutil.virtual_memory()
  disk = shutil.disk_usage('.')
  low_memory = memory.available < 4e9
  low_disk = disk.free < 5e9
  return [
      Check('cores', str(provenance.num_cores()), OK),
      Check(
          'memory',
          f'{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free',
          NOTE if low_memory else OK,
          'the default config wants 4 GB' if low_memory else '',
      ),
      Check(
          'disk',
          f'{disk.free / 1e9:.1f} of {disk.total / 1e9:.1f} GB free',
          NOTE if low_disk else OK,
          'decoded photos and checkpoints take some GB' if low_disk else '',
      ),
  ]


def _first_line(error: Exception) -> str:
  text = str(error).strip()
  return text.splitlines()[0][:120] if text else type(error).__name__


def table(checks: list[Check]) -> rich.table.Table:
  """The checks for a terminal."""
  result = rich.table.Table('check', 'found', 'status', 'advice')
  colors = {OK: 'green', NOTE: 'yellow', FAILED: 'red'}
  for check in checks:
    result.add_row(
        check.name,
        # Brackets of versions and devices are text, not markup.
        rich.markup.escape(check.found),
        f'[{colors[check.status]}]{check.status}',
        rich.markup.escape(check.advice),
    )
  return result


def is_healthy(checks: list[Check]) -> bool:
  """Whether all that should work does."""
  return all(check.status != FAILED for check in checks)
