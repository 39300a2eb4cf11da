"""Patterns averaged over the width of a sample, in closed form."""

import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene.city import hashing


def _select(index, table):
  """Colour `index` of a short table, by comparisons (no gather)."""
  color = [jnp.full(index.shape, np.float32(c)) for c in table[0]]
  for i, entry in enumerate(table[1:], 1):
    color = [
        jnp.where(index == i, np.float32(e), c) for e, c in zip(entry, color)
    ]
  return tuple(color)


def choose(value, table):
  """Colour of a table by a uniform number in [0, 1), three [T] float32."""
  return _select((value * len(table)).astype(jnp.int32), table)


def blend(under, over, amount):
  """Mixes colours; `over` may be a triple of numbers or arrays."""
  return tuple(u + (o - u) * amount for u, o in zip(under, over))


def edge(inside, width):
  """Share of a sample on the side where `inside`, metres, is positive."""
  return jnp.clip(inside / width + 0.5, 0.0, 1.0)


def pulse(x, low, high, width):
  """Mean over `width` of the periodic pulse that is 1 in [low, high)."""
  width = jnp.maximum(width, 2e-3)

  def integral(y):
    whole = jnp.floor(y)
    return whole * (high - low) + jnp.clip(y - whole - low, 0, high - low)

  return (integral(x + width / 2) - integral(x - width / 2)) / width


def cells(u, v, size_u, size_v, stagger, joint, word, width):
  """Tiles, bricks or slabs: deviation of each cell and share of joint.

  Args:
    u, v: [T] float32, metres.
    size_u, size_v: [T] float32, metres, of a cell.
    stagger: [T] float32, shift of every second row, in cells.
    joint: [T] float32, metres, width of joints.
    word: [T] uint32, seed.
    width: [T] float32, metres.

  Returns:
    ([T] float32 in [-1, 1] deviation, [T] float32 in [0, 1] joint).
  """
  row = v / size_v
  whole = jnp.floor(row)
  column = u / size_u + stagger * (whole - 2 * jnp.floor(whole / 2))
  word = hashing.cell_hash(
      jnp.floor(column).astype(jnp.int32), whole.astype(jnp.int32), word
  )
  small = jnp.minimum(size_u, size_v)
  level = (2 * hashing.uniform(word, 0) - 1) * hashing.fade(width, small)
  solid_u = pulse(column, 0.0, 1 - joint / size_u, width / size_u)
  solid_v = pulse(row, 0.0, 1 - joint / size_v, width / size_v)
  return level, 1 - solid_u * solid_v
