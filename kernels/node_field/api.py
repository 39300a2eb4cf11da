"""Node field: raw density and colour of samples that lie in different nodes."""

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.hash_lookup import api as hash_api
from kernels.node_field import native, reference, specs, xla

_BACKENDS = {"reference": reference, "xla": xla, "native": native}


@jax.named_scope("node_density")
def node_density(
    params: dict,
    position: jax.Array,
    slot: jax.Array,
    *,
    spec: specs.FieldSpec,
    probe: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
  """Raw density (before trunc_exp) of each sample in its node.

  Differentiable in the MLP weights, `position` and `probe`; in the table only
  by the reference. Gradients of untouched slots are zero.

  Args:
    params: see specs.FieldSpec; "color" is not read.
    position: [S, 3] float32, in [0, 1]^3 of the node's own box.
    slot: [S] int32; outside [0, N): skipped, zero output and gradient.
    spec: sizes.
    probe: None or [L, S, F] float32 zeros that stand for an additive change of
      the encoded features: its cotangent is the features' gradient. Native
      does not read it.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    raw [S] float32.

  Raises:
    ValueError: shapes disagree with each other or with the spec.
    TypeError: differentiated in the table by another than the reference.
    NotImplementedError, RuntimeError: the named implementation cannot run.
  """
  params = {"table": params["table"], "density": params["density"]}
  params = jax.tree.map(jnp.asarray, params)
  position, slot = jnp.asarray(position), jnp.asarray(slot)
  _check("node_density", params, position, slot, probe, spec)
  name = _choose("node_density", params, spec, implementation)
  return _backend(name).node_density(
      params, position, slot, spec=spec, probe=probe
  )


@jax.named_scope("node_field")
def node_field(
    params: dict,
    position: jax.Array,
    slot: jax.Array,
    ray_idx: jax.Array,
    ray_inputs: jax.Array,
    *,
    spec: specs.FieldSpec,
    probe: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Raw density and colour of each sample in its node.

  As node_density, and differentiable in `ray_inputs`. Fastest where samples of
  a ray are consecutive: they share the ray's part of the colour network.

  Args:
    params: see specs.FieldSpec.
    position: [S, 3] float32, in [0, 1]^3 of the node's own box.
    slot: [S] int32; outside [0, N): skipped, zero outputs and gradient.
    ray_idx: [S] int32, row of ray_inputs; outside [0, R) reads zeros.
    ray_inputs: [R, D] float32, what samples of a ray share.
    spec: sizes.
    probe: see node_density.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    raw [S] float32, rgb [S, 3] float32 in [0, 1].

  Raises:
    See node_density.
  """
  params = jax.tree.map(jnp.asarray, params)
  position, slot = jnp.asarray(position), jnp.asarray(slot)
  ray_idx, ray_inputs = jnp.asarray(ray_idx), jnp.asarray(ray_inputs)
  _check("node_field", params, position, slot, probe, spec)
  _check_rays("node_field", slot, ray_idx, ray_inputs, spec)
  name = _choose("node_field", params, spec, implementation)
  return _backend(name).node_field(
      params, position, slot, ray_idx, ray_inputs, spec=spec, probe=probe
  )


@jax.named_scope("node_geometry")
def node_geometry(
    params: dict,
    position: jax.Array,
    slot: jax.Array,
    *,
    spec: specs.FieldSpec,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As node_density, and what node_color needs of each sample; no gradient.

  Args:
    params: see specs.FieldSpec; "color" is not read.
    position: [S, 3] float32, in [0, 1]^3 of the node's own box.
    slot: [S] int32; outside [0, N): skipped.
    spec: sizes.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    raw [S] float32, zero where skipped; geometry [S, ...] float32, what the
    backend hands on: nothing where it begins anew (xla, triton), undefined
    where skipped.

  Raises:
    See node_density.
  """
  params = {"table": params["table"], "density": params["density"]}
  params = jax.tree.map(jnp.asarray, params)
  position, slot = jnp.asarray(position), jnp.asarray(slot)
  _check("node_geometry", params, position, slot, None, spec)
  if _choose("node_geometry", params, spec, implementation) == "native":
    return native.node_geometry(params, position, slot, spec=spec)
  raw = node_density(
      params, position, slot, spec=spec, implementation=implementation
  )
  return raw, jnp.zeros((slot.shape[0], 0), jnp.float32)


@jax.named_scope("node_color")
def node_color(
    params: dict,
    geometry: jax.Array,
    position: jax.Array,
    slot: jax.Array,
    ray_idx: jax.Array,
    ray_inputs: jax.Array,
    *,
    spec: specs.FieldSpec,
    implementation: str | None = None,
) -> jax.Array:
  """Colours of samples that node_geometry has seen; no gradient.

  Args:
    params: see specs.FieldSpec.
    geometry: of node_geometry of the same implementation.
    position: as node_geometry took it.
    slot: likewise, or outside [0, N): no colour.
    ray_idx: see node_field.
    ray_inputs: see node_field.
    spec: sizes.
    implementation: None or one of dispatch.IMPLEMENTATIONS.

  Returns:
    rgb [S, 3] float32 in [0, 1], zero where skipped.

  Raises:
    See node_density.
  """
  params = jax.tree.map(jnp.asarray, params)
  position, slot = jnp.asarray(position), jnp.asarray(slot)
  ray_idx, ray_inputs = jnp.asarray(ray_idx), jnp.asarray(ray_inputs)
  _check("node_color", params, position, slot, None, spec)
  _check_rays("node_color", slot, ray_idx, ray_inputs, spec)
  if _choose("node_color", params, spec, implementation) != "native":
    return node_field(
        params, position, slot, ray_idx, ray_inputs, spec=spec,
        implementation=implementation,
    )[1]  # fmt: skip
  return native.node_color(
      params, geometry, position, slot, ray_idx, ray_inputs, spec=spec
  )


def _choose(op: str, params, spec, implementation) -> str:
  return dispatch.choose(
      op,
      implementation,
      lambda: native.ready(params, spec),
      lambda: dispatch.triton_module("node_field").ready(params, spec),
  )


def _backend(name: str):
  if name == "triton":
    return dispatch.triton_module("node_field")
  return _BACKENDS[name]


def _check(op, params, position, slot, probe, spec) -> None:
  table = params["table"]
  hash_api.check_samples(op, table, position, slot, spec.grid)
  shapes = spec.weight_shapes(table.shape[0])
  for group in ("density", "color"):
    for name, array in params.get(group, {}).items():
      want = shapes[group].get(name)
      if array.shape != want:
        raise ValueError(
            f"{op}: got params[{group!r}][{name!r}] {array.shape}, expected"
            f" {want}"
        )
  grid = spec.grid
  want = (grid.num_grid_scales, slot.shape[0], grid.num_features)
  if probe is not None and probe.shape != want:
    raise ValueError(f"{op}: got probe {probe.shape}, expected {want}")


def _check_rays(op, slot, ray_idx, ray_inputs, spec) -> None:
  if ray_idx.shape != slot.shape or ray_idx.dtype != "int32":
    raise ValueError(
        f"{op}: got ray_idx {ray_idx.dtype}{ray_idx.shape}, expected"
        f" int32{slot.shape}"
    )
  if ray_inputs.ndim != 2 or ray_inputs.shape[1] != spec.ray_input_dim:
    raise ValueError(
        f"{op}: got ray_inputs {ray_inputs.shape}, expected"
        f" [R, {spec.ray_input_dim}]"
    )
