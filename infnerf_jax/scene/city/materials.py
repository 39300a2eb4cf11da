"""Colours of surfaces, already averaged over the width of a sample.

A pattern is either a box filter in closed form (windows, joints, markings),
or varies about its mean by cells or noise octaves that fade to the mean when
the sample is wider than they are. So one sample of any width sees about what
the mean of many narrow samples sees. Colours are as in a photo's file, in
[0, 1], and averages are taken in them.
"""

import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene.city import hashing, layout, patterns, raycast, surfaces

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


def _storeys(lot, z, width):
  """Share of a sample below the top of the last full storey."""
  whole = jnp.floor(lot.eave / layout.STOREY) * layout.STOREY
  return patterns.edge(whole - z, width)


def _windows(s: surfaces.Surface, u, word, along, color) -> tuple:
  """A wall's colour with frames and panes: bays on storeys of 3 m."""
  lot, z, width = s.lot, s.hit.local[2], s.width
  length = 2 * jnp.where(s.wall_x, lot.half_y, lot.half_x)
  pitch = length / jnp.maximum(jnp.round(length / (2.1 + u(32))), 1.0)
  bay, floor = along / pitch, z / layout.STOREY
  bay_width, floor_width = width / pitch, width / np.float32(layout.STOREY)
  shop = (u(33) < 0.4) & (floor < 1)
  margin = jnp.where(shop, 0.07, 0.2 + 0.1 * u(34))
  low = jnp.where(shop, 0.06, 0.26 - 0.16 * (u(35) < 0.3))
  high = jnp.where(shop, 0.72, 0.80)
  frame = 0.07
  rim_x, rim_z = frame / pitch, np.float32(frame / layout.STOREY)
  opening = patterns.pulse(bay, margin, 1 - margin, bay_width) * patterns.pulse(
      floor, low, high, floor_width
  )
  glass = (
      patterns.pulse(bay, margin + rim_x, 0.5 - rim_x / 2, bay_width)
      + patterns.pulse(bay, 0.5 + rim_x / 2, 1 - margin - rim_x, bay_width)
  ) * patterns.pulse(floor, low + rim_z, high - rim_z, floor_width)
  there = _storeys(lot, z, width)
  pane = hashing.cell_hash(
      jnp.floor(bay).astype(jnp.int32), jnp.floor(floor).astype(jnp.int32), word
  )
  light = hashing.uniform(pane, 1)
  # Most panes are dark, some show curtains; 1/4 is the mean of the cube.
  curtain = 0.25 + (light * light * light - 0.25) * hashing.fade(width, 2.0)
  sky = 0.12 * (floor - jnp.floor(floor) - 0.5) * hashing.fade(width, 3.0)
  pane_color = patterns.blend((0.14, 0.19, 0.24), (0.72, 0.68, 0.56), curtain)
  pane_color = tuple(c + sky for c in pane_color)
  trim = jnp.where(u(36) < 0.6, 0.90, 0.34)
  color = patterns.blend(color, (trim, trim, trim), opening * there)
  part = glass / jnp.maximum(opening, 1e-3)
  color = patterns.blend(
      color, pane_color, jnp.minimum(part, 1.0) * opening * there
  )
  return color


def _facade(s: surfaces.Surface, u) -> tuple:
  """Windows, shops, ledges and masonry of a building's walls."""
  lot, local, width = s.lot, s.hit.local, s.width
  along = jnp.where(
      s.wall_x,
      local[1] - lot.center_y + lot.half_y,
      local[0] - lot.center_x + lot.half_x,
  )
  z = local[2]
  word = lot.word + s.face
  wall = patterns.choose(u(30), _WALLS)
  brick = u(31) < 0.45
  level, joint = patterns.cells(
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
  color = _windows(s, u, word, along, color)
  floor = z / layout.STOREY
  floor_width = width / np.float32(layout.STOREY)
  shop = (u(33) < 0.4) & (floor < 1)
  there = _storeys(lot, z, width)
  # A ledge under each storey, a sign over shops, a cornice at the top.
  ledge = patterns.pulse(floor, 0.0, 0.055, floor_width) * there * (z > 1.5)
  color = patterns.blend(color, tuple(0.5 * c + 0.42 for c in wall), ledge)
  sign = shop * patterns.pulse(floor, 0.78, 0.93, floor_width)
  color = patterns.blend(color, patterns.choose(u(37), _SHOPS), sign)
  cornice = patterns.edge(z - lot.eave + 0.4, width) * patterns.edge(
      lot.eave - z, width
  )
  return patterns.blend(
      color, tuple(0.4 * c + 0.5 for c in wall), 0.8 * cornice
  )


def _roof(s: surfaces.Surface, u) -> tuple:
  """Tiles of pitched roofs; panels, gravel and solar cells of flat ones."""
  lot, local, width = s.lot, s.hit.local, s.width
  x, y = local[0] - lot.center_x, local[1] - lot.center_y
  pitched = jnp.abs(s.normal[0]) + jnp.abs(s.normal[1]) > 1e-3
  falls_x = jnp.abs(s.normal[0]) > jnp.abs(s.normal[1])
  down = jnp.where(falls_x, jnp.abs(x), jnp.abs(y)) / s.normal[2]
  along = jnp.where(falls_x, y, x) + 64.0
  level, joint = patterns.cells(
      jnp.where(pitched, along, x + 64.0),
      jnp.where(pitched, down, y + 64.0),
      jnp.where(pitched, 0.32, 1.9),
      jnp.where(pitched, 0.38, 1.9),
      jnp.where(pitched, 0.5, 0.0),
      jnp.where(pitched, 0.05, 0.06),
      lot.word + s.face + _u32(7),
      width,
  )
  tile_color, deck_color = patterns.choose(u(38), _ROOFS), patterns.choose(
      u(39), _DECKS
  )
  color = tuple(
      jnp.where(pitched, t, d) for t, d in zip(tile_color, deck_color)
  )
  tone = 1 + jnp.where(pitched, 0.24, 0.07) * level - 0.35 * joint
  color = tuple(c * tone for c in color)
  # Flat roofs: a parapet around, solar panels on some.
  inside = jnp.minimum(lot.half_x - jnp.abs(x), lot.half_y - jnp.abs(y))
  parapet = ~pitched * patterns.edge(0.35 - inside, width)
  color = patterns.blend(color, (0.78, 0.76, 0.72), 0.85 * parapet)
  panel_x = patterns.pulse(x / 1.1, 0.03, 0.97, width / 1.1)
  panel_y = patterns.pulse(y / 1.9, 0.03, 0.80, width / 1.9)
  solar = ((u(40) < 0.45) & ~pitched) * patterns.edge(inside - 1.2, width)
  grid = patterns.pulse(x / 0.1833, 0.0, 0.1, width / 0.1833)
  cell_color = patterns.blend((0.10, 0.14, 0.27), (0.38, 0.42, 0.52), grid)
  return patterns.blend(color, cell_color, solar * panel_x * panel_y)


def _car(s: surfaces.Surface, u) -> tuple:
  """Paint and windows of cars."""
  lot, z = s.lot, s.hit.local[2]
  color = patterns.choose(u(41), _CARS)
  upright = s.wall_x | s.wall_y
  cabin = s.hit.shape == raycast.BOX
  pane = upright * (z > lot.eave + 0.06) * (z < lot.box_top - 0.1) * cabin
  color = patterns.blend(color, (0.10, 0.12, 0.15), pane)
  tyre = upright & (z < 0.3) & ~cabin
  return patterns.blend(color, (0.08, 0.08, 0.09), 0.9 * tyre)


def _ground(s: surfaces.Surface, in_city) -> tuple:
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
  asphalt = street * patterns.edge(inside, width)
  # Slabs of pavements and yards; mended rectangles of asphalt.
  on_road = street & (inside > 0)
  level, joint = patterns.cells(
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
  path = lawn * patterns.edge(0.6 - jnp.abs(x - 6 - 0.25 * (y - 6)), width)
  color = patterns.blend(
      color, (0.70, 0.62, 0.48), path * (lot.kind == layout.PARK)
  )
  tar = 1 + 0.10 * level - 0.3 * joint
  color = patterns.blend(color, (0.30 * tar, 0.30 * tar, 0.32 * tar), asphalt)
  kerb = street * patterns.edge(0.16 - jnp.abs(inside + 0.08), width)
  color = patterns.blend(color, (0.76, 0.75, 0.72), kerb)
  color = patterns.blend(color, (0.90, 0.90, 0.87), _markings(s, street, a, b))
  # Fields, in strips of 48 m.
  field = hashing.cell_hash(lot_x >> 2, lot_y >> 1, _u32(4242))
  crop = 0.5 + (hashing.uniform(field, 0) - 0.5) * hashing.fade(width, 24.0)
  fields = patterns.blend((0.30, 0.40, 0.17), (0.60, 0.55, 0.30), crop)
  return tuple(jnp.where(in_city, c, f) for c, f in zip(color, fields))


def _markings(s: surfaces.Surface, street, a, b):
  """Share of white paint: centre lines, edge lines, crossings."""
  x, y, width = s.hit.local[0], s.hit.local[1], s.width
  along_y = a == 0
  across = jnp.where(along_y, x, y) - 6
  along = jnp.where(along_y, y, x)
  position = jnp.where(along_y, b, a)
  plain = street & ~((a == 0) & (b == 0))
  dash = patterns.edge(0.08 - jnp.abs(across), width)
  dash *= patterns.pulse(along / 4.0, 0.25, 0.75, width / 4.0)
  line = patterns.edge(0.06 - jnp.abs(jnp.abs(across) - 3.25), width)
  # Crossings lie at the ends of a street, next to a junction.
  end = jnp.where(position == 1, along, np.float32(layout.LOT) - along)
  band = (position == 1) | (position == 4)
  band = band * patterns.edge(1.3 - jnp.abs(end - 2.0), width)
  stripes = patterns.pulse(across / 1.0, 0.25, 0.75, width)
  stripes *= patterns.edge(3.1 - jnp.abs(across), width)
  paint = jnp.maximum(dash, line) * (1 - band) + band * stripes
  return plain * paint


def _noise_cells(s: surfaces.Surface):
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


def albedo(s: surfaces.Surface, radius, seed) -> tuple:
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
  leaves = patterns.blend((0.22, 0.36, 0.15), (0.44, 0.46, 0.18), tree)
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


def light(s: surfaces.Surface, shadow):
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
  return patterns.blend((0.84, 0.89, 0.93), (0.33, 0.55, 0.84), amount)
