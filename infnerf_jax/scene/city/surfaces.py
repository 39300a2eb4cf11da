"""Normals, faces and lots of what samples hit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene.city import layout, raycast

_u32 = np.uint32


class Surface(NamedTuple):
  """What a sample hit; fields are [T].

  Attributes:
    hit: raycast.Hit.
    lot: layout.Lot of the hit.
    width: float32, metres, width of the sample across the surface.
    normal: three float32.
    wall_x, wall_y: bool, upright face across x, across y.
    face: uint32, differs between faces of a shape.
  """

  hit: raycast.Hit
  lot: layout.Lot
  width: jax.Array
  normal: tuple[jax.Array, jax.Array, jax.Array]
  wall_x: jax.Array
  wall_y: jax.Array
  face: jax.Array


def body_normal(local, lot: layout.Lot):
  """Normal of the body's face nearest to a point, and the face's number."""
  x, y = local[0] - lot.center_x, local[1] - lot.center_y
  side_x, side_y = jnp.where(x < 0, -1.0, 1.0), jnp.where(y < 0, -1.0, 1.0)
  lean_x = 1 / jnp.sqrt(1 + lot.slope_x * lot.slope_x)
  lean_y = 1 / jnp.sqrt(1 + lot.slope_y * lot.slope_y)
  gaps = (
      jnp.abs(x) - lot.half_x,
      jnp.abs(y) - lot.half_y,
      (local[2] + lot.slope_x * jnp.abs(x) - lot.top_x) * lean_x,
      (local[2] + lot.slope_y * jnp.abs(y) - lot.top_y) * lean_y,
  )
  nearest = jnp.maximum(
      jnp.maximum(gaps[0], gaps[1]), jnp.maximum(gaps[2], gaps[3])
  )
  wall_x = gaps[0] == nearest
  wall_y = ~wall_x & (gaps[1] == nearest)
  roof_x = ~wall_x & ~wall_y & (gaps[2] == nearest)
  zero = jnp.zeros_like(x)
  nx = jnp.where(roof_x, side_x * lot.slope_x * lean_x, zero)
  ny = jnp.where(roof_x, zero, side_y * lot.slope_y * lean_y)
  nz = jnp.where(roof_x, lean_x, lean_y)
  return _with_walls((nx, ny, nz), wall_x, wall_y, side_x, side_y)


def _with_walls(normal, wall_x, wall_y, side_x, side_y):
  """Overrides a normal on upright faces."""
  nx = jnp.where(wall_x, side_x, jnp.where(wall_y, 0.0, normal[0]))
  ny = jnp.where(wall_y, side_y, jnp.where(wall_x, 0.0, normal[1]))
  nz = jnp.where(wall_x | wall_y, 0.0, normal[2])
  return (nx, ny, nz), wall_x, wall_y


def _column_normal(local, x, y, half_x, half_y, top):
  """Normal of an axis-aligned box's face nearest to a point."""
  x, y = local[0] - x, local[1] - y
  gap_x, gap_y = jnp.abs(x) - half_x, jnp.abs(y) - half_y
  gap_z = local[2] - top
  wall_x = (gap_x >= gap_y) & (gap_x >= gap_z)
  wall_y = ~wall_x & (gap_y >= gap_z)
  side_x, side_y = jnp.where(x < 0, -1.0, 1.0), jnp.where(y < 0, -1.0, 1.0)
  zero = jnp.zeros_like(x)
  return _with_walls((zero, zero, zero + 1), wall_x, wall_y, side_x, side_y)


def surface_at(hit: raycast.Hit, width, seed) -> Surface:
  """Gathers what materials need to know of hits.

  Args:
    hit: T hits.
    width: [T] float32, metres, width of the samples across the rays.
    seed: uint32.

  Returns:
    Surface.
  """
  lot = layout.lot_contents(hit.lot_x, hit.lot_y, seed)
  local, shape = hit.local, hit.shape
  normal, wall_x, wall_y = body_normal(local, lot)
  body = shape == raycast.BODY

  def override(use, value):
    nonlocal normal, wall_x, wall_y
    normal = tuple(jnp.where(use, v, n) for v, n in zip(value[0], normal))
    wall_x = jnp.where(use, value[1], wall_x)
    wall_y = jnp.where(use, value[2], wall_y)

  box = _column_normal(
      local, lot.box_x, lot.box_y, lot.box_half_x, lot.box_half_y, lot.box_top
  )
  override(shape == raycast.BOX, box)
  half = np.float32(raycast.TRUNK_HALF_WIDTH)
  never = jnp.zeros_like(body)
  for i in range(2):
    x, y, z = lot.tree_x[i], lot.tree_y[i], lot.tree_z[i]
    override(
        shape == raycast.TRUNK0 + i, _column_normal(local, x, y, half, half, z)
    )
    flat = lot.tree_radius[i] / lot.tree_half_height[i]
    nx, ny = local[0] - x, local[1] - y
    nz = (local[2] - z) * flat * flat
    scale = jax.lax.rsqrt(jnp.maximum(nx * nx + ny * ny + nz * nz, 1e-12))
    crown = ((nx * scale, ny * scale, nz * scale), never, never)
    override(shape == raycast.CROWN0 + i, crown)
  up = (jnp.zeros_like(width), jnp.zeros_like(width), jnp.ones_like(width))
  override(shape == raycast.GROUND, (up, never, never))
  face = (
      shape.astype(jnp.uint32) * _u32(0x68BC21EB)
      + jnp.where(wall_x, _u32(1), _u32(0)) * _u32(0x02E5BE93)
      + jnp.where(normal[0] + normal[1] > 0, _u32(1), _u32(0))
      * _u32(0x967A889B)
  )
  return Surface(hit, lot, width, normal, wall_x, wall_y, face)
