"""Which backend an op gets on which device, and what is said when it cannot."""

import types

import jax
import jax.numpy as jnp
import pytest

from kernels import dispatch, hash_lookup
from kernels.hash_lookup import specs
from kernels.triton_support import calls, capability
from tests.kernels import common

pytestmark = pytest.mark.skipif(
    common.INTERPRETING, reason="looks at devices, not at the interpreter"
)


@pytest.fixture
def device(monkeypatch):
  """Pretends that a GPU of some kind is the default device."""

  def pretend(kind, compute_capability):
    found = types.SimpleNamespace(
        device_kind=kind, compute_capability=compute_capability
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [found])
    monkeypatch.setattr(capability, "_tested", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    installed = lambda name: types.SimpleNamespace(name=name)
    monkeypatch.setattr(capability.importlib.util, "find_spec", installed)
    monkeypatch.setattr(capability.importlib, "import_module", installed)

  return pretend


def test_named_without_a_gpu_raises_one_line():
  table, position, slot = common.samples(specs.TINY, 5, 2)
  with pytest.raises(capability.TritonUnavailable) as error:
    hash_lookup.hash_lookup(
        table, position, slot, spec=specs.TINY, implementation="triton"
    )
  assert "hash_lookup: triton" in str(error.value)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "kind,version,part",
    [
        ("Tesla V100", "7.0", "7.0, expected 8.0 or later"),
        ("Tesla T4", "7.5", "7.5, expected 8.0 or later"),
        ("gfx90a", "gfx90a", "expected an NVIDIA GPU"),
        ("gfx11", "", "expected an NVIDIA GPU"),
    ],
)
def test_other_devices_are_refused_in_one_line(device, kind, version, part):
  device(kind, version)
  found = capability.problem()
  assert kind in found and part in found and "\n" not in found
  # Unnamed, the op runs on.
  ready = lambda: capability.require("op")
  assert dispatch.choose("op", None, None, ready) == "xla"


@pytest.mark.parametrize("version", ["8.0", "8.6", "9.0", "10.0", "12.0"])
def test_a_gpu_gets_the_kernels(device, version):
  device("A GPU", version)
  ran = []
  ready = lambda: capability.trust("op", 1, lambda: ran.append(1))
  for _ in range(2):
    capability.require("op")
    assert dispatch.choose("op", None, None, ready) == "triton"
  assert ran == [1]


def test_no_kernel_that_fails_its_self_test(device, caplog):
  device("A GPU", "9.0")

  def wrong():
    raise AssertionError("Mismatched elements: 1\nand more")

  ready = lambda: capability.trust("op", 2, wrong)
  assert dispatch.choose("op", None, lambda: None, ready) == "xla"
  assert "self-test failed: Mismatched elements: 1" in caplog.text
  with pytest.raises(capability.TritonUnavailable, match="self-test failed"):
    dispatch.choose("op", "triton", lambda: None, ready)


def test_named_where_there_is_none():
  with pytest.raises(NotImplementedError, match="op: no triton"):
    dispatch.choose("op", "triton", lambda: None)
  with pytest.raises(NotImplementedError, match="op: no native"):
    dispatch.choose("op", "native", None)


def test_targeting_traces_for_another_device():
  assert capability.target() is None and capability.platform() == "cpu"
  with capability.targeting(90):
    assert capability.target() == 90 and capability.platform() == "gpu"
    with capability.targeting(70):
      assert "7.0, expected 8.0" in capability.problem()
    assert capability.target() == 90
  assert capability.target() is None


def test_calls_are_checked():
  x = jnp.zeros(3)
  with pytest.raises(ValueError, match="expected <="):
    calls.triton_call(None, x, out=[x], grid=(1, 70000))
  with pytest.raises(ValueError, match="not like output"):
    calls.triton_call(None, x, out=[jnp.zeros(4)], grid=(1,), in_place={0: 0})


def test_no_programs_make_no_call():
  x = jnp.ones(3)
  out, kept = calls.triton_call(
      None, x, out=[jnp.ones(2), x], grid=(0,), in_place={0: 1}
  )
  assert out.tolist() == [0, 0] and kept.tolist() == [1, 1, 1]


def test_recorded_calls_are_not_made():
  table, position, slot = common.samples(specs.TINY, 300, 2)
  pytest.importorskip("triton")
  with capability.record() as found:
    out = jax.eval_shape(
        lambda *a: hash_lookup.hash_lookup(
            *a, spec=specs.TINY, implementation="triton"
        ),
        *(jnp.asarray(a) for a in (table, position, slot)),
    )
  assert out.shape == (2, 300, 2)
  (call,) = found
  assert call.kernel.__name__ == "lookup" and call.grid == (3, 2)
  assert capability.recorded() is None


def test_huge_sizes_are_called(monkeypatch):
  """2^26 samples, 4096 slots, 2^30 samples in fixed rays: grids that exist."""
  pytest.importorskip("triton")
  from kernels import triton_report

  monkeypatch.setattr(triton_report, "_SAMPLES", 2**26)
  monkeypatch.setattr(triton_report, "_SLOTS", 4096)
  monkeypatch.setattr(triton_report, "_RAYS", 2**24)
  found = triton_report.examples()
  assert set(found) == set(triton_report.functions())
  largest = {op: max(c.grid[0] for c in made) for op, made in found.items()}
  assert largest["composite"] >= 2**24 // 32
  assert largest["node_field"] >= 2**26 // 64
  assert largest["sparse_adam"] == 8 * 2**26 // 128
  # A profiler sees a kernel's name alone.
  modules = {}
  for call in (c for made in found.values() for c in made):
    modules.setdefault(call.kernel.__name__, set()).add(
        call.kernel.fn.__module__
    )
  assert all(len(where) == 1 for where in modules.values())


def test_what_is_too_large_is_refused():
  pytest.importorskip("triton")
  from kernels import sparse_adam
  from kernels.triton_support import compiling

  of = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)
  spec = specs.GridSpec(1, 2**7, 2, 4, 4)
  rows, many = (1, spec.num_rows), 2**27
  update = lambda *a: sparse_adam.sparse_adam(
      *a[:3], [a[3:]], spec=spec, learning_rate=0.1, implementation="triton"
  )
  state = (of("float32", *rows, 2), of("float32", *rows, 4), of("int32", *rows))
  call = (of("float32", many, 3), of("int32", many), of("float32", 1, many, 2))
  with pytest.raises(NotImplementedError, match="2.27 samples"):
    compiling.calls_of(update, *state, *call)
  lookup = lambda *a: hash_lookup.hash_lookup(
      *a, spec=spec, implementation="triton"
  )
  samples = (of("float32", 2**30, 3), of("int32", 2**30))
  with pytest.raises(NotImplementedError, match="2.31 features"):
    compiling.calls_of(lookup, state[0], *samples)
  slots = 2**16
  weights = of("float32", slots, 2, 2)
  of_slots = (of("int32", slots), of("bool", slots))
  with pytest.raises(NotImplementedError, match="65535 slots"):
    compiling.calls_of(
        lambda *a: sparse_adam.slot_adam(
            *a, learning_rate=0.1, implementation="triton"
        ),
        *(weights, weights, of("float32", slots, 2, 2, 2), *of_slots),
    )
