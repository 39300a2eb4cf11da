"""Exact ray casting: a walk over lots (2-D DDA) and closed-form shapes.

Precision: a ray enters the slab that holds the city in float64; from there on
lots are integers and positions are float32 relative to a lot, so that an
orbit's height or 50 km from the centre cost no digits. The cost of a ray is
the number of lots it crosses inside the slab until it hits, whatever the
city's extent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene.city import layout

NOTHING, BODY, BOX, CROWN0, CROWN1, TRUNK0, TRUNK1, GROUND = range(8)

TRUNK_HALF_WIDTH = 0.14
_TINY = 1e-9
_LOT = np.float32(layout.LOT)


class Hit(NamedTuple):
  """Where rays end; T rays.

  Attributes:
    distance: [T] float64, metres along the ray; infinite in the sky.
    shape: [T] int32, NOTHING, BODY, BOX, CROWN0, ... GROUND.
    lot_x: [T] int32.
    lot_y: [T] int32.
    local: three [T] float32, position within the lot, metres.
    num_steps: int32, lots walked by the ray that walked most.
  """

  distance: jax.Array
  shape: jax.Array
  lot_x: jax.Array
  lot_y: jax.Array
  local: tuple[jax.Array, jax.Array, jax.Array]
  num_steps: jax.Array


def _nudge(direction):
  """Directions without zeros, so that their inverses are finite."""
  return jnp.where(jnp.abs(direction) < _TINY, _TINY, direction)


def _slab(origin, inverse, low, high):
  """Interval of t in which low < origin + t / inverse < high."""
  first, second = (low - origin) * inverse, (high - origin) * inverse
  return jnp.minimum(first, second), jnp.maximum(first, second)


def _hit_or_inf(near, far):
  return jnp.where((near < far) & (near > 0), near, jnp.inf)


def _half_space(height, fall, near, far):
  """Clips the interval to height + t * fall < 0."""
  fall = _nudge(fall)
  t = -height / fall
  near = jnp.where(fall < 0, jnp.maximum(near, t), near)
  return near, jnp.where(fall > 0, jnp.minimum(far, t), far)


def _body_distance(origin, direction, inverse, lot):
  """Distance to the roofed body: walls cut by four roof planes."""
  x, y = origin[0] - lot.center_x, origin[1] - lot.center_y
  near_x, far_x = _slab(x, inverse[0], -lot.half_x, lot.half_x)
  near_y, far_y = _slab(y, inverse[1], -lot.half_y, lot.half_y)
  near, far = jnp.maximum(near_x, near_y), jnp.minimum(far_x, far_y)
  for offset, step, slope, top in (
      (x, direction[0], lot.slope_x, lot.top_x),
      (y, direction[1], lot.slope_y, lot.top_y),
  ):
    for sign in (1.0, -1.0):
      near, far = _half_space(
          origin[2] + sign * slope * offset - top,
          direction[2] + sign * slope * step,
          near,
          far,
      )
  hit = _hit_or_inf(near, far)
  return jnp.where((lot.half_x > 0) & (lot.half_y > 0), hit, jnp.inf)


def _column_distance(origin, inverse, x, y, half_x, half_y, low, top):
  """Distance to an axis-aligned box."""
  near_x, far_x = _slab(origin[0] - x, inverse[0], -half_x, half_x)
  near_y, far_y = _slab(origin[1] - y, inverse[1], -half_y, half_y)
  near_z, far_z = _slab(origin[2], inverse[2], low, top)
  near = jnp.maximum(jnp.maximum(near_x, near_y), near_z)
  far = jnp.minimum(jnp.minimum(far_x, far_y), far_z)
  return jnp.where(half_x > 0, _hit_or_inf(near, far), jnp.inf)


def _crown_distance(origin, direction, x, y, z, radius, half_height):
  """Distance to an upright ellipsoid."""
  across, up = 1 / radius, 1 / half_height
  ox, oy = (origin[0] - x) * across, (origin[1] - y) * across
  oz = (origin[2] - z) * up
  dx, dy, dz = direction[0] * across, direction[1] * across, direction[2] * up
  a = dx * dx + dy * dy + dz * dz
  half_b = ox * dx + oy * dy + oz * dz
  # The distance of the line from the centre, instead of the difference of
  # two large numbers, keeps far crowns round in float32.
  along = half_b / a
  qx, qy, qz = ox - along * dx, oy - along * dy, oz - along * dz
  rest = 1 - (qx * qx + qy * qy + qz * qz)
  root = jnp.sqrt(jnp.maximum(rest, 0) / a)
  near = -along - root
  return jnp.where((radius > 0) & (rest > 0) & (near > 0), near, jnp.inf)


def nearest_in_lot(origin, direction, inverse, lot: layout.Lot):
  """Nearest shape of a lot.

  Args:
    origin: three [T] float32, local metres of the lot.
    direction: three [T] float32.
    inverse: three [T] float32, reciprocals of `direction`.
    lot: contents.

  Returns:
    ([T] float32 distance or infinity, [T] int32 shape).
  """
  candidates = [
      (_body_distance(origin, direction, inverse, lot), BODY),
      (
          _column_distance(
              origin,
              inverse,
              lot.box_x,
              lot.box_y,
              lot.box_half_x,
              lot.box_half_y,
              lot.box_low,
              lot.box_top,
          ),
          BOX,
      ),
  ]
  for i in range(2):
    x, y, z = lot.tree_x[i], lot.tree_y[i], lot.tree_z[i]
    radius, tall = lot.tree_radius[i], lot.tree_half_height[i]
    crown = _crown_distance(origin, direction, x, y, z, radius, tall)
    half = jnp.where(radius > 0, np.float32(TRUNK_HALF_WIDTH), -1.0)
    trunk = _column_distance(origin, inverse, x, y, half, half, 0.0, z)
    candidates += [(crown, CROWN0 + i), (trunk, TRUNK0 + i)]
  nearest = jnp.full_like(origin[0], jnp.inf)
  shape = jnp.zeros(origin[0].shape, jnp.int32)
  for distance, kind in candidates:
    shape = jnp.where(distance < nearest, jnp.int32(kind), shape)
    nearest = jnp.minimum(distance, nearest)
  return nearest, shape


def walk_lots(lot_x, lot_y, local, direction, end, seed):
  """Walks rays from lot to lot until they hit or have gone `end` metres.

  Args:
    lot_x: [T] int32, lots that the rays start in.
    lot_y: [T] int32.
    local: three [T] float32, start within the lot, metres.
    direction: three [T] float32.
    end: [T] float32, metres; not positive: the ray is not walked.
    seed: uint32.

  Returns:
    ([T] float32 distance or infinity, [T] int32 shape, [T], [T] int32 lot of
    the hit, int32 number of steps).
  """
  direction = tuple(_nudge(d) for d in direction)
  inverse = tuple(1 / d for d in direction)
  step = tuple(jnp.where(d > 0, 1, -1).astype(jnp.int32) for d in direction)
  start_x, start_y = lot_x, lot_y

  def body(state):
    x, y, _, _, active, count = state
    origin = (
        local[0] + (start_x - x).astype(jnp.float32) * _LOT,
        local[1] + (start_y - y).astype(jnp.float32) * _LOT,
        local[2],
    )
    lot = layout.lot_contents(x, y, seed)
    hit, kind = nearest_in_lot(origin, direction, inverse, lot)
    kind = jnp.where(active & (hit < end), kind, NOTHING)
    exit_x = (jnp.where(direction[0] > 0, _LOT, 0.0) - origin[0]) * inverse[0]
    exit_y = (jnp.where(direction[1] > 0, _LOT, 0.0) - origin[1]) * inverse[1]
    leave = jnp.minimum(exit_x, exit_y)
    go = active & (kind == NOTHING) & (leave < end)
    x = x + jnp.where(go & (exit_x <= exit_y), step[0], 0)
    y = y + jnp.where(go & (exit_x > exit_y), step[1], 0)
    distance = jnp.where(active, hit, state[2])
    shape = jnp.where(active, kind, state[3])
    return x, y, distance, shape, go, count + 1

  init = (
      lot_x,
      lot_y,
      jnp.full_like(end, jnp.inf),
      jnp.zeros_like(lot_x),
      end > 0,
      jnp.int32(0),
  )
  x, y, distance, shape, _, count = jax.lax.while_loop(
      lambda state: jnp.any(state[4]), body, init
  )
  distance = jnp.where(shape == NOTHING, jnp.inf, distance)
  return distance, shape, x, y, count


def split_lots(x, y):
  """Lots and local coordinates of world positions.

  Args:
    x: [T] float64, metres, world.
    y: [T] float64.

  Returns:
    ([T] int32, [T] int32, [T] float32, [T] float32).
  """
  lots, locals_ = [], []
  for value in (x, y):
    shifted = value / layout.LOT + 0.5
    # Beyond int32 only the horizon is left, where every texture has faded.
    lot = jnp.clip(jnp.floor(shifted), -(2.0**30), 2.0**30)
    lots.append(lot.astype(jnp.int32))
    local = jnp.clip((shifted - lot) * layout.LOT, 0.0, layout.LOT)
    locals_.append(local.astype(jnp.float32))
  return lots[0], lots[1], locals_[0], locals_[1]


def cast(origin, direction, seed, radius) -> Hit:
  """Casts rays into the city and its surroundings.

  Args:
    origin: three [T] float64, metres, world.
    direction: three [T] float64, unit length.
    seed: uint32, `layout.seed_word`.
    radius: int32, `layout.radius_in_lots`.

  Returns:
    Hit.
  """
  half = (radius.astype(jnp.float64) + 0.5) * layout.LOT
  inverse = tuple(1 / _nudge(d) for d in direction)
  ground = jnp.where(direction[2] < 0, -origin[2] * inverse[2], jnp.inf)
  ground = jnp.where(ground > 0, ground, jnp.inf)
  near_x, far_x = _slab(origin[0], inverse[0], -half, half)
  near_y, far_y = _slab(origin[1], inverse[1], -half, half)
  near_z, far_z = _slab(origin[2], inverse[2], 0.0, layout.MAX_HEIGHT)
  near = jnp.maximum(jnp.maximum(near_x, near_y), jnp.maximum(near_z, 0.0))
  far = jnp.minimum(jnp.minimum(far_x, far_y), far_z)
  entry = jnp.where(near < far, near, 0.0)
  lot_x, lot_y, local_x, local_y = split_lots(
      origin[0] + entry * direction[0], origin[1] + entry * direction[1]
  )
  # Rounding may put an entry through the city's edge just outside it.
  inside_x = jnp.clip(lot_x, -radius, radius)
  inside_y = jnp.clip(lot_y, -radius, radius)
  local = (
      local_x + (lot_x - inside_x).astype(jnp.float32) * _LOT,
      local_y + (lot_y - inside_y).astype(jnp.float32) * _LOT,
      (origin[2] + entry * direction[2]).astype(jnp.float32),
  )
  end = jnp.where(near < far, far - near, -1.0).astype(jnp.float32)
  thin = tuple(d.astype(jnp.float32) for d in direction)
  walked, shape, hit_x, hit_y, count = walk_lots(
      inside_x, inside_y, local, thin, end, seed
  )
  standing = shape != NOTHING
  distance = jnp.where(standing, entry + walked.astype(jnp.float64), ground)
  reach = jnp.where(jnp.isfinite(distance), distance, 0.0)
  x, y = origin[0] + reach * direction[0], origin[1] + reach * direction[1]
  ground_x, ground_y, ground_lx, ground_ly = split_lots(x, y)
  lot_x = jnp.where(standing, hit_x, ground_x)
  lot_y = jnp.where(standing, hit_y, ground_y)
  local_x = x - (lot_x.astype(jnp.float64) - 0.5) * layout.LOT
  local_y = y - (lot_y.astype(jnp.float64) - 0.5) * layout.LOT
  height = origin[2] + reach * direction[2]
  on_ground = ~standing & jnp.isfinite(ground)
  return Hit(
      distance=distance,
      shape=jnp.where(on_ground, GROUND, shape).astype(jnp.int32),
      lot_x=lot_x,
      lot_y=lot_y,
      local=(
          jnp.where(standing, local_x, ground_lx).astype(jnp.float32),
          jnp.where(standing, local_y, ground_ly).astype(jnp.float32),
          jnp.where(standing, height, 0.0).astype(jnp.float32),
      ),
      num_steps=count,
  )
