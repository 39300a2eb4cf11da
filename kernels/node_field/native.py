"""Node field by the fused native CPU kernel."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import dispatch
from kernels.hash_lookup import native as hash_native
from kernels.native import build
from kernels.node_field import reference, specs

_SymbolicZero = jax.custom_derivatives.SymbolicZero


def library(spec: specs.FieldSpec) -> build.Library:
  """Library of the field ops for this spec."""
  return build.load(
      "field_ops",
      GRID_SCALES=spec.grid.num_grid_scales,
      NUM_FEATURES=spec.grid.num_features,
      HIDDEN=spec.hidden_width,
      GEOMETRY=spec.num_geometry,
      RAY_DIM=spec.ray_input_dim,
  )


def ready(params, spec: specs.FieldSpec) -> None:
  """Raises when the native kernel cannot serve these arguments."""
  for array in jax.tree.leaves(params):
    hash_native.require_float32("node_field", parameters=array)
  if spec.hidden_width % 8:
    raise NotImplementedError(
        "node_field: native needs hidden_width divisible by 8, got"
        f" {spec.hidden_width}"
    )
  dispatch.trust(library(spec), "node_field", lambda: _self_test(spec))


def _call(spec, symbol, *outputs):
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in outputs]
  name = library(spec).target(symbol)
  return jax.ffi.ffi_call(name, shapes, vmap_method="sequential")


def _stored_shape(spec, slot, keep: bool):
  """Features that the backward pass needs, sample by sample in sorted order."""
  return (slot.shape[0] if keep else 0, spec.grid.encoded_dim)


def _probe_shape(spec, slot, wanted: bool):
  samples = slot.shape[0] if wanted else 0
  return (spec.grid.num_grid_scales, samples, spec.grid.num_features)


def _instantiate(cotangent):
  if isinstance(cotangent, _SymbolicZero):
    return jnp.zeros(cotangent.shape, cotangent.dtype)
  return cotangent


def _position_gradient(lookup, grad, spec):
  if lookup is None:
    return None
  return hash_native.position_gradient(*lookup, grad, spec=spec.grid)


def _density_forward(spec, weights, position, slot, keep):
  table, w0, w1 = weights
  stored = _stored_shape(spec, slot, keep)
  call = _call(spec, "node_density", slot.shape, stored)
  layout = spec.grid.layout()
  return call(table, w0, w1, position, slot, layout=layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _density(spec, weights, position, slot, probe):
  del probe
  return _density_forward(spec, weights, position, slot, False)[0]


def _density_fwd(spec, weights, position, slot, probe):
  values = tuple(w.value for w in weights)
  raw, stored = _density_forward(spec, values, position.value, slot.value, True)
  lookup = None
  if position.perturbed:
    lookup = (values[0], position.value, slot.value)
  wanted = probe is not None and probe.perturbed
  return raw, (values[1:], slot.value, stored, lookup, () if wanted else None)


def _density_bwd(spec, residual, grad):
  weights, slot, stored, lookup, wanted = residual
  with_probe = wanted is not None
  probe_shape = _probe_shape(spec, slot, with_probe or lookup is not None)
  shapes = [w.shape for w in weights]
  call = _call(spec, "node_density_grad", *shapes, probe_shape)
  g0, g1, features = call(*weights, slot, stored, _instantiate(grad))
  position = _position_gradient(lookup, features, spec)
  return (None, g0, g1), position, None, features if with_probe else None


_density.defvjp(_density_fwd, _density_bwd, symbolic_zeros=True)


def _field_forward(spec, weights, position, slot, ray_idx, rays, keep):
  stored = _stored_shape(spec, slot, keep)
  shapes = (slot.shape, (slot.shape[0], 3), stored)
  call = _call(spec, "node_field", *shapes)
  layout = spec.grid.layout()
  return call(*weights, position, slot, ray_idx, rays, layout=layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _field(spec, weights, position, slot, ray_idx, ray_inputs, probe):
  del probe
  raw, rgb, _ = _field_forward(
      spec, weights, position, slot, ray_idx, ray_inputs, False
  )
  return raw, rgb


def _field_fwd(spec, weights, position, slot, ray_idx, ray_inputs, probe):
  values = tuple(w.value for w in weights)
  plain = (slot.value, ray_idx.value, ray_inputs.value)
  raw, rgb, stored = _field_forward(spec, values, position.value, *plain, True)
  lookup = None
  if position.perturbed:
    lookup = (values[0], position.value, slot.value)
  wanted = (
      () if ray_inputs.perturbed else None,
      () if probe is not None and probe.perturbed else None,
  )
  return (raw, rgb), (values[1:], plain, stored, rgb, lookup, wanted)


def _field_bwd(spec, residual, grads):
  weights, (slot, ray_idx, ray_inputs), stored, rgb, lookup, wanted = residual
  with_rays, with_probe = (w is not None for w in wanted)
  shapes = [w.shape for w in weights]
  ray_shape = ray_inputs.shape if with_rays else (0, spec.ray_input_dim)
  probe_shape = _probe_shape(spec, slot, with_probe or lookup is not None)
  call = _call(spec, "node_field_grad", *shapes, ray_shape, probe_shape)
  d_raw, d_rgb = (_instantiate(g) for g in grads)
  *g_weights, g_rays, features = call(
      *weights, slot, ray_idx, ray_inputs, stored, rgb, d_raw, d_rgb
  )
  position = _position_gradient(lookup, features, spec)
  g_rays = g_rays if with_rays else None
  features = features if with_probe else None
  return (None, *g_weights), position, None, None, g_rays, features


_field.defvjp(_field_fwd, _field_bwd, symbolic_zeros=True)


def node_density(params, position, slot, *, spec: specs.FieldSpec, probe=None):
  """See api.node_density."""
  table = dispatch.no_gradient("node_density", params["table"])
  weights = (table, params["density"]["w0"], params["density"]["w1"])
  return _density(spec, weights, position, slot, probe)


def node_field(
    params,
    position,
    slot,
    ray_idx,
    ray_inputs,
    *,
    spec: specs.FieldSpec,
    probe=None,
):
  """See api.node_field."""
  table = dispatch.no_gradient("node_field", params["table"])
  density, color = params["density"], params["color"]
  weights = (table, density["w0"], density["w1"])
  weights += (color["w0"], color["w1"], color["w2"])
  return _field(spec, weights, position, slot, ray_idx, ray_inputs, probe)


def node_geometry(params, position, slot, *, spec: specs.FieldSpec):
  """See api.node_geometry; geometry [S, ...] is padded to vectors."""
  width = -(-(1 + spec.num_geometry) // 8) * 8
  call = _call(spec, "node_geometry", slot.shape, (slot.shape[0], width))
  weights = params["density"]["w0"], params["density"]["w1"]
  layout = spec.grid.layout()
  return call(params["table"], *weights, position, slot, layout=layout)


def node_color(
    params,
    geometry,
    position,
    slot,
    ray_idx,
    ray_inputs,
    *,
    spec: specs.FieldSpec,
):
  """See api.node_color."""
  del position
  density, color = params["density"], params["color"]
  weights = (density["w0"], density["w1"])
  weights += (color["w0"], color["w1"], color["w2"])
  (rgb,) = _call(spec, "node_color", (slot.shape[0], 3))(
      *weights, geometry, slot, ray_idx, ray_inputs
  )
  return rgb


def example(spec: specs.FieldSpec, num_samples: int = 131, num_slots: int = 3):
  """Small random arguments (params, position, slot, ray_idx, ray_inputs)."""
  table, position, slot = hash_native.example(spec.grid, num_samples, num_slots)
  rng = np.random.default_rng(1)

  def weights(shape):
    value = rng.normal(size=shape) / np.sqrt(shape[1])
    return jnp.asarray(value, jnp.float32)

  shapes = spec.weight_shapes(num_slots)
  params = {
      "table": table,
      "density": {k: weights(s) for k, s in shapes["density"].items()},
      "color": {k: weights(s) for k, s in shapes["color"].items()},
  }
  num_rays = 1 + num_samples // 7
  ray_idx = jnp.arange(num_samples, dtype=jnp.int32) // 7
  ray_inputs = rng.normal(size=(num_rays, spec.ray_input_dim))
  ray_inputs = jnp.asarray(ray_inputs, jnp.float32)
  return params, position, slot, ray_idx, ray_inputs


def _self_test(spec: specs.FieldSpec) -> None:
  small = dataclasses.replace(spec, grid=hash_native.small_spec(spec.grid))
  params, position, slot, ray_idx, rays = example(small)
  probe = jnp.zeros(_probe_shape(small, slot, True), jnp.float32)

  def loss(module, weights, rays, probe):
    full = {"table": params["table"], **weights}
    raw, rgb = module.node_field(
        full, position, slot, ray_idx, rays, spec=small, probe=probe
    )
    density = module.node_density(full, position, slot, spec=small, probe=probe)
    total = jnp.sum(jnp.sin(raw)) + jnp.sum(rgb**2) + jnp.sum(density**2)
    return total, (raw, rgb, density)

  def in_two_passes(module):
    if module is reference:
      return reference.node_field(
          params, position, slot, ray_idx, rays, spec=small
      )
    raw, geometry = node_geometry(params, position, slot, spec=small)
    return raw, node_color(
        params, geometry, position, slot, ray_idx, rays, spec=small
    )

  def run(module):
    weights = {k: params[k] for k in ("density", "color")}
    bound = functools.partial(loss, module)
    grad = jax.value_and_grad(bound, argnums=(0, 1, 2), has_aux=True)
    in_two = jax.jit(functools.partial(in_two_passes, module))()
    return jax.jit(grad)(weights, rays, probe), in_two

  pairs = zip(jax.tree.leaves(run(reference)), jax.tree.leaves(run(_SELF)))
  for want, got in pairs:
    scale = float(np.max(np.abs(want))) + 1.0
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * scale)


class _SELF:  # this module, as `loss` above takes one
  node_field = staticmethod(node_field)
  node_density = staticmethod(node_density)
