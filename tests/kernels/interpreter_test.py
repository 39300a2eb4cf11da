"""The suites of the Triton backends in Triton's interpreter.

They run in a process of their own (interpreter_process), started with the
session and asked for its results last.
"""

import importlib.util
from xml.etree import ElementTree

import pytest

from tests.kernels import common, interpreter_process

_MODULES = interpreter_process.MODULES

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None,
        reason="triton is not installed, see requirements-dev.txt",
    ),
    pytest.mark.skipif(
        common.INTERPRETING, reason="this is the interpreter's process"
    ),
]


@pytest.fixture(scope="module")
def results(interpreter_run):
  """Test cases by module name."""
  cases = {}
  for case in ElementTree.parse(interpreter_run.finish()).iter("testcase"):
    name = next(n for n in case.get("classname").split(".") if n in _MODULES)
    cases.setdefault(name, []).append(case)
  return cases


@pytest.mark.parametrize("module", _MODULES)
def test_suite_passes_in_the_interpreter(results, module):
  cases = results.get(module, [])
  failed = [
      f"{case.get('name')}: {child.get('message', '')[:2000]}"
      for case in cases
      for child in case
      if child.tag in ("failure", "error")
  ]
  assert not failed, "\n".join(failed)
  ran = [c for c in cases if not any(x.tag == "skipped" for x in c)]
  assert ran, "no test of the Triton backend ran"
