"""Bits that say which parts of nodes hold something."""

import jax
import jax.numpy as jnp
import numpy as np

BRICK = 4  # cells along a node's side: 64 bits, two words


def pack_occupancy(occupied) -> jax.Array:
  """Words of occupancy from one flag a cell.

  Args:
    occupied: [N, 4, 4, 4] bool, cells of a node's box along x, y, z.

  Returns:
    [N, 2] int32; bit 16x + 4y + z of the 64.
  """
  flat = jnp.asarray(occupied, jnp.uint32).reshape(-1, 2, 32)
  words = jnp.sum(flat << jnp.arange(32, dtype=jnp.uint32), -1, jnp.uint32)
  return jax.lax.bitcast_convert_type(words, jnp.int32)


def tree_occupancy(children) -> np.ndarray:
  """Occupancy that takes missing octants for empty space.

  For scenes whose tree covers every surface: where a node has children but
  none in an octant, nothing was reconstructed there. Leaves are full.

  Args:
    children: [N, 8] int32, -1 absent.

  Returns:
    [N, 2] int32, see pack_occupancy.
  """
  present = np.asarray(children) >= 0
  present = present | ~present.any(axis=-1, keepdims=True)
  cells = present.reshape(-1, 2, 2, 2)
  for axis in (1, 2, 3):
    cells = cells.repeat(BRICK // 2, axis)
  return np.asarray(pack_occupancy(cells))
