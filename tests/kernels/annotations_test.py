"""A profiler's trace names the op that every device instruction belongs to."""

import functools

import jax
import jax.numpy as jnp
import pytest

from kernels import (
    composite,
    hash_lookup,
    locate,
    node_field,
    sparse_adam,
    traverse,
)
from kernels.locate import native as locate_native
from kernels.node_field import native
from tests.kernels import common

pytestmark = pytest.mark.skipif(
    common.INTERPRETING, reason="the interpreter's calls have no names"
)
_USE = dict(implementation="xla")


def _calls():
  """Function and arguments of every op."""
  field = native.example(common.FIELD)
  params, position, slot = field[:3]
  grid = common.FIELD.grid
  table = params["table"]
  rays = jnp.ones((4, 6))
  ones = (rays, rays, jnp.ones((4, 6, 3)), rays)
  ragged = tuple(a.reshape((-1,) + a.shape[2:]) for a in ones)
  located = locate_native.example()
  column = jnp.ones((5, 1))
  walk = (*located[:3], *(column,) * 4, jnp.ones(3), *located[5:])
  update = functools.partial(sparse_adam.sparse_adam, spec=grid)
  state = (table, jnp.zeros(table.shape[:2] + (4,)))
  state += (jnp.zeros(table.shape[:2], jnp.int32),)
  grad = jnp.zeros((grid.num_grid_scales, slot.shape[0], grid.num_features))
  weights = params["density"]["w0"]
  slots = jnp.zeros(3, jnp.int32)
  slot_state = (weights, weights, jnp.stack([weights] * 2, 1), slots, slots > 0)
  return {
      "composite": (composite.composite, ones),
      "composite_ragged": (
          composite.composite_ragged,
          (*ragged, jnp.arange(0, 25, 6)),
      ),
      "hash_lookup": (
          functools.partial(hash_lookup.hash_lookup, spec=grid),
          (table, position, slot),
      ),
      "locate": (
          functools.partial(locate.locate, root_side=17.0, max_level=3),
          located,
      ),
      "node_density": (
          functools.partial(node_field.node_density, spec=common.FIELD),
          field[:3],
      ),
      "node_field": (
          functools.partial(node_field.node_field, spec=common.FIELD),
          field,
      ),
      "sparse_adam": (
          lambda *a, **use: update(*a[:3], [a[3:]], learning_rate=0.1, **use),
          (*state, position, slot, grad),
      ),
      "slot_adam": (
          functools.partial(sparse_adam.slot_adam, learning_rate=0.1),
          slot_state,
      ),
      "touched_slots": (
          lambda slot, **use: sparse_adam.touched_slots([slot], 3, **use),
          (slot,),
      ),
      "traverse": (
          functools.partial(traverse.traverse, root_side=17.0, min_step=1.0),
          walk,
      ),
  }


def _names(function, arguments) -> str:
  lowered = jax.jit(functools.partial(function, **_USE)).lower(*arguments)
  return lowered.as_text(debug_info=True)


def test_every_op_is_named():
  for op, (function, arguments) in _calls().items():
    assert f"/{op}/" in _names(function, arguments), op


def test_backward_passes_are_named_too():
  function, arguments = _calls()["node_field"]

  def grad(*arguments, **use):
    total = lambda rays: jnp.sum(function(*arguments[:4], rays, **use)[1])
    return jax.grad(total)(arguments[4])

  assert "transpose(jvp(node_field))/" in _names(grad, arguments)
