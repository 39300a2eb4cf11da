"""The doctor's verdicts."""

import functools
import io
import types

import pytest
import rich.console
from packaging import requirements

from infnerf_jax import doctor


@pytest.mark.parametrize(
    'line,status',
    [
        ('pytest>=1', doctor.OK),
        ('pytest', doctor.OK),
        ('pytest<1', doctor.FAILED),
        ('no-such-package-here>=2', doctor.FAILED),
    ],
)
def test_versions_against_ranges(line, status):
  check = doctor._check_package(requirements.Requirement(line))
  assert check.status == status
  assert bool(check.advice) == (status == doctor.FAILED)


def test_the_requirements_list_is_met(tmp_path):
  checks = doctor.check_packages(doctor._ROOT / 'requirements.txt')
  assert len(checks) > 10 and doctor.is_healthy(checks)
  path = tmp_path / 'r.txt'
  path.write_text('# x\n-r other\npytest>=1 # why\nx; python_version < "3"\n')
  assert [c.name for c in doctor.check_packages(path)] == ['pytest']
  (absent,) = doctor.check_packages(tmp_path / 'absent.txt')
  assert absent.status == doctor.NOTE


@pytest.mark.parametrize('wanted', ['native', 'triton'])
def test_what_serves_an_op_and_why(wanted):
  def ready():
    raise RuntimeError('self-test failed: 1 of 3 differ\nmore')

  check = functools.partial(doctor._check_op, 'op', wanted)
  failed = check(ready, '')
  assert failed.status == doctor.FAILED
  assert failed.found == 'self-test failed: 1 of 3 differ'
  assert 'xla serves' in failed.advice
  assert not doctor.is_healthy([failed])
  # Without a compiler, or a device, the fallback is what should serve.
  without = check(ready, 'it is too old')
  assert without.found == f'xla: {wanted}: it is too old'
  assert check(lambda: None, '').found == f'{wanted}, self-test passed'
  assert check(None, '').found == f'xla: there is no {wanted} kernel'
  for good in (without, check(lambda: None, ''), check(None, '')):
    assert doctor.is_healthy([good])
  assert doctor._check_op('op', None, ready, '').found.startswith('xla')


def test_a_gpu_gets_every_kernel_tested(monkeypatch):
  """The device is pretended; what counts is that self-tests are asked for."""
  from kernels import dispatch
  from kernels.triton_support import capability

  asked = []

  def module(op):
    ready = lambda *arguments: asked.append(op)
    return types.SimpleNamespace(ready=ready, ready_slots=ready)

  monkeypatch.setattr(capability, 'platform', lambda: 'gpu')
  monkeypatch.setattr(capability, 'problem', lambda: '')
  monkeypatch.setattr(dispatch, 'triton_module', module)
  found = {c.name: c.found for c in doctor.check_kernels()}
  ops = {n for n in found if n.startswith('kernel ')} - {'kernel threads'}
  assert {found[n] for n in ops} == {'triton, self-test passed'}
  assert len(asked) == len(ops) == 7
  monkeypatch.setattr(capability, 'problem', lambda: 'Tesla T4: too old')
  found = {c.name: c for c in doctor.check_kernels()}
  old = found['triton']
  assert (old.found, old.status, old.advice) == (
      'Tesla T4: too old',
      doctor.NOTE,
      '',
  )
  assert found['kernel locate'].found == 'xla: triton: Tesla T4: too old'
  assert found['kernel locate'].status == doctor.OK
  absent = doctor._check_triton('triton is not installed', True)
  assert 'requirements-gpu' in absent.advice


def test_bad_thread_count_is_found(monkeypatch):
  from kernels.native import build

  monkeypatch.setattr(build, '_num_threads', None)
  monkeypatch.setenv('INFNERF_NUM_THREADS', 'many')
  last = doctor.check_kernels()[-1]
  assert last.status == doctor.FAILED and last.found == "'many'"


def test_this_machine_is_healthy():
  checks = doctor.examine()
  failed = [c for c in checks if c.status == doctor.FAILED]
  assert not failed
  names = {c.name for c in checks}
  assert {'python', 'jax', 'device 0', 'kernel node_field', 'disk'} <= names
  stream = io.StringIO()
  rich.console.Console(file=stream, width=160).print(doctor.table(checks))
  assert len(stream.getvalue().splitlines()) == len(checks) + 4
