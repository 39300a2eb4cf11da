"""Rays in, colours and distances out: the JAX caster and the choice of one.

`materials` and `raycast` define the city; `native` is the same in C++.
"""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.scene.city import (
    layout,
    materials,
    native,
    raycast,
    surfaces,
)

IMPLEMENTATIONS = ('native', 'jax')

# Rays that walk together in JAX; about what the L2 cache holds, and few
# enough that they need about the same number of steps.
_TILE = 4096
_TILES_PER_CALL = 16
_NUM_THREADS = 2
_SHADOW_OFFSET = 2e-3  # metres, off the surface towards its normal
_PIXEL_PER_DISC = float(np.sqrt(np.pi))  # width of a square of a disc's area


def _in_shadow(surface: surfaces.Surface, seed, radius):
  """[T] bool, whether something stands between a hit and the sun."""
  hit, normal = surface.hit, surface.normal
  sun = tuple(np.float32(d) for d in materials.SUN)
  facing = sum(n * d for n, d in zip(normal, sun))
  start = tuple(p + n * _SHADOW_OFFSET for p, n in zip(hit.local, normal))
  inside = (jnp.abs(hit.lot_x) <= radius) & (jnp.abs(hit.lot_y) <= radius)
  near = inside & (facing > 0) & (hit.shape != raycast.NOTHING)
  # Nothing is above the tallest shape or beyond the city's edge.
  end = (np.float32(layout.MAX_HEIGHT) - start[2]) / sun[2]
  for lot, local, step in (
      (hit.lot_x, start[0], sun[0]),
      (hit.lot_y, start[1], sun[1]),
  ):
    side = radius + 1 - lot if step > 0 else lot + radius
    room = side.astype(jnp.float32) * np.float32(layout.LOT)
    room = room - local if step > 0 else room + local
    end = jnp.minimum(end, room / abs(step))
  direction = tuple(jnp.full_like(surface.width, d) for d in sun)
  _, shape, _, _, _ = raycast.walk_lots(
      hit.lot_x, hit.lot_y, start, direction, jnp.where(near, end, -1.0), seed
  )
  return shape != raycast.NOTHING


def _shade(hit, direction, width, seed, radius):
  """[T] colours of hits, three float32."""
  thin = tuple(d.astype(jnp.float32) for d in direction)
  surface = surfaces.surface_at(hit, width, seed)
  facing = -sum(n * d for n, d in zip(surface.normal, thin))
  # An oblique sample is longer than wide; the geometric mean of both is the
  # best single width.
  stretch = jax.lax.rsqrt(jnp.clip(jnp.abs(facing), 0.04, 1.0))
  surface = surface._replace(width=width * stretch)
  color = materials.albedo(surface, radius, seed)
  light = materials.light(surface, _in_shadow(surface, seed, radius))
  seen = hit.shape != raycast.NOTHING
  return tuple(
      jnp.clip(jnp.where(seen, c * light, s), 0.0, 1.0)
      for c, s in zip(color, materials.sky(thin))
  )


@jax.jit
def _cast_tiles(origin, direction, base, slope, seed, radius):
  """rgb [N, T, 3], distance [N, T] and steps [N] of tiles of rays."""

  def one(args):
    origin, direction, base, slope = args
    hit = raycast.cast(origin, direction, seed, radius)
    reach = jnp.where(jnp.isfinite(hit.distance), hit.distance, 1.0)
    width = (base + slope * reach) * _PIXEL_PER_DISC
    width = jnp.maximum(width, 1e-5).astype(jnp.float32)
    rgb = _shade(hit, direction, width, seed, radius)
    return jnp.stack(rgb, axis=-1), hit.distance, hit.num_steps

  return jax.lax.map(one, (origin, direction, base, slope))


def _cast_jax(origins, directions, base, slope, seed, radius):
  """As `native.cast`, colours always; shapes are padded to few sizes."""
  num = len(origins)
  tiles = 1 << max(0, (num - 1) // _TILE).bit_length()
  rows = np.minimum(np.arange(tiles * _TILE), num - 1).reshape(tiles, _TILE)
  with jax.enable_x64(True):
    rgb, distance, steps = _cast_tiles(
        tuple(origins[rows, i] for i in range(3)),
        tuple(directions[rows, i] for i in range(3)),
        base[rows],
        slope[rows],
        seed,
        np.int32(radius),
    )
    rgb, distance = np.asarray(rgb), np.asarray(distance)
    steps = int(np.asarray(steps).max()) * num
  return rgb.reshape(-1, 3)[:num], distance.reshape(-1)[:num], steps


def run_blocks(function, num: int, size: int) -> list:
  """`[function(slice), ...]` over blocks of `size` rows, two at once."""
  blocks = [slice(i, min(i + size, num)) for i in range(0, num, size)]
  if len(blocks) < 2:
    return [function(block) for block in blocks]
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return list(pool.map(function, blocks))


def choose(implementation: str | None) -> str:
  """The implementation to run: the one named, or the first that runs here."""
  if implementation is None:
    return 'native' if native.available() else 'jax'
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
        f'implementation: got {implementation!r}, expected {IMPLEMENTATIONS}'
    )
  return implementation


def cast_block(
    city: layout.City,
    origins,
    directions,
    base,
    slope,
    *,
    with_rgb: bool = True,
    implementation: str | None = None,
):
  """Casts one block of rays on one core.

  Args:
    city: from `layout.make_city`.
    origins: [R, 3] float64, metres, world.
    directions: [R, 3] float64, unit length.
    base: [R] float64, metres, radius of each ray's disc at its origin.
    slope: [R] float64, radius per metre.
    with_rgb: whether colours are wanted.
    implementation: 'native', 'jax' or None for the first that runs here.

  Returns:
    ([R, 3] float32 colours or None, [R] float64 distances, int lots walked by
    all rays; in JAX an upper bound).
  """
  seed, radius = layout.seed_word(city), layout.radius_in_lots(city)
  if choose(implementation) == 'native':
    return native.cast(origins, directions, base, slope, seed, radius, with_rgb)
  return _cast_jax(origins, directions, base, slope, seed, radius)


def cast_rays(city, origins, directions, base, slope, **options):
  """`cast_block` for any number of rays, on all cores.

  Returns:
    ([R, 3] float32 or None, [R] float64, int lots walked by all rays).
  """
  num = len(origins)
  parts = run_blocks(
      lambda rows: cast_block(
          city,
          origins[rows],
          directions[rows],
          base[rows],
          slope[rows],
          **options,
      ),
      num,
      _TILE * _TILES_PER_CALL,
  )
  rgb = None
  if parts and parts[0][0] is not None:
    rgb = np.concatenate([part[0] for part in parts])
  distance = np.concatenate([np.zeros(0)] + [part[1] for part in parts])
  return rgb, distance, sum(part[2] for part in parts)
