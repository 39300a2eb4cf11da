"""Our side of the benchmark: steps and their parts as functions of nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.evaluation.bench import shapes
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_field as node_field_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from kernels.composite import api as composite_op
from kernels.hash_lookup import api as hash_lookup
from kernels.node_field import api as node_field
from kernels.sparse_adam import api as sparse_adam

ADAM = {'learning_rate': 1e-2, 'b1': 0.9, 'b2': 0.99, 'eps': 1e-15}


def field_spec(shape: shapes.StepShape, compute_dtype: str = 'float16'):
  """The kernels' static shapes; the type is that of products on a GPU."""
  spec = node_field_lib.field_spec(
      num_grid_scales=shape.num_grid_scales,
      table_size=1 << shape.log2_table_size,
      num_features=shape.num_features,
      base_resolution=shape.base_resolution,
      finest_resolution=shape.finest_resolution,
      hidden_width=shape.hidden_width,
      num_geometry=shape.num_geometry,
      appearance_dim=shape.appearance_dim,
  )
  return dataclasses.replace(spec, compute_dtype=compute_dtype)


def setup(shape, seed: int):
  """What a step needs, on the device.

  Args:
    shape: fields of StepShape.
    seed: of data.

  Returns:
    (StepShape, FieldSpec, StepData, parameters).
  """
  shape = shapes.StepShape(**shape)
  spec = field_spec(shape)
  data = jax.tree.map(jnp.asarray, shapes.make_data(shape, seed))
  params = shapes.make_params(shape, spec.grid.num_rows)
  # Copies: steps donate their parameters, and NumPy memory is not XLA's.
  params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
  return shape, spec, data, params


def composite(raw, rgb, delta, implementation: str | None = None):
  """Colours of rays.

  Args:
    raw: [R * S].
    rgb: [R * S, 3].
    delta: [R, S].
    implementation: of the kernels; there is no native one, XLA serves.

  Returns:
    [R, 3].
  """
  density = scene_model.trunc_exp(raw).reshape(delta.shape)
  rgb = rgb.reshape(*delta.shape, 3)
  name = None if implementation == 'native' else implementation
  return composite_op.composite(
      density, delta, rgb, delta, implementation=name
  ).rgb


def _mlps(params):
  return {'density': params['density'], 'color': params['color']}


def shade(params, data, spec, implementation: str | None, probe=None):
  """Raw densities [S] and colours [S, 3] of StepData."""
  return node_field.node_field(
      params,
      data.position,
      data.slot,
      data.ray_idx,
      data.ray_inputs,
      spec=spec,
      probe=probe,
      implementation=implementation,
  )


def _loss(trainable, table, data, spec, implementation):
  params = {'table': table, **trainable['mlp']}
  raw, rgb = shade(params, data, spec, implementation, trainable['probe'])
  color = composite(raw, rgb, data.delta, implementation)
  return jnp.mean((color - data.target) ** 2)


def _gradients(params, data, spec, implementation):
  grid = spec.grid
  probe = jnp.zeros(
      (grid.num_grid_scales, data.slot.shape[0], grid.num_features)
  )
  return jax.value_and_grad(_loss)(
      {'mlp': _mlps(params), 'probe': probe},
      params['table'],
      data,
      spec,
      implementation,
  )


def _init_optimizer(params):
  table = params['table']
  num_slots = table.shape[0]
  weights = jax.tree.leaves(_mlps(params))
  return {
      'table': (
          jnp.zeros(table.shape[:2] + (2 * table.shape[2],)),
          jnp.zeros(table.shape[:2], jnp.int32),
      ),
      'mlp': [jnp.zeros((num_slots, 2) + w.shape[1:]) for w in weights],
      'mlp_steps': jnp.zeros(num_slots, jnp.int32),
  }


def _update_mlps(params, state, gradient, slot, implementation):
  """Adam of the touched nodes' MLPs."""
  weights, treedef = jax.tree.flatten(_mlps(params))
  steps = state['mlp_steps']
  touched = sparse_adam.touched_slots(
      [slot], steps.shape[0], implementation=implementation
  )
  updated = [
      sparse_adam.slot_adam(
          w, g, m, steps, touched, implementation=implementation, **ADAM
      )
      for w, g, m in zip(
          weights, jax.tree.leaves(gradient), state['mlp'], strict=True
      )
  ]
  mlps = treedef.unflatten([u[0] for u in updated])
  return mlps, [u[1] for u in updated], updated[0][2]


def _update_table(table, state, data, feature_gradient, spec, implementation):
  """Scatters the features' gradient and steps the touched rows."""
  return sparse_adam.sparse_adam(
      table,
      *state,
      [(data.position, data.slot, feature_gradient)],
      spec=spec.grid,
      implementation=implementation,
      **ADAM,
  )


def _train(params, state, data, spec, implementation):
  loss, gradient = _gradients(params, data, spec, implementation)
  table, *table_state = _update_table(
      params['table'],
      state['table'],
      data,
      gradient['probe'],
      spec,
      implementation,
  )
  mlps, moments, steps = _update_mlps(
      params, state, gradient['mlp'], data.slot, implementation
  )
  state = {'table': tuple(table_state), 'mlp': moments, 'mlp_steps': steps}
  return {'table': table, **mlps}, state, loss


class _Stateful:
  """Calls a jitted function that takes and returns donated state."""

  def __init__(self, function, state, *arguments):
    self._function = jax.jit(function, donate_argnums=0)
    self._state = state
    self._arguments = arguments

  def __call__(self):
    self._state, value = self._function(self._state, *self._arguments)
    jax.block_until_ready((self._state, value))
    return float(value)


def train_step(shape, *, implementation: str, seed: int = 0):
  """A training step to call again and again.

  Args:
    shape: fields of StepShape.
    implementation: of the kernels.
    seed: of data.

  Returns:
    Function of nothing that does one step in place and returns the loss.
  """
  _, spec, data, params = setup(shape, seed)

  def step(carry, data):
    params, state, loss = _train(*carry, data, spec, implementation)
    return (params, state), loss

  return _Stateful(step, (params, _init_optimizer(params)), data)


def inference_step(shape, *, implementation: str, seed: int = 0):
  """Colours of a batch without gradient, to call again and again.

  Args:
    shape: fields of StepShape.
    implementation: of the kernels.
    seed: of data.

  Returns:
    Function of nothing that returns [R, 3].
  """
  _, spec, data, params = setup(shape, seed)

  @jax.jit
  def step(params, data):
    shaded = shade(params, data, spec, implementation)
    return composite(*shaded, data.delta, implementation)

  return lambda: step(params, data).block_until_ready()


def _tree_of(shape: shapes.StepShape) -> scene_model.TreeArrays:
  """Root and as many of its children as the shape has."""
  children = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=-1)
  octree = tree_lib.from_coords(
      [np.zeros((1, 3), int), children[: shape.num_nodes - 1]],
      center=(0, 0, 0),
      side=2.0,
      grid_size=shape.finest_resolution,
  )
  return scene_model.tree_arrays(octree, np.arange(octree.num_nodes))


def _sampling(shape, spec, params, implementation, seed):
  """Self-proposals of 64 samples and placement of the step's samples."""
  model_spec = scene_model.ModelSpec(
      field=spec,
      root_side=2.0,
      root_gsd=1.0 / shape.finest_resolution,
      max_level=1,
      appearance_dim=shape.appearance_dim,
      implementation=implementation,
  )
  model = scene_model.SceneModel(
      _tree_of(shape), params, None, jnp.array([[0.0] * 3, [1.0] * 3])
  )
  origin, direction = shapes.make_rays(shape, seed)
  ones = jnp.ones((shape.num_rays, 1))
  rays = cameras_lib.Rays(
      origins=jnp.asarray(origin, jnp.float32),
      origins_lo=jnp.zeros_like(origin, jnp.float32),
      directions=jnp.asarray(direction, jnp.float32),
      base_radius=0 * ones,
      # The box lies about 2 to 4 metres off: the footprint reaches the root's
      # node_gsd where the farthest quarter begins.
      cone_slope=ones * (model_spec.root_gsd / 3.5),
      camera_idx=jnp.zeros((shape.num_rays, 1), jnp.int32),
  )
  options = render_rays.RenderOptions(num_samples=(64, shape.num_samples))
  function = jax.jit(
      lambda key, model, rays: render_rays.place_samples(
          key, model, model_spec, rays, options
      )
  )
  key = jax.random.key(seed)
  return lambda: jax.block_until_ready(function(key, model, rays))


def _update_parts(params, data, gradient, spec, implementation):
  """The step's two updates by themselves."""
  state = _init_optimizer(params)
  copy = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)

  def hash_backward(carry, data, feature_gradient):
    table, *rest = _update_table(
        carry[0], carry[1], data, feature_gradient, spec, implementation
    )
    return (table, tuple(rest)), jnp.float32(0)

  def mlp_update(carry, slot, gradient):
    params, state = carry
    mlps, moments, steps = _update_mlps(
        params, state, gradient, slot, implementation
    )
    carry = mlps, {'mlp': moments, 'mlp_steps': steps}
    return carry, jnp.float32(0)

  small_state = {k: state[k] for k in ('mlp', 'mlp_steps')}
  return {
      'hash_backward': _Stateful(
          hash_backward,
          (copy(params['table']), state['table']),
          data,
          gradient['probe'],
      ),
      'mlp_adam': _Stateful(
          mlp_update,
          (copy(_mlps(params)), small_state),
          data.slot,
          gradient['mlp'],
      ),
  }


def train_parts(shape, *, implementation: str, seed: int = 0):
  """The step's parts and the whole, each to call again and again.

  Args:
    shape: fields of StepShape.
    implementation: of the kernels.
    seed: of data.

  Returns:
    Functions by name.
  """
  shape, spec, data, params = setup(shape, seed)
  gradients = jax.jit(lambda p, d: _gradients(p, d, spec, implementation))
  # The cost of an update does not depend on the gradient's values.
  shapes_of = jax.eval_shape(gradients, params, data)[1]
  gradient = jax.tree.map(lambda x: jnp.full(x.shape, 1e-3), shapes_of)
  lookup = jax.jit(
      lambda table, d: hash_lookup.hash_lookup(
          table,
          d.position,
          d.slot,
          spec=spec.grid,
          implementation=implementation,
      )
  )
  return {
      'step': train_step(
          shapes.as_dict(shape), implementation=implementation, seed=seed
      ),
      'hash_forward': lambda: jax.block_until_ready(
          lookup(params['table'], data)
      ),
      'field': lambda: jax.block_until_ready(gradients(params, data)),
      **_update_parts(params, data, gradient, spec, implementation),
      'sampling': _sampling(shape, spec, params, implementation, seed),
  }
