"""Compiles quickly; starts the slowest process first, asks for it last."""

import os

import pytest

# Programs of tests run once: they are compiled quickly, not to be quick. Set
# here, before jax is imported; child processes inherit it. The C++ kernels are
# built as ever.
_QUICK = {
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
}
_flags = os.environ.get("XLA_FLAGS", "").split()
_flags += [
    f"{name}={value}"
    for name, value in _QUICK.items()
    if not any(flag.startswith(name) for flag in _flags)
]
os.environ["XLA_FLAGS"] = " ".join(_flags)

from tests.kernels import common, interpreter_process  # noqa: E402

_RUN = pytest.StashKey()


def _waits(item) -> bool:
  return "interpreter_run" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items):
  items.sort(key=_waits)  # stable


def pytest_collection_finish(session):
  option = session.config.option
  if option.collectonly or common.INTERPRETING:
    return
  wanted = [
      item
      for item in session.items
      if _waits(item) and not item.get_closest_marker("skip")
      and not any(m.args[0] for m in item.iter_markers("skipif"))
  ]  # fmt: skip
  if wanted:
    session.config.stash[_RUN] = interpreter_process.InterpreterRun()


def pytest_unconfigure(config):
  run = config.stash.get(_RUN, None)
  if run is not None:
    run.close()


@pytest.fixture(scope="session")
def interpreter_run(pytestconfig):
  """The process that runs the Triton suites in the interpreter."""
  return pytestconfig.stash[_RUN]
