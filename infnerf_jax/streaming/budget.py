"""How a memory cap is divided: rows, reading, rays, pictures, programs."""

import math
from typing import NamedTuple

import jax

from infnerf_jax import errors
from infnerf_jax.models import scene_model
from infnerf_jax.render import memory, render_rays
from infnerf_jax.storage import node_store

# What compiled programs and the compiler take on a CPU, measured: peak resident
# memory of pictures less that before, less all else that is planned here (315
# to 340 MB, with levels that fade and shared proposals the most).
_PROGRAM_BYTES = {'cpu': 350e6}
_PROGRAM_BYTES_ELSEWHERE = 64e6
_RAY_SHARE = 0.08  # of what programs leave
_STAGE_SHARE = 0.12
_MIN_BLOCK, _MAX_BLOCK = 64, 8192
_TREE_BYTES = 8 << 20
_TREE_PART = 32  # at most this part of a cap
# Rows that are under way from a chunk to the device: bytes, decoded, upload.
_UPLOAD_ROWS = 3
_NO_CAP_SLOTS = 4096


class Budget(NamedTuple):
  """What a cap is spent on; bytes.

  Attributes:
    cap: of everything, 0 is none.
    row: one node's parameters.
    num_slots: rows on the device.
    num_staged: decoded rows that wait on the host.
    num_readers: rows that are read at once.
    ray_block: rays of one device call.
    rays: their temporaries.
    tree: pages of the tree.
    pictures: what a picture takes on the host.
    programs: compiled programs and the compiler.
  """

  cap: int
  row: int
  num_slots: int
  num_staged: int
  num_readers: int
  ray_block: int
  rays: int
  tree: int
  pictures: int
  programs: int

  @property
  def device(self) -> int:
    """Bytes that live on the device."""
    return self.num_slots * self.row + self.rays

  @property
  def host(self) -> int:
    """Bytes that live on the host; on a CPU both are one memory."""
    rows = self.num_staged + self.num_readers + _UPLOAD_ROWS
    return rows * self.row + self.tree + self.pictures + self.programs

  @property
  def total(self) -> int:
    return self.device + self.host


def _rays(spec, options, limit):
  """(rays of a block, bytes of their temporaries) within a limit."""
  # Without stacked parameters at hand: native is fused, all else is not.
  fused = jax.default_backend() == 'cpu' and spec.implementation in (
      None, 'native',
  )  # fmt: skip
  per_ray = memory.bytes_per_ray(spec, options, fused=fused)
  block = _MAX_BLOCK
  while block > _MIN_BLOCK and block * per_ray > limit:
    block //= 2
  return block, block * per_ray


def _least(row, spec, options, picture_bytes) -> int:
  """The smallest cap: one slot and one reader beside what else is held."""
  _, rays = _rays(spec, options, 0)
  fixed = (2 + _UPLOAD_ROWS) * row + picture_bytes
  share, programs = 1 / _TREE_PART, _programs()
  fixed += share * programs
  # Rays take their share, or their smallest block where that is more.
  beside = max(fixed / (1 - share - _RAY_SHARE), (fixed + rays) / (1 - share))
  return math.ceil(programs + beside)


def _programs() -> int:
  backend = jax.default_backend()
  return int(_PROGRAM_BYTES.get(backend, _PROGRAM_BYTES_ELSEWHERE))


def plan(
    header: node_store.Header,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    max_bytes: float | None,
    *,
    picture_bytes: int = 0,
    num_readers: int = 4,
) -> Budget:
  """Divides a cap.

  Args:
    header: of the store.
    spec: static facts of the model.
    options: sampling.
    max_bytes: the cap, None or 0 is none.
    picture_bytes: of the largest picture on the host.
    num_readers: rows that are read at once, where there is room.

  Returns:
    Budget; every byte that rendering holds is in it.

  Raises:
    InputError: the cap does not hold the root; the least that does is named.
  """
  row = header.group().nbytes
  cap = int(max_bytes or 0)
  if not cap:
    block, rays = _rays(spec, options, float('inf'))
    slots = min(header.num_nodes, _NO_CAP_SLOTS)
    return Budget(
        0, row, slots, 2 * num_readers, num_readers, block, rays,
        4 * _TREE_BYTES, picture_bytes, 0,
    )  # fmt: skip
  least = _least(row, spec, options, picture_bytes)
  if cap < least:
    raise errors.InputError(
        f'max_memory: got {cap / 1e6:.4g} MB, expected at least'
        f' {least / 1e6:.4g} MB ({least / 1e9:.3g} GB): compiled programs take'
        f' {_programs() / 1e6:.3g} MB, the root {row / 1e6:.3g} MB, reading it'
        ' as much again'
    )
  programs = _programs()
  tree = min(_TREE_BYTES, cap // _TREE_PART)
  block, rays = _rays(spec, options, _RAY_SHARE * (cap - programs))
  left = cap - programs - tree - rays - picture_bytes
  num_rows = left // row - _UPLOAD_ROWS
  readers = max(1, min(num_readers, num_rows // 8))
  staged = int(min(_STAGE_SHARE * num_rows, 4 * num_readers))
  slots = int(max(min(num_rows - readers - staged, header.num_nodes), 1))
  return Budget(
      cap, row, slots, staged, readers, block, rays, tree, picture_bytes,
      programs,
  )  # fmt: skip
