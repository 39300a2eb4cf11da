"""Integer hashes and band-limited noise: the only source of the city's detail.

Everything is a function of integer cells, so that nothing is stored, the city
is the same whoever looks at it, and a cell 50 km from the centre is as exact
as the one at the centre. Arithmetic is modulo 2**32.
"""

import jax
import jax.numpy as jnp
import numpy as np

_X = np.uint32(0x9E3779B1)
_Y = np.uint32(0x85EBCA77)
_STREAM = np.uint32(0xC2B2AE35)

# Octaves of the noise: 48 m, 24 m, ... 1.2 cm.
COARSEST_WAVELENGTH = 48.0
NUM_OCTAVES = 13
# Amplitude is flat down to this wavelength and falls off below it.
_KNEE_WAVELENGTH = 1.5
_FALL_OFF = 0.4


def mix(value):
  """Scrambles uint32 so that neighbouring inputs give unrelated outputs."""
  value = value ^ (value >> 16)
  value = value * np.uint32(0x7FEB352D)
  value = value ^ (value >> 15)
  value = value * np.uint32(0x846CA68B)
  return value ^ (value >> 16)


def cell_hash(x, y, seed):
  """Hash of the integer cell (x, y).

  Args:
    x: [...] int32.
    y: [...] int32.
    seed: [...] uint32.

  Returns:
    [...] uint32.
  """
  return mix(x.astype(jnp.uint32) * _X + y.astype(jnp.uint32) * _Y + seed)


def uniform(value, stream: int):
  """Number `stream` of the sequence that hash `value` starts, in [0, 1).

  Args:
    value: [...] uint32.
    stream: which number; different streams are unrelated.

  Returns:
    [...] float32.
  """
  word = mix(value + np.uint32((stream + 1) * int(_STREAM) & 0xFFFFFFFF))
  return (word >> 8).astype(jnp.float32) * np.float32(2.0**-24)


def _lattice(word):
  """Two values in [-1, 1) from the halves of a hash."""
  scale = np.float32(2.0**-15)
  low = (word & np.uint32(0xFFFF)).astype(jnp.int32).astype(jnp.float32)
  high = (word >> 16).astype(jnp.int32).astype(jnp.float32)
  return low * scale - 1, high * scale - 1


def _octave(cell_u, cell_v, frac_u, frac_v, seed, octave):
  """Two value noises of wavelength COARSEST_WAVELENGTH / 2**octave."""
  scale = jnp.left_shift(jnp.int32(1), octave)
  u = frac_u * scale.astype(jnp.float32)
  v = frac_v * scale.astype(jnp.float32)
  floor_u, floor_v = jnp.floor(u), jnp.floor(v)
  u, v = u - floor_u, v - floor_v
  corner_u = (cell_u * scale + floor_u.astype(jnp.int32)).astype(jnp.uint32)
  corner_v = (cell_v * scale + floor_v.astype(jnp.int32)).astype(jnp.uint32)
  base = corner_u * _X + corner_v * _Y + seed
  base = base + octave.astype(jnp.uint32) * _STREAM
  u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
  a00, b00 = _lattice(mix(base))
  a10, b10 = _lattice(mix(base + _X))
  a01, b01 = _lattice(mix(base + _Y))
  a11, b11 = _lattice(mix(base + _X + _Y))
  blend = lambda c00, c10, c01, c11: (
      (c00 + (c10 - c00) * u) * (1 - v) + (c01 + (c11 - c01) * u) * v
  )
  return blend(a00, a10, a01, a11), blend(b00, b10, b01, b11)


def fade(width, period):
  """Share of a pattern's variation that survives a mean over `width`.

  One while `width` is below half a period, none from two periods on.

  Args:
    width: [...] float32, metres.
    period: metres.

  Returns:
    [...] float32 in [0, 1].
  """
  return jnp.clip((2.0 - width / period) * (1 / 1.5), 0.0, 1.0)


def fractal(cell_u, cell_v, frac_u, frac_v, seed, width):
  """Two sums of noise octaves, each octave faded by the sample's width.

  The mean is zero for every width, so that a wide sample sees what the mean
  of many narrow ones sees. Octaves that no sample of the batch resolves are
  not evaluated.

  Args:
    cell_u: [...] int32, cells of COARSEST_WAVELENGTH.
    cell_v: [...] int32.
    frac_u: [...] float32, position within the cell, in cells.
    frac_v: [...] float32.
    seed: [...] uint32.
    width: [...] float32, metres, width of the sample on the surface.

  Returns:
    ([...] float32, [...] float32), standard deviation about 1 in all.
  """
  finest = jnp.maximum(jnp.min(width), 1e-6)
  needed = jnp.ceil(jnp.log2(2 * COARSEST_WAVELENGTH / finest))
  needed = jnp.clip(needed, 0, NUM_OCTAVES).astype(jnp.int32)

  def add_octave(octave, sums):
    wavelength = COARSEST_WAVELENGTH * jnp.exp2(-octave.astype(jnp.float32))
    relative = jnp.minimum(wavelength / np.float32(_KNEE_WAVELENGTH), 1.0)
    gain = fade(width, wavelength) * relative ** np.float32(_FALL_OFF)
    first, second = _octave(cell_u, cell_v, frac_u, frac_v, seed, octave)
    return sums[0] + gain * first, sums[1] + gain * second

  zero = jnp.zeros_like(frac_u)
  return jax.lax.fori_loop(jnp.int32(0), needed, add_octave, (zero, zero))
