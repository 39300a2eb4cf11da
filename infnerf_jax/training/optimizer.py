"""Adam for rows that a step touches, and the learning rate.

The node fields' tables and MLPs are stacked by slot; only what a step's
samples address is read, updated and written (`kernels.sparse_adam`). Each
table row and each slot's MLP has its own step count for the bias correction,
so a row that was never addressed keeps its value, moments and count.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kernels.sparse_adam import api as sparse_adam


class FeatureGradient(NamedTuple):
  """Gradient of encoded features: what stands for a dense table gradient.

  Attributes:
    position: [S, 3] in the nodes' own boxes.
    slot: [S] int32.
    gradient: [L, S, F].
  """

  position: jax.Array
  slot: jax.Array
  gradient: jax.Array


def learning_rate(
    step, *, initial, final, decay_steps, decay_start=0, warmup_steps=0
):
  """Exponential decay from `initial` to `final`, after a linear warm-up.

  Args:
    step: [] int32.
    initial: rate at step 0.
    final: rate from `decay_steps` on.
    decay_steps: step at which the decay ends.
    decay_start: step at which it begins.
    warmup_steps: steps over which the rate rises from a tenth.

  Returns:
    [] float32.
  """
  length = max(decay_steps - decay_start, 1)
  share = jnp.clip((step - decay_start) / length, 0.0, 1.0)
  rate = initial * (final / initial) ** share
  if warmup_steps:
    rate *= 0.1 + 0.9 * jnp.clip(step / warmup_steps, 0.0, 1.0)
  return rate


def _mlps(nodes):
  return {'density': nodes['density'], 'color': nodes['color']}


class TableState(NamedTuple):
  """Lazy Adam of a table.

  Attributes:
    moments: [num_slots, rows, 2F] float32, first then second.
    steps: [num_slots, rows] int32, steps that each row has taken.
  """

  moments: jax.Array
  steps: jax.Array


class NodeState(NamedTuple):
  """Lazy Adam of stacked node fields.

  Attributes:
    table: of the tables.
    mlp_moments: of each weight [num_slots, ...]: [num_slots, 2, ...].
    mlp_steps: [num_slots] int32, steps that each slot's MLPs have taken.
  """

  table: TableState
  mlp_moments: Any
  mlp_steps: jax.Array


def init_table(table) -> TableState:
  """Zero moments and counts of a table [num_slots, rows, F]."""
  num_slots, rows, features = table.shape
  return TableState(
      jnp.zeros((num_slots, rows, 2 * features)),
      jnp.zeros((num_slots, rows), jnp.int32),
  )


def init_nodes(nodes) -> NodeState:
  """Zero moments and counts of stacked node fields."""
  return NodeState(
      init_table(nodes['table']),
      jax.tree.map(
          lambda w: jnp.zeros(w.shape[:1] + (2,) + w.shape[1:]), _mlps(nodes)
      ),
      jnp.zeros(nodes['table'].shape[:1], jnp.int32),
  )


def update_nodes(
    nodes,
    state: NodeState,
    features: list[FeatureGradient],
    mlp_gradient,
    touched,
    *,
    rate,
    mlp_rate,
    apply,
    spec,
    eps: float,
    b1: float,
    b2: float,
    implementation: str | None,
):
  """One Adam step of every touched row, in place where buffers are donated.

  Args:
    nodes: stacked node fields.
    state: as `init_nodes` made it.
    features: gradients at samples; all contributions to a row are summed.
    mlp_gradient: {'density', 'color'} stacked, zero for untouched slots.
    touched: [num_slots] bool, slots that a sample addressed.
    rate: [] learning rate of the tables.
    mlp_rate: [] learning rate of the MLPs.
    apply: [] bool; False leaves every bit as it is.
    spec: FieldSpec.
    eps: Adam's epsilon.
    b1: Adam's first decay.
    b2: Adam's second decay.
    implementation: kernels' backend.

  Returns:
    (nodes, state).
  """
  options = dict(
      b1=b1,
      b2=b2,
      eps=eps,
      apply=apply,
      implementation=implementation,
  )
  table, *table_state = sparse_adam.sparse_adam(
      nodes['table'],
      *state.table,
      [tuple(part) for part in features],
      spec=spec.grid,
      learning_rate=rate,
      **options,
  )
  weights, treedef = jax.tree.flatten(_mlps(nodes))
  moments = treedef.flatten_up_to(state.mlp_moments)
  gradients = treedef.flatten_up_to(mlp_gradient)
  updated = [
      sparse_adam.slot_adam(
          w,
          g,
          m,
          state.mlp_steps,
          touched,
          learning_rate=mlp_rate,
          **options,
      )
      for w, g, m in zip(weights, gradients, moments, strict=True)
  ]
  mlps = treedef.unflatten([u[0] for u in updated])
  state = NodeState(
      TableState(*table_state),
      treedef.unflatten([u[1] for u in updated]),
      updated[0][2],
  )
  return {'table': table, **mlps}, state


def sparse_table_adam(
    rate, *, spec, b1=0.9, b2=0.99, eps=1e-15, implementation=None
) -> optax.GradientTransformationExtraArgs:
  """The table's lazy Adam as an optax transformation.

  Its gradients are a list of `FeatureGradient`; what `update` returns are the
  **new values** of the table, not differences (an in-place kernel has no
  differences to give): replace, do not add.

  Args:
    rate: learning rate.
    spec: GridSpec.
    b1: first decay.
    b2: second decay.
    eps: epsilon.
    implementation: kernels' backend.

  Returns:
    Transformation over a table [num_slots, rows, F].
  """

  def update(gradients, state, params, *, apply=True, **unused):
    del unused
    table, *state = sparse_adam.sparse_adam(
        params,
        *state,
        [tuple(part) for part in gradients],
        spec=spec,
        learning_rate=rate,
        b1=b1,
        b2=b2,
        eps=eps,
        apply=jnp.asarray(apply),
        implementation=implementation,
    )
    return table, TableState(*state)

  return optax.GradientTransformationExtraArgs(init_table, update)
