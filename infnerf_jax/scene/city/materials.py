"""Colours of surfaces, already averaged over the width of a sample.

A pattern is either a box filter in closed form (windows, joints, markings),
or varies about its mean by cells or noise octaves that fade to the mean when
the sample is wider than they are. So one sample of any width sees about what
the mean of many narrow samples sees. Colours are as in a photo's file, in
[0, 1], and averages are taken in them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene.city import hashing, layout, raycast

_u32 = np.uint32
# Towards the sun; a late morning in the south-east.
SUN = np.array([0.52, -0.42, 0.74], np.float64)
SUN = SUN / np.linalg.norm(SUN)
_AMBIENT, _SUNLIGHT = 0.50, 0.58

_WALLS = (
    (0.86, 0.79, 0.66),
    (0.66, 0.36, 0.27),
    (0.82, 0.62, 0.44),
    (0.70, 0.70, 0.68),
    (0.88, 0.85, 0.80),
    (0.74, 0.52, 0.40),
    (0.60, 0.66, 0.70),
    (0.84, 0.72, 0.50),
)
_ROOFS = (
    (0.64, 0.31, 0.21),
    (0.52, 0.26, 0.20),
    (0.36, 0.37, 0.41),
    (0.58, 0.40, 0.28),
)
_DECKS = (
    (0.62, 0.61, 0.58),
    (0.46, 0.46, 0.47),
    (0.70, 0.66, 0.58),
    (0.50, 0.56, 0.46),
)
_CARS = (
    (0.82, 0.82, 0.84),
    (0.16, 0.17, 0.20),
    (0.66, 0.13, 0.12),
    (0.18, 0.30, 0.55),
    (0.52, 0.54, 0.56),
    (0.86, 0.70, 0.22),
)
_SHOPS = (
    (0.66, 0.20, 0.18),
    (0.18, 0.42, 0.36),
    (0.20, 0.30, 0.52),
    (0.80, 0.60, 0.20),
)


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


def _select(index, table):
  """Colour `index` of a short table, by comparisons (no gather)."""
  color = [jnp.full(index.shape, np.float32(c)) for c in table[0]]
  for i, entry in enumerate(table[1:], 1):
    color = [
        jnp.where(index == i, np.float32(e), c) for e, c in zip(entry, color)
    ]
  return tuple(color)


def _choose(value, table):
  return _select((value * len(table)).astype(jnp.int32), table)


def _blend(under, over, amount):
  """Mixes colours; `over` may be a triple of numbers or arrays."""
  return tuple(u + (o - u) * amount for u, o in zip(under, over))


def _edge(inside, width):
  """Share of a sample on the side where `inside`, metres, is positive."""
  return jnp.clip(inside / width + 0.5, 0.0, 1.0)


def _pulse(x, low, high, width):
  """Mean over `width` of the periodic pulse that is 1 in [low, high)."""
  width = jnp.maximum(width, 2e-3)

  def integral(y):
    whole = jnp.floor(y)
    return whole * (high - low) + jnp.clip(y - whole - low, 0, high - low)

  return (integral(x + width / 2) - integral(x - width / 2)) / width


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


def _cells(u, v, size_u, size_v, stagger, joint, word, width):
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
  solid_u = _pulse(column, 0.0, 1 - joint / size_u, width / size_u)
  solid_v = _pulse(row, 0.0, 1 - joint / size_v, width / size_v)
  return level, 1 - solid_u * solid_v


def _facade(s: Surface, u) -> tuple:
  """Windows, shops, ledges and masonry of a building's walls."""
  lot, local, width = s.lot, s.hit.local, s.width
  length = 2 * jnp.where(s.wall_x, lot.half_y, lot.half_x)
  along = jnp.where(
      s.wall_x,
      local[1] - lot.center_y + lot.half_y,
      local[0] - lot.center_x + lot.half_x,
  )
  z = local[2]
  word = lot.word + s.face
  wall = _choose(u(30), _WALLS)
  brick = u(31) < 0.45
  level, joint = _cells(
      along,
      z,
      jnp.where(brick, 0.5, 1.2),
      jnp.where(brick, 0.2, 1.0),
      jnp.where(brick, 0.5, 0.0),
      jnp.where(brick, 0.03, 0.04),
      word,
      width,
  )
  tone = 1 + jnp.where(brick, 0.16, 0.05) * level - 0.25 * joint
  color = tuple(c * tone for c in wall)
  # Windows: bays of about 2.4 m on storeys of 3 m.
  pitch = length / jnp.maximum(jnp.round(length / (2.1 + u(32))), 1.0)
  bay, floor = along / pitch, z / layout.STOREY
  bay_width, floor_width = width / pitch, width / np.float32(layout.STOREY)
  shop = (u(33) < 0.4) & (floor < 1)
  margin = jnp.where(shop, 0.07, 0.2 + 0.1 * u(34))
  low = jnp.where(shop, 0.06, 0.26 - 0.16 * (u(35) < 0.3))
  high = jnp.where(shop, 0.72, 0.80)
  frame = 0.07
  rim_x, rim_z = frame / pitch, np.float32(frame / layout.STOREY)
  opening = _pulse(bay, margin, 1 - margin, bay_width) * _pulse(
      floor, low, high, floor_width
  )
  glass = (
      _pulse(bay, margin + rim_x, 0.5 - rim_x / 2, bay_width)
      + _pulse(bay, 0.5 + rim_x / 2, 1 - margin - rim_x, bay_width)
  ) * _pulse(floor, low + rim_z, high - rim_z, floor_width)
  whole = jnp.floor(lot.eave / layout.STOREY) * layout.STOREY
  there = _edge(whole - z, width)
  pane = hashing.cell_hash(
      jnp.floor(bay).astype(jnp.int32), jnp.floor(floor).astype(jnp.int32), word
  )
  light = hashing.uniform(pane, 1)
  # Most panes are dark, some show curtains; 1/4 is the mean of the cube.
  curtain = 0.25 + (light * light * light - 0.25) * hashing.fade(width, 2.0)
  sky = 0.12 * (floor - jnp.floor(floor) - 0.5) * hashing.fade(width, 3.0)
  pane_color = _blend((0.14, 0.19, 0.24), (0.72, 0.68, 0.56), curtain)
  pane_color = tuple(c + sky for c in pane_color)
  trim = jnp.where(u(36) < 0.6, 0.90, 0.34)
  color = _blend(color, (trim, trim, trim), opening * there)
  part = glass / jnp.maximum(opening, 1e-3)
  color = _blend(color, pane_color, jnp.minimum(part, 1.0) * opening * there)
  # A ledge under each storey, a sign over shops, a cornice at the top.
  ledge = _pulse(floor, 0.0, 0.055, floor_width) * there * (z > 1.5)
  color = _blend(color, tuple(0.5 * c + 0.42 for c in wall), ledge)
  sign = shop * _pulse(floor, 0.78, 0.93, floor_width)
  color = _blend(color, _choose(u(37), _SHOPS), sign)
  cornice = _edge(z - lot.eave + 0.4, width) * _edge(lot.eave - z, width)
  return _blend(color, tuple(0.4 * c + 0.5 for c in wall), 0.8 * cornice)


def _roof(s: Surface, u) -> tuple:
  """Tiles of pitched roofs; panels, gravel and solar cells of flat ones."""
  lot, local, width = s.lot, s.hit.local, s.width
  x, y = local[0] - lot.center_x, local[1] - lot.center_y
  pitched = jnp.abs(s.normal[0]) + jnp.abs(s.normal[1]) > 1e-3
  falls_x = jnp.abs(s.normal[0]) > jnp.abs(s.normal[1])
  down = jnp.where(falls_x, jnp.abs(x), jnp.abs(y)) / s.normal[2]
  along = jnp.where(falls_x, y, x) + 64.0
  level, joint = _cells(
      jnp.where(pitched, along, x + 64.0),
      jnp.where(pitched, down, y + 64.0),
      jnp.where(pitched, 0.32, 1.9),
      jnp.where(pitched, 0.38, 1.9),
      jnp.where(pitched, 0.5, 0.0),
      jnp.where(pitched, 0.05, 0.06),
      lot.word + s.face + _u32(7),
      width,
  )
  tile_color, deck_color = _choose(u(38), _ROOFS), _choose(u(39), _DECKS)
  color = tuple(
      jnp.where(pitched, t, d) for t, d in zip(tile_color, deck_color)
  )
  tone = 1 + jnp.where(pitched, 0.24, 0.07) * level - 0.35 * joint
  color = tuple(c * tone for c in color)
  # Flat roofs: a parapet around, solar panels on some.
  inside = jnp.minimum(lot.half_x - jnp.abs(x), lot.half_y - jnp.abs(y))
  parapet = ~pitched * _edge(0.35 - inside, width)
  color = _blend(color, (0.78, 0.76, 0.72), 0.85 * parapet)
  panel_x = _pulse(x / 1.1, 0.03, 0.97, width / 1.1)
  panel_y = _pulse(y / 1.9, 0.03, 0.80, width / 1.9)
  solar = ((u(40) < 0.45) & ~pitched) * _edge(inside - 1.2, width)
  grid = _pulse(x / 0.1833, 0.0, 0.1, width / 0.1833)
  cell_color = _blend((0.10, 0.14, 0.27), (0.38, 0.42, 0.52), grid)
  return _blend(color, cell_color, solar * panel_x * panel_y)


def _car(s: Surface, u) -> tuple:
  """Paint and windows of cars."""
  lot, z = s.lot, s.hit.local[2]
  color = _choose(u(41), _CARS)
  upright = s.wall_x | s.wall_y
  cabin = s.hit.shape == raycast.BOX
  pane = upright * (z > lot.eave + 0.06) * (z < lot.box_top - 0.1) * cabin
  color = _blend(color, (0.10, 0.12, 0.15), pane)
  tyre = upright & (z < 0.3) & ~cabin
  return _blend(color, (0.08, 0.08, 0.09), 0.9 * tyre)


def _ground(s: Surface, in_city) -> tuple:
  """Streets, pavements, courtyards, lawns and the fields around."""
  lot, local, width = s.lot, s.hit.local, s.width
  x, y = local[0], local[1]
  lot_x, lot_y = s.hit.lot_x, s.hit.lot_y
  a, b = lot_x % layout.BLOCK_LOTS, lot_y % layout.BLOCK_LOTS
  street = (lot.kind == layout.STREET) & in_city
  lawn = ~street & ((lot.kind == layout.PARK) | (lot.word & 3 == 0))
  half = np.float32(layout.ROAD_HALF_WIDTH)
  road_x = jnp.where(a == 0, half - jnp.abs(x - 6), -99.0)
  road_y = jnp.where(b == 0, half - jnp.abs(y - 6), -99.0)
  inside = jnp.maximum(road_x, road_y)
  asphalt = street * _edge(inside, width)
  # Slabs of pavements and yards; mended rectangles of asphalt.
  on_road = street & (inside > 0)
  level, joint = _cells(
      x,
      y,
      jnp.where(on_road, 3.0, jnp.where(street, 0.6, 0.4)),
      jnp.where(on_road, 2.0, jnp.where(street, 0.6, 0.4)),
      jnp.where(street, 0.0, 0.5),
      jnp.where(on_road, 0.012, 0.03),
      lot.word,
      width,
  )
  slab = 1 + 0.09 * level - 0.28 * joint
  paved = tuple(
      jnp.where(street, p, c) * slab
      for p, c in zip((0.66, 0.64, 0.60), (0.60, 0.50, 0.42))
  )
  green = (0.33, 0.44, 0.20)
  color = tuple(jnp.where(lawn, g, p) for g, p in zip(green, paved))
  path = lawn * _edge(0.6 - jnp.abs(x - 6 - 0.25 * (y - 6)), width)
  color = _blend(color, (0.70, 0.62, 0.48), path * (lot.kind == layout.PARK))
  tar = 1 + 0.10 * level - 0.3 * joint
  color = _blend(color, (0.30 * tar, 0.30 * tar, 0.32 * tar), asphalt)
  kerb = street * _edge(0.16 - jnp.abs(inside + 0.08), width)
  color = _blend(color, (0.76, 0.75, 0.72), kerb)
  color = _blend(color, (0.90, 0.90, 0.87), _markings(s, street, a, b))
  # Fields, in strips of 48 m.
  field = hashing.cell_hash(lot_x >> 2, lot_y >> 1, _u32(4242))
  crop = 0.5 + (hashing.uniform(field, 0) - 0.5) * hashing.fade(width, 24.0)
  fields = _blend((0.30, 0.40, 0.17), (0.60, 0.55, 0.30), crop)
  return tuple(jnp.where(in_city, c, f) for c, f in zip(color, fields))


def _markings(s: Surface, street, a, b):
  """Share of white paint: centre lines, edge lines, crossings."""
  x, y, width = s.hit.local[0], s.hit.local[1], s.width
  along_y = a == 0
  across = jnp.where(along_y, x, y) - 6
  along = jnp.where(along_y, y, x)
  position = jnp.where(along_y, b, a)
  plain = street & ~((a == 0) & (b == 0))
  dash = _edge(0.08 - jnp.abs(across), width)
  dash *= _pulse(along / 4.0, 0.25, 0.75, width / 4.0)
  line = _edge(0.06 - jnp.abs(jnp.abs(across) - 3.25), width)
  # Crossings lie at the ends of a street, next to a junction.
  end = jnp.where(position == 1, along, np.float32(layout.LOT) - along)
  band = (position == 1) | (position == 4)
  band = band * _edge(1.3 - jnp.abs(end - 2.0), width)
  stripes = _pulse(across / 1.0, 0.25, 0.75, width)
  stripes *= _edge(3.1 - jnp.abs(across), width)
  paint = jnp.maximum(dash, line) * (1 - band) + band * stripes
  return plain * paint


def _noise_cells(s: Surface):
  """Cells and fractions of the coordinates that noise is laid out in."""
  lot_x, lot_y, local = s.hit.lot_x, s.hit.lot_y, s.hit.local
  size = np.float32(hashing.COARSEST_WAVELENGTH)
  lots = int(hashing.COARSEST_WAVELENGTH / layout.LOT)
  part = (
      lambda lot, value: (
          jnp.mod(lot, lots).astype(jnp.float32) * np.float32(layout.LOT)
          + value
      )
      / size
  )
  cell_x, cell_y = lot_x // lots, lot_y // lots
  frac_x, frac_y = part(lot_x, local[0]), part(lot_y, local[1])
  up = local[2] / size
  crown = (s.hit.shape == raycast.CROWN0) | (s.hit.shape == raycast.CROWN1)
  lean = jnp.where(crown, up, 0.0)
  cell_u = jnp.where(s.wall_x, cell_y, cell_x)
  frac_u = jnp.where(s.wall_x, frac_y, frac_x + 0.43 * lean)
  upright = s.wall_x | s.wall_y
  cell_v = jnp.where(upright, 0, cell_y)
  frac_v = jnp.where(upright, up, frac_y + 0.71 * lean)
  return cell_u, cell_v, frac_u, frac_v


def albedo(s: Surface, radius, seed) -> tuple:
  """Colour of surfaces in full light.

  Args:
    s: what samples hit.
    radius: int32, `layout.radius_in_lots`.
    seed: uint32.

  Returns:
    three [T] float32.
  """
  shape, lot = s.hit.shape, s.lot
  u = lambda stream: hashing.uniform(lot.word, stream)
  in_city = (jnp.abs(s.hit.lot_x) <= radius) & (jnp.abs(s.hit.lot_y) <= radius)
  ground = shape == raycast.GROUND
  crown = (shape == raycast.CROWN0) | (shape == raycast.CROWN1)
  trunk = (shape == raycast.TRUNK0) | (shape == raycast.TRUNK1)
  upright = s.wall_x | s.wall_y
  solid = (shape == raycast.BODY) | (shape == raycast.BOX)
  car = solid & (lot.kind == layout.STREET)
  color = _ground(s, in_city)
  for use, other in (
      (solid & upright, _facade(s, u)),
      (solid & ~upright, _roof(s, u)),
      (car, _car(s, u)),
  ):
    color = tuple(jnp.where(use, o, c) for o, c in zip(other, color))
  tree = hashing.uniform(lot.word, 45) * 0.5 + 0.5 * (
      shape == raycast.CROWN1
  ) * hashing.uniform(lot.word, 46)
  leaves = _blend((0.22, 0.36, 0.15), (0.44, 0.46, 0.18), tree)
  color = tuple(jnp.where(crown, o, c) for o, c in zip(leaves, color))
  color = tuple(
      jnp.where(trunk, o, c) for o, c in zip((0.36, 0.28, 0.21), color)
  )
  # Walls, roofs and crowns have noise of their own; the ground's runs on.
  own = jnp.where(ground, _u32(0), lot.word + s.face)
  first, second = hashing.fractal(*_noise_cells(s), seed + own, s.width)
  soft = ground & ((lot.kind == layout.PARK) | ~in_city)
  gain = jnp.where(crown, 0.17, jnp.where(soft, 0.085, 0.055))
  gain = jnp.where(car, 0.012, gain)
  tint = jnp.where(crown | soft, 0.05, 0.018) * second
  tone = 1 + gain * first
  red, green, blue = color
  return red * (tone + tint), green * tone, blue * (tone - tint)


def light(s: Surface, shadow):
  """Light that falls on surfaces: sky from above and the sun.

  Args:
    s: what samples hit.
    shadow: [T] bool, the sun is hidden.

  Returns:
    [T] float32, factor of the colour in full light.
  """
  facing = sum(n * np.float32(d) for n, d in zip(s.normal, SUN))
  sun = jnp.where(shadow, 0.0, jnp.maximum(facing, 0.0))
  # Little sky is seen from the foot of a wall.
  rise = jnp.clip(s.hit.local[2] * 0.1, 0.0, 1.0)
  open_sky = 0.72 + 0.28 * jnp.maximum(s.normal[2], rise)
  return np.float32(_AMBIENT) * open_sky + np.float32(_SUNLIGHT) * sun


def sky(direction) -> tuple:
  """Colour of the sky: pale at the horizon, blue at the zenith.

  Args:
    direction: three [T] float32.

  Returns:
    three [T] float32.
  """
  up = jnp.clip(direction[2], 0.0, 1.0)
  amount = 1 - (1 - up) ** 3
  return _blend((0.84, 0.89, 0.93), (0.33, 0.55, 0.84), amount)
