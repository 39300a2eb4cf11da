"""Runs the suites of the Triton backends in Triton's interpreter.

In a process of its own, since TRITON_INTERPRET is read at triton's import; with
two devices, for shard_map. What `-k triton` selects there are the tests whose
parameter is that backend.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.kernels import common

_HERE = pathlib.Path(__file__).parent
_MODULES = (
    "composite_test",
    "grouped_mlp_test",
    "hash_lookup_test",
    "interpreter_only_test",
    "locate_test",
    "node_field_test",
    "sparse_adam_test",
    "suite_test",
    "traverse_test",
)
_TIMEOUT = 900

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
def results(tmp_path_factory):
  """Test cases by module name."""
  report = tmp_path_factory.mktemp("interpreter") / "report.xml"
  files = [f"tests/kernels/{name}.py" for name in _MODULES]
  options = ["-k", "triton", "-m", "", "-p", "no:cacheprovider", "-q"]
  options += [f"--junitxml={report}"]
  flags = os.environ.get("XLA_FLAGS", "")
  flags += " --xla_force_host_platform_device_count=2"
  done = subprocess.run(
      [sys.executable, "-m", "pytest", *options, *files],
      cwd=_HERE.parents[1],
      env={
          **os.environ,
          "JAX_PLATFORMS": "cpu",
          "TRITON_INTERPRET": "1",
          "XLA_FLAGS": flags,
      },
      capture_output=True,
      text=True,
      timeout=_TIMEOUT,
      check=False,
  )
  assert report.exists(), done.stdout[-4000:] + done.stderr[-4000:]
  cases = {}
  for case in ElementTree.parse(report).iter("testcase"):
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
