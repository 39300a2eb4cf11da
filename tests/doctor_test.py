"""The doctor's verdicts."""

import io

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


def test_a_native_op_that_fails():
  def ready():
    raise RuntimeError('self-test failed: 1 of 3 differ\nmore')

  with_compiler = doctor._check_op('op', ready, '/usr/bin/g++')
  assert with_compiler.status == doctor.FAILED
  assert with_compiler.found == 'self-test failed: 1 of 3 differ'
  assert not doctor.is_healthy([with_compiler])
  # Without a compiler the fallback is what should serve.
  without = doctor._check_op('op', ready, None)
  assert (without.found, without.status) == ('xla', doctor.OK)


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
