"""What stands on each lot of the city: a pure function of the lot's hash.

The ground is a grid of square lots of LOT metres; lot (0, 0) is centred on the
world's origin. Every fifth row and column of lots is a street; the 4 x 4 lots
between are a block: buildings around, parks and yards inside. A lot holds at
most one roofed body, one box and two trees, all inside the lot, so that a ray
tests a fixed number of shapes for each lot it crosses. Local coordinates of a
lot run from 0 to LOT, heights start at the ground, all in metres.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.scene.city import hashing

LOT = 12.0
BLOCK_LOTS = 5
STOREY = 3.0
MAX_HEIGHT = 25.0
ROAD_HALF_WIDTH = 3.5

DEFAULT_EXTENT = 132.0
_MAX_EXTENT = 1e7

# Kinds of lot.
STREET, BUILDING, PARK = 0, 1, 2
_FAR_UP = 1e4


class City(NamedTuple):
  """A procedural city; two numbers are all of it.

  Attributes:
    seed: any integer; another seed is another city.
    extent: metres, side of the square that the city fills, centred on the
      origin. Beyond it lie open fields. The city of a larger extent holds
      that of a smaller one.
  """

  seed: int = 0
  extent: float = DEFAULT_EXTENT


class Lot(NamedTuple):
  """Shapes of a lot, in local metres; every field is [...] of one shape.

  Attributes:
    kind: int32, STREET, BUILDING or PARK.
    word: uint32, hash of the lot, for what materials choose.
    center_x, center_y: of the body.
    half_x, half_y: half the body's sides; negative: no body.
    eave: height where the body's roof begins.
    slope_x, slope_y: fall of the roof away from the ridge along each axis.
    top_x, top_y: height that the roof's planes reach above the centre.
    box_x, box_y, box_half_x, box_half_y: the box; negative: none.
    box_low, box_top: heights.
    tree_x, tree_y, tree_z: [2, ...] centres of the crowns.
    tree_radius, tree_half_height: [2, ...]; radius negative: no tree.
  """

  kind: jax.Array
  word: jax.Array
  center_x: jax.Array
  center_y: jax.Array
  half_x: jax.Array
  half_y: jax.Array
  eave: jax.Array
  slope_x: jax.Array
  slope_y: jax.Array
  top_x: jax.Array
  top_y: jax.Array
  box_x: jax.Array
  box_y: jax.Array
  box_half_x: jax.Array
  box_half_y: jax.Array
  box_low: jax.Array
  box_top: jax.Array
  tree_x: jax.Array
  tree_y: jax.Array
  tree_z: jax.Array
  tree_radius: jax.Array
  tree_half_height: jax.Array


def make_city(*, seed: int = 0, extent: float = DEFAULT_EXTENT) -> City:
  """A city, its options checked.

  Args:
    seed: non-negative integer.
    extent: metres, side of the city.

  Returns:
    City.

  Raises:
    InputError: extent or seed is out of range.
  """
  if not (math.isfinite(extent) and LOT <= extent <= _MAX_EXTENT):
    raise errors.InputError(
        f'city: extent: got {extent}, expected {LOT:g} to'
        f' {_MAX_EXTENT:g} metres'
    )
  if not 0 <= seed < 2**32:
    raise errors.InputError(
        f'city: seed: got {seed}, expected an integer from 0 to 2**32 - 1'
    )
  return City(seed=int(seed), extent=float(extent))


def radius_in_lots(city: City) -> int:
  """Lots from -radius to radius along each axis belong to the city."""
  return max(0, int((city.extent / LOT - 1) / 2 + 1e-9))


def seed_word(city: City):
  """uint32 that starts every hash of the city."""
  return hashing.mix(np.asarray([city.seed], np.uint32) + np.uint32(77))[0]


def lot_kind(lot_x, lot_y, seed):
  """Kind and hash of lots.

  Args:
    lot_x: [...] int32.
    lot_y: [...] int32.
    seed: uint32, `seed_word`.

  Returns:
    ([...] int32 kind, [...] uint32 hash of the lot).
  """
  word = hashing.cell_hash(lot_x, lot_y, seed)
  a, b = lot_x % BLOCK_LOTS, lot_y % BLOCK_LOTS
  street = (a == 0) | (b == 0)
  rim = (a == 1) | (a == 4) | (b == 1) | (b == 4)
  built = hashing.uniform(word, 0) < jnp.where(rim, 0.9, 0.2)
  kind = jnp.where(street, STREET, jnp.where(built, BUILDING, PARK))
  return kind.astype(jnp.int32), word


def lot_contents(lot_x, lot_y, seed) -> Lot:
  """What stands on lots.

  Args:
    lot_x: [...] int32.
    lot_y: [...] int32.
    seed: uint32, `seed_word`.

  Returns:
    Lot with fields [...].
  """
  kind, word = lot_kind(lot_x, lot_y, seed)
  u = lambda stream: hashing.uniform(word, stream)
  crossing = (lot_x % BLOCK_LOTS == 0) & (lot_y % BLOCK_LOTS == 0)
  along_y = lot_x % BLOCK_LOTS == 0  # the street runs north
  building = _building(kind, lot_x, lot_y, seed, u)
  car = _car(kind, crossing, along_y, u)
  is_street = kind == STREET
  chosen = {k: jnp.where(is_street, car[k], building[k]) for k in building}
  trees = _trees(kind, crossing, along_y, building, u)
  return Lot(kind=kind, word=word, **chosen, **trees)


def _building(kind, lot_x, lot_y, seed, u):
  """Body and box of a building lot, and nothing on the others."""
  a, b = lot_x % BLOCK_LOTS, lot_y % BLOCK_LOTS
  # Away from the street a yard is left, where trees stand.
  yard = 2.4 + 1.4 * u(1)
  low_x = jnp.where(a == 4, yard, 0.3 + 0.8 * u(2))
  high_x = LOT - jnp.where(a == 1, yard, 0.3 + 0.8 * u(3))
  low_y = jnp.where(b == 4, yard, 0.3 + 0.8 * u(4))
  high_y = LOT - jnp.where(b == 1, yard, 0.3 + 0.8 * u(5))
  center_x, half_x = (low_x + high_x) / 2, (high_x - low_x) / 2
  center_y, half_y = (low_y + high_y) / 2, (high_y - low_y) / 2
  built = kind == BUILDING
  block = hashing.cell_hash(
      lot_x // BLOCK_LOTS, lot_y // BLOCK_LOTS, seed + np.uint32(991)
  )
  height = 1.2 + 3.0 * hashing.uniform(block, 0) + 3.8 * u(6) * u(6)
  storeys = jnp.clip(jnp.floor(height), 1, 7)
  pitched = (u(7) < 0.55) & (storeys < 5.5)
  hip = u(8) < 0.4
  eave = storeys * STOREY + 0.7
  slope = jnp.where(pitched, 0.45 + 0.4 * u(9), 0.0)
  ridge_along_x = half_x > half_y + 1e-3
  falls_x = hip | ~ridge_along_x
  falls_y = hip | ridge_along_x
  slope_x = jnp.where(falls_x, slope, 0.0)
  slope_y = jnp.where(falls_y, slope, 0.0)
  high = jnp.where(pitched, _FAR_UP, eave)
  top_x = jnp.where(falls_x, eave + slope_x * half_x, high)
  top_y = jnp.where(falls_y, eave + slope_y * half_y, high)
  ridge = eave + slope * jnp.minimum(half_x, half_y)
  # The box: a chimney on pitched roofs; a set-back storey on the others.
  share = jnp.where(pitched, 0.07, 0.3 + 0.4 * u(10))
  offset = jnp.where(pitched, 0.35, (u(11) - 0.5) * 0.5)
  box_top = jnp.where(pitched, ridge + 0.5, eave + 2.0 + 1.2 * u(12))
  return {
      'center_x': center_x,
      'center_y': center_y,
      'half_x': jnp.where(built, half_x, -1.0),
      'half_y': jnp.where(built, half_y, -1.0),
      'eave': eave,
      'slope_x': slope_x,
      'slope_y': slope_y,
      'top_x': top_x,
      'top_y': top_y,
      'box_x': center_x + offset * half_x,
      'box_y': center_y + jnp.where(pitched, 0.2, offset) * half_y,
      'box_half_x': jnp.where(built, share * half_x, -1.0),
      'box_half_y': jnp.where(built, share * half_y, -1.0),
      'box_low': jnp.zeros_like(eave),
      'box_top': box_top,
  }


def _car(kind, crossing, along_y, u):
  """Body and cabin of a car parked at the kerb of a street lot."""
  parked = (kind == STREET) & ~crossing & (u(1) < 0.6)
  across = jnp.where(u(2) < 0.5, 6 - 2.45, 6 + 2.45)
  along = 3.0 + 6.0 * u(3)
  half_along, half_across = 1.95 + 0.35 * u(4), 0.85 + 0.1 * u(5)
  pick = lambda x, y: jnp.where(along_y, x, y)
  half_x = pick(half_across, half_along)
  half_y = pick(half_along, half_across)
  height = 0.8 + 0.25 * u(6)
  zero = jnp.zeros_like(height)
  shift = pick(zero, zero + 0.15), pick(zero + 0.15, zero)
  center_x, center_y = pick(across, along), pick(along, across)
  return {
      'center_x': center_x,
      'center_y': center_y,
      'half_x': jnp.where(parked, half_x, -1.0),
      'half_y': jnp.where(parked, half_y, -1.0),
      'eave': height,
      'slope_x': zero,
      'slope_y': zero,
      'top_x': height,
      'top_y': height,
      'box_x': center_x - shift[0],
      'box_y': center_y - shift[1],
      'box_half_x': jnp.where(parked, half_x * pick(0.86, 0.55), -1.0),
      'box_half_y': jnp.where(parked, half_y * pick(0.55, 0.86), -1.0),
      'box_low': zero,
      'box_top': height + 0.55,
  }


def _trees(kind, crossing, along_y, building, u):
  """Two trees of a lot: in parks, in yards and along streets."""
  trees = []
  for i in range(2):
    v = lambda stream, i=i: u(20 + 8 * i + stream)
    # Parks: one tree in each half.
    park_radius = 1.6 + 1.2 * v(0)
    park_x = park_radius + (LOT - 2 * park_radius) * v(1)
    room = LOT / 2 - 2 * park_radius
    park_y = park_radius + i * LOT / 2 + room * v(2)
    # Streets: one on each pavement.
    street_radius = 1.0 + 0.2 * v(0)
    side = 1.25 + i * (LOT - 2.5)
    along = 2.0 + 8.0 * v(1)
    street_x = jnp.where(along_y, side, along)
    street_y = jnp.where(along_y, along, side)
    # Yards: in the strip that the building leaves free, if it is wide enough.
    gaps = (
        building['center_x'] - building['half_x'],
        LOT - building['center_x'] - building['half_x'],
        building['center_y'] - building['half_y'],
        LOT - building['center_y'] - building['half_y'],
    )
    gap_x = jnp.maximum(gaps[0], gaps[1])
    gap_y = jnp.maximum(gaps[2], gaps[3])
    gap = jnp.maximum(gap_x, gap_y)
    yard_radius = jnp.minimum(gap * 0.47, 1.7) * (0.7 + 0.3 * v(0))
    spot = 2.0 + i * 5.0 + 3.0 * v(1)
    # Corner lots have two strips of equal width: rounding must not choose.
    beside = gap_x > gap_y - 1e-3
    in_x = jnp.where(gaps[0] > gaps[1], gap / 2, LOT - gap / 2)
    in_y = jnp.where(gaps[2] > gaps[3], gap / 2, LOT - gap / 2)
    yard_x = jnp.where(beside, in_x, spot)
    yard_y = jnp.where(beside, spot, in_y)
    choose = lambda street, yard, park: jnp.where(
        kind == STREET, street, jnp.where(kind == BUILDING, yard, park)
    )
    radius = choose(street_radius, yard_radius, park_radius)
    tall = radius * (1.0 + 0.5 * v(4))
    exists = choose(
        ~crossing & (v(3) < 0.55), (gap > 2.2) & (v(3) < 0.7), v(3) < 0.9
    )
    trees.append(
        (
            choose(street_x, yard_x, park_x),
            choose(street_y, yard_y, park_y),
            tall + 1.4 + 1.2 * v(5),
            jnp.where(exists, radius, -1.0),
            tall,
        )
    )
  x, y, z, radius, tall = (jnp.stack(field) for field in zip(*trees))
  return {
      'tree_x': x,
      'tree_y': y,
      'tree_z': z,
      'tree_radius': radius,
      'tree_half_height': tall,
  }
