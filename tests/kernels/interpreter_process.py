"""A pytest of its own for the Triton backends, in Triton's interpreter.

A process of its own, since TRITON_INTERPRET is read at triton's import; with
two devices, for shard_map. What `-k triton` selects there are the tests whose
parameter is that backend.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

MODULES = (
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
_HERE = pathlib.Path(__file__).parent
_TIMEOUT = 1500  # s


class InterpreterRun:
  """The running process; the rest of the session goes on meanwhile."""

  def __init__(self):
    self._folder = tempfile.TemporaryDirectory(prefix="interpreter-")
    self._report = pathlib.Path(self._folder.name) / "report.xml"
    self._log = open(pathlib.Path(self._folder.name) / "log", "w+")
    files = [f"tests/kernels/{name}.py" for name in MODULES]
    options = ["-k", "triton", "-m", "", "-p", "no:cacheprovider", "-q"]
    options += [f"--junitxml={self._report}"]
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=2"
    self._process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=_HERE.parents[1],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TRITON_INTERPRET": "1",
            "XLA_FLAGS": flags,
            # Tests that measure time run beside it.
            "OMP_NUM_THREADS": "1",
        },
        stdout=self._log,
        stderr=subprocess.STDOUT,
    )

  def finish(self) -> pathlib.Path:
    """Waits for the process; returns its JUnit report."""
    self._process.wait(_TIMEOUT)
    self._log.seek(0)
    assert self._report.exists(), self._log.read()[-8000:]
    return self._report

  def close(self):
    if self._process.poll() is None:
      self._process.kill()
      self._process.wait()
    self._log.close()
    self._folder.cleanup()
