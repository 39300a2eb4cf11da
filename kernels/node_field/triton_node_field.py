"""Node field by Triton kernels: lookup, then MLPs on tensor cores.

Without a gradient one kernel looks up and multiplies, so that features never
leave the chip. With one the features are kept for the backward pass.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernels import dispatch
from kernels.hash_lookup import triton_hash_lookup
from kernels.node_field import blocks, native, reference, specs, triton_mlp
from kernels.triton_support import capability

_SymbolicZero = jax.custom_derivatives.SymbolicZero


def ready(params, spec: specs.FieldSpec) -> None:
  """Raises when the Triton kernels cannot serve these arguments."""
  triton_hash_lookup.ready(params["table"], spec.grid)
  for group in ("density", "color"):
    for name, array in params.get(group, {}).items():
      if array.dtype != jnp.float32:
        raise NotImplementedError(
            f"node_field: triton needs float32 {group} {name}, got"
            f" {array.dtype}"
        )
  widest = max(spec.hidden_width, spec.grid.encoded_dim, spec.ray_input_dim)
  if widest > 128:
    raise NotImplementedError(
        f"node_field: triton needs widths up to 128, got {widest}"
    )
  key = (str(params["table"].dtype), spec)
  capability.trust("node_field", key, lambda: _self_test(spec))


def _operands(plan, features, position, weights, ray_idx, ray_inputs):
  return triton_mlp.Operands(
      features,
      position,
      tuple(weights),
      ray_idx,
      ray_inputs,
      plan.order,
      plan.slot,
      plan.first,
      plan.count,
  )


def _plan(slot, weights, spec) -> blocks.Plan:
  size = triton_mlp.block_size(slot.shape[0], spec)
  return blocks.make_plan(slot, weights[0].shape[0], size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _field(spec, table, weights, position, slot, ray_idx, ray_inputs, probe):
  del probe
  plan = _plan(slot, weights, spec)
  return triton_mlp.forward(spec, True)(
      _operands(plan, table, position, weights, ray_idx, ray_inputs)
  )


def _field_fwd(spec, table, weights, *rest):
  position, slot, ray_idx, ray_inputs, probe = rest
  wanted = tuple(
      () if x is not None and x.perturbed else None
      for x in (position, ray_inputs, probe)
  )
  table, weights, *rest = jax.tree.map(
      lambda x: x.value,
      (table, weights, *rest[:-1]),
      is_leaf=lambda x: hasattr(x, "perturbed"),
  )
  position, slot, ray_idx, ray_inputs = rest
  plan = _plan(slot, weights, spec)
  features = triton_hash_lookup.hash_lookup(
      table, position[plan.order], slot[plan.order], spec=spec.grid
  )
  operands = _operands(plan, features, position, weights, ray_idx, ray_inputs)
  out = triton_mlp.forward(spec, False)(operands)
  lookup = None if wanted[0] is None else (table, position, slot)
  return out, (operands, plan.edges, lookup, wanted)


def _instantiate(cotangent):
  if isinstance(cotangent, _SymbolicZero):
    return jnp.zeros(cotangent.shape, cotangent.dtype)
  return cotangent


def _ray_sums(per_sample, ray_idx, num_rays: int):
  """[R, D] sums over the samples of each ray, in a fixed order."""
  order, edges = blocks.sort(ray_idx, num_rays)
  return triton_mlp.sum_rows(per_sample, order, edges[:-2], edges[1:-1])


def _field_bwd(spec, residual, grads):
  operands, edges, lookup, wanted = residual
  size = triton_mlp.block_size(operands.order.shape[0], spec, gradient=True)
  plan = blocks.cut(operands.order, edges, size)
  operands = operands._replace(
      block_slot=plan.slot, block_first=plan.first, block_count=plan.count
  )
  with_rays = wanted[1] is not None and len(operands.weights) > 2
  features, rays, *partial = triton_mlp.backward(spec, with_rays)(
      operands, *(_instantiate(g) for g in grads)
  )
  weights = []
  in_place = jnp.zeros(0, jnp.int32)
  for w, parts in zip(operands.weights, partial):
    flat = parts.reshape(parts.shape[0], w.shape[1] * w.shape[2])
    total = triton_mlp.sum_rows(
        flat, in_place, plan.slot_starts, plan.slot_ends
    )
    weights.append(total.reshape(w.shape))
  position = None
  if lookup is not None:
    position = triton_hash_lookup.position_gradient(
        *lookup, features, spec=spec.grid
    )
  g_rays = None
  if with_rays:
    num_rays = operands.ray_inputs.shape[0]
    g_rays = _ray_sums(rays, operands.ray_idx, num_rays)
  probe = None if wanted[2] is None else features
  return None, tuple(weights), position, None, None, g_rays, probe


_field.defvjp(_field_fwd, _field_bwd, symbolic_zeros=True)


def _nothing(params, slot) -> bool:
  return slot.shape[0] == 0 or params["table"].shape[0] == 0


def node_density(params, position, slot, *, spec: specs.FieldSpec, probe=None):
  """See api.node_density."""
  if _nothing(params, slot):
    return jnp.zeros(slot.shape, jnp.float32)
  table = dispatch.no_gradient("node_density", params["table"])
  weights = (params["density"]["w0"], params["density"]["w1"])
  unread = jnp.zeros(1, jnp.int32)
  rays = jnp.zeros((1, spec.ray_input_dim), jnp.float32)
  return _field(spec, table, weights, position, slot, unread, rays, probe)[0]


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
  if _nothing(params, slot):
    raw = jnp.zeros(slot.shape, jnp.float32)
    return raw, jnp.zeros((slot.shape[0], 3), jnp.float32)
  table = dispatch.no_gradient("node_field", params["table"])
  density, color = params["density"], params["color"]
  weights = (density["w0"], density["w1"])
  weights += (color["w0"], color["w1"], color["w2"])
  return _field(
      spec, table, weights, position, slot, ray_idx, ray_inputs, probe
  )


def _self_test(spec: specs.FieldSpec) -> None:
  """Values and gradients against the reference, as exact as the type is."""
  small = dataclasses.replace(
      spec, grid=native.hash_native.small_spec(spec.grid)
  )
  params, position, slot, ray_idx, rays = native.example(small)
  weights = {k: params[k] for k in ("density", "color")}
  grid = small.grid
  probe = jnp.zeros(
      (grid.num_grid_scales, slot.shape[0], grid.num_features), jnp.float32
  )

  def run(module):
    def loss(weights, rays, probe):
      full = {"table": params["table"], **weights}
      out = module.node_field(
          full, position, slot, ray_idx, rays, spec=small, probe=probe
      )
      return jnp.sum(jnp.sin(out[0])) + jnp.sum(out[1] ** 2), out

    grad = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    plain = module.node_field(params, position, slot, ray_idx, rays, spec=small)
    return jax.jit(grad)(weights, rays, probe), plain

  tolerance = 1e-3 if spec.compute_dtype == "float32" else 3e-2
  for got, want in zip(*(jax.tree.leaves(run(m)) for m in (_THIS, reference))):
    scale = float(jnp.max(jnp.abs(want))) + 1.0
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


class _THIS:  # this module, as `run` above takes one
  node_field = staticmethod(node_field)
