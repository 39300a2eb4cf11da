"""Every Triton kernel compiled for real devices, within budgets.

The budgets are the compiler's figures of the day they were written, rounded up
to where a multiprocessor's occupancy would drop. Results are kept in the cache
of built libraries.
"""

import importlib.util

import pytest

from kernels.triton_support import compiling
from tests.kernels import common

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None,
        reason="triton is not installed, see requirements-dev.txt",
    ),
    pytest.mark.skipif(common.INTERPRETING, reason="compiles nothing"),
]

# Registers a thread, bytes of shared memory a program.
_BUDGETS = {
    "hash_lookup": (48, 0),
    "hash_lookup float16": (48, 0),
    "hash_lookup bfloat16": (48, 0),
    "sparse_adam": (40, 2048),
    "sparse_adam any order": (40, 2048),
    "slot_adam": (64, 0),
    "composite": (160, 1024),
    "composite ragged": (255, 1024),
    "locate": (48, 1024),
    "traverse": (80, 0),
    "node_field": (255, 49152),
    "node_field 16 scales": (255, 49152),
    "node_field bfloat16": (255, 49152),
    "node_field float32": (255, 49152),
}

# A compilation takes a second: the rest is for runs that have minutes. Where
# registers are short before Hopper, or vector atomics lacking, Ampere too.
_OFTEN = {op: (90,) for op in _BUDGETS} | {
    "sparse_adam any order": (80, 90),
    "composite ragged": (80,),
    "node_field 16 scales": (80,),
    "node_field bfloat16": (),
    "node_field float32": (),
}
_REST = {
    op: tuple(c for c in compiling.CAPABILITIES if c not in often)
    for op, often in _OFTEN.items()
}


@pytest.fixture(
    scope="module",
    params=[_OFTEN, pytest.param(_REST, marks=pytest.mark.slow)],
    ids=["often", "rest"],
)
def wanted(request):
  return request.param


@pytest.fixture(scope="module")
def rows(wanted):
  from kernels import triton_report

  return list(triton_report.rows(wanted))


def _of(rows, op):
  found = [(c, made) for name, c, made in rows if name == op]
  assert {c for c, _ in found} in (set(_OFTEN[op]), set(_REST[op]))
  return found


@pytest.mark.parametrize("op", _BUDGETS)
def test_compiles_within_budget(rows, op):
  registers, shared = _BUDGETS[op]
  for capability, made in _of(rows, op):
    where = f"{made.name} on {capability}: "
    spilled = made.stack + made.local
    assert spilled == 0, where + f"{spilled} bytes spill"
    assert made.registers <= registers, where + f"{made.registers} registers"
    assert made.shared <= shared, where + f"{made.shared} bytes shared"


def test_every_op_has_a_budget(wanted, rows):
  from kernels import triton_report

  assert set(triton_report.functions()) == set(_BUDGETS)
  assert {op for op, _, _ in rows} == {op for op in wanted if wanted[op]}


@pytest.mark.parametrize(
    "op,bits",
    [
        ("hash_lookup", 64),
        ("hash_lookup float16", 32),
        ("hash_lookup bfloat16", 32),
    ],
)
def test_a_row_is_one_load(rows, op, bits):
  """Eight corners, eight loads of all features, and ten of one value."""
  for _, made in _of(rows, op):
    # The gradient of the features is float32 whatever the table is.
    grad = made.name == "position_gradient"
    narrow, wide = (10, 8 + grad) if bits == 64 else (18, grad)
    assert made.loads() == {32: narrow} | ({64: wide} if wide else {})


def test_gradients_are_added_in_vectors_where_the_device_can(rows):
  for capability, made in _of(rows, "sparse_adam any order"):
    if made.name == "accumulate":
      vector = made.atomics()["red.add.v2.f32"]
      assert vector == (1 if capability >= 90 else 0)
      assert made.atomics()["red.add.f32"] == (0 if capability >= 90 else 2)


def test_exact_sums_are_of_64_bits(rows):
  for _, made in _of(rows, "sparse_adam"):
    if made.name == "accumulate":
      assert made.atomics() == {"red.add.u64": 2}
    if made.name == "claim":
      assert made.atomics() == {"atom.min.s32": 1}
    if made.name == "update":
      assert not made.atomics()
      assert made.loads()[128] == 1  # two sums of 64 bits


def test_weights_of_a_slot_move_in_vectors(rows):
  for _, made in _of(rows, "slot_adam"):
    assert made.loads()[128] == 8 and made.stores() == {128: 6}
