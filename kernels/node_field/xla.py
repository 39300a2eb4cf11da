"""Node field shaped for XLA: samples sorted by slot into blocks of one slot.

Blocks are a static number, ceil(S / BLOCK) + min(N, S): cost grows slowly with
the number of slots, which the native backend avoids. The table has no gradient
(see `probe`).
"""

import jax
import jax.numpy as jnp

from kernels.hash_lookup import xla as hash_xla
from kernels.node_field import specs

BLOCK = 128


def _blocks(slot, num_slots: int):
  """Where each sample goes.

  Returns:
    order [S]: sorted place -> sample; place [S]: sorted place -> place in the
    blocks; slots [num_blocks].
  """
  num_samples = slot.shape[0]
  key = jnp.where((slot >= 0) & (slot < num_slots), slot, num_slots)
  order = jnp.argsort(key, stable=True)
  key = key[order]
  edges = jnp.searchsorted(key, jnp.arange(num_slots + 1))
  counts = jnp.diff(edges)  # [N]
  num_full = (counts + BLOCK - 1) // BLOCK
  ends = jnp.cumsum(num_full)
  first = jnp.concatenate([ends - num_full, ends[-1:]])  # [N + 1]
  num_blocks = -(-num_samples // BLOCK) + min(num_slots, num_samples)
  rank = jnp.arange(num_samples) - edges[key]
  # Skipped samples go nowhere: past the end.
  place = jnp.where(
      key < num_slots, first[key] * BLOCK + rank, num_blocks * BLOCK
  )
  slots = jnp.searchsorted(ends, jnp.arange(num_blocks), side="right")
  return order, place, jnp.minimum(slots, num_slots - 1)


def _layer(x, weights, slots):
  at = weights.at[slots].get(mode="promise_in_bounds")
  return jnp.einsum("bsi,bio->bso", x, at)


def _to_blocks(x, place, num_blocks):
  """[S, C] in sorted order -> [num_blocks, BLOCK, C], zeros where empty."""
  out = jnp.zeros((num_blocks * BLOCK, x.shape[1]), x.dtype)
  out = out.at[place].set(x, mode="drop", unique_indices=True)
  return out.reshape(num_blocks, BLOCK, -1)


def _from_blocks(x, place, order):
  """[num_blocks, BLOCK, C] -> [S, C] in the samples' order."""
  x = x.reshape(-1, x.shape[-1])
  x = x.at[place].get(mode="fill", fill_value=0)
  return jnp.zeros_like(x).at[order].set(x, unique_indices=True)


def _encode(params, position, slot, probe, spec):
  table = params["table"]
  order, place, slots = _blocks(slot, table.shape[0])
  features = hash_xla.hash_lookup(
      table, position[order], slot[order], spec=spec.grid
  )
  if probe is not None:
    features = features + probe[:, order]
  x = jnp.moveaxis(features, 0, 1).reshape(
      slot.shape[0], spec.grid.encoded_dim
  )  # [S, L * F]
  return _to_blocks(x, place, slots.shape[0]), order, place, slots


def node_density(params, position, slot, *, spec: specs.FieldSpec, probe=None):
  """See api.node_density."""
  if slot.shape[0] == 0 or params["table"].shape[0] == 0:
    return jnp.zeros(slot.shape, jnp.float32)
  weights = params["density"]
  x, order, place, slots = _encode(params, position, slot, probe, spec)
  hidden = jax.nn.relu(_layer(x, weights["w0"], slots))
  raw = _layer(hidden, weights["w1"][:, :, :1], slots)
  return _from_blocks(raw, place, order)[:, 0]


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
  num_samples = slot.shape[0]
  if num_samples == 0 or params["table"].shape[0] == 0:
    raw = jnp.zeros(slot.shape, jnp.float32)
    return raw, jnp.zeros((num_samples, 3), jnp.float32)
  x, order, place, slots = _encode(params, position, slot, probe, spec)
  density, color = params["density"], params["color"]
  hidden = jax.nn.relu(_layer(x, density["w0"], slots))
  out = _layer(hidden, density["w1"], slots)  # [B, BLOCK, 1 + G]
  rays = ray_inputs.at[ray_idx[order]].get(
      mode="fill", fill_value=0, wrap_negative_indices=False
  )
  rays = _to_blocks(rays, place, slots.shape[0])
  x = jnp.concatenate([jax.nn.sigmoid(out[..., 1:]), rays], axis=-1)
  hidden = jax.nn.relu(_layer(x, color["w0"], slots))
  hidden = jax.nn.relu(_layer(hidden, color["w1"], slots))
  rgb = jax.nn.sigmoid(_layer(hidden, color["w2"], slots))
  both = jnp.concatenate([out[..., :1], rgb], axis=-1)
  both = _from_blocks(both, place, order)
  return both[:, 0], both[:, 1:]
