"""Hash grid of one node in eager PyTorch, vectorised over samples and scales.

Two formulations of the same arithmetic. `indexing` is the idiom of published
code: the eight corners' rows by advanced indexing, a weighted sum, autograd.
`embedding_bag` gathers and weighs in one library call, and its backward pass
is written by hand: one flat scatter into a gradient buffer that lives on.
Arrays are laid out [L, n, 8]: scales first, so that element-wise work runs
over long contiguous rows.
"""

import dataclasses
import itertools

import numpy as np
import torch
import torch.nn.functional as F

_PRIME_Y = 2654435761
_PRIME_Z = 805459861
_CORNERS = tuple(itertools.product((0, 1), repeat=3))  # 4x + 2y + z


@dataclasses.dataclass(frozen=True)
class Grid:
  """One node's grid, static.

  Attributes:
    resolutions: of each scale, coarse to fine.
    rows: rows of each scale.
    dense: whether a scale is indexed densely; dense ones come first.
  """

  resolutions: tuple[int, ...]
  rows: tuple[int, ...]
  dense: tuple[bool, ...]

  @property
  def offsets(self) -> np.ndarray:
    """[L] first row of each scale."""
    return np.cumsum((0,) + self.rows[:-1])

  @property
  def num_dense(self) -> int:
    """Scales that are indexed densely."""
    return sum(self.dense)


def make_grid(shape, *, is_root: bool) -> Grid:
  """Grid of the root, twice as fine at the same row counts, or of others.

  Args:
    shape: StepShape.
    is_root: which of the two.

  Returns:
    Grid.
  """
  num = shape.num_grid_scales
  growth = (shape.finest_resolution / shape.base_resolution) ** (
      1 / max(num - 1, 1)
  )
  plain = [int(shape.base_resolution * growth**i + 1e-6) for i in range(num)]
  plain[-1] = shape.finest_resolution
  rows = [
      -(-min(1 << shape.log2_table_size, (r + 1) ** 3) // 8) * 8 for r in plain
  ]
  resolutions = [2 * r for r in plain] if is_root else plain
  dense = [(r + 1) ** 3 <= k for r, k in zip(resolutions, rows, strict=True)]
  if dense != sorted(dense, reverse=True):
    raise ValueError(f'got hashed scales below dense ones: {dense}')
  return Grid(tuple(resolutions), tuple(rows), tuple(dense))


class CornerLookup:
  """Rows and weights of the eight corners around positions."""

  def __init__(self, grid: Grid):
    column = lambda x, dtype: torch.tensor(x, dtype=dtype)[:, None]
    self._resolution = column(grid.resolutions, torch.float32)
    self._offset = column(grid.offsets.tolist(), torch.int32)
    self._stride = column([r + 1 for r in grid.resolutions], torch.int32)
    self._rows = column(grid.rows, torch.int64)
    self._num_scales = len(grid.rows)
    self._num_dense = grid.num_dense
    # Where every table is a power of two, 32-bit products may wrap.
    hashed = grid.rows[self._num_dense :]
    self._power_of_two = all(r & (r - 1) == 0 for r in hashed)

  def __call__(self, position):
    """Rows and weights.

    Args:
      position: [n, 3] float32 in [0, 1].

    Returns:
      ([L, n, 8] int32 rows of the node's table, [L, n, 8] float32 weights);
      corner number 4x + 2y + z.
    """
    scaled = position.T[:, None, :] * self._resolution  # [3, L, n]
    cell = torch.minimum(scaled.floor(), self._resolution - 1)
    part = scaled.sub_(cell)
    shape = part.shape[1:] + (8,)
    rows = torch.empty(shape, dtype=torch.int32)
    cut = self._num_dense
    lower = cell.int()
    if cut:
      self._dense_rows(lower[:, :cut], rows[:cut])
    if cut < self._num_scales:
      self._hashed_rows(lower[:, cut:], rows[cut:])
    weights = torch.empty(shape)
    _corner_weights(part, weights)
    return rows, weights

  def differentiable(self, position):
    """As by calling it, with weights that autograd can follow."""
    rows, _ = self(position.detach())
    scaled = position.T[:, None, :] * self._resolution
    cell = torch.minimum(scaled.detach().floor(), self._resolution - 1)
    x, y, z = scaled - cell
    x, y, z = (1 - x, x), (1 - y, y), (1 - z, z)
    corners = [x[i] * y[j] * z[k] for i, j, k in _CORNERS]
    return rows, torch.stack(corners, dim=-1)

  def _dense_rows(self, lower, out):
    x, y, z = lower
    stride = self._stride[: self._num_dense]
    square = stride * stride
    x = (x + self._offset[: self._num_dense], None)
    x = (x[0], x[0] + 1)
    y = (y * stride,)
    y = (y[0], y[0] + stride)
    z = (z * square,)
    z = (z[0], z[0] + square)
    for k in range(4):
      plane = y[k >> 1] + z[k & 1]
      torch.add(x[0], plane, out=out[..., k])
      torch.add(x[1], plane, out=out[..., 4 + k])

  def _hashed_rows(self, lower, out):
    cut = self._num_dense
    offset, rows = self._offset[cut:], self._rows[cut:]
    if self._power_of_two:
      prime_y, mask = _PRIME_Y - (1 << 32), (rows - 1).int()
    else:
      prime_y, mask = _PRIME_Y, None
      lower = lower.long()
    x, y, z = lower
    y = y * prime_y
    z = z * _PRIME_Z
    x, y, z = (x, x + 1), (y, y + prime_y), (z, z + _PRIME_Z)
    for k in range(4):
      plane = y[k >> 1] ^ z[k & 1]
      for i in range(2):
        mixed = x[i] ^ plane
        if mask is not None:
          mixed &= mask
        else:
          mixed &= 0xFFFFFFFF
          mixed %= rows
        torch.add(mixed, offset, out=out[..., 4 * i + k])


def _corner_weights(part, out):
  """Trilinear weights from fractions [3, L, n] into [L, n, 8]."""
  x, y, z = part
  x, y, z = (1 - x, x), (1 - y, y), (1 - z, z)
  for k in range(4):
    plane = y[k >> 1] * z[k & 1]
    torch.mul(x[0], plane, out=out[..., k])
    torch.mul(x[1], plane, out=out[..., 4 + k])


def _features_last(encoded):
  """[L, n, F] to [n, L * F]."""
  return encoded.transpose(0, 1).reshape(encoded.shape[1], -1)


def encode_indexing(table, rows, weights):
  """Encoded features by advanced indexing and autograd.

  Args:
    table: [rows, F].
    rows: [L, n, 8].
    weights: [L, n, 8].

  Returns:
    [n, L * F].
  """
  return _features_last((table[rows] * weights[..., None]).sum(-2))


def _bag(table, rows, weights):
  encoded = F.embedding_bag(
      rows.view(-1, 8),
      table,
      per_sample_weights=weights.view(-1, 8),
      mode='sum',
  )
  return encoded.view(rows.shape[0], rows.shape[1], -1)


class _BagLookup(torch.autograd.Function):
  """Weighted bags whose backward pass adds into `gradient` in place."""

  @staticmethod
  def forward(ctx, table, gradient, rows, weights):
    ctx.gradient = gradient
    ctx.save_for_backward(rows, weights)
    return _bag(table, rows, weights)

  @staticmethod
  def backward(ctx, cotangent):
    rows, weights = ctx.saved_tensors
    _add_bags(ctx.gradient, rows, weights, cotangent)
    return None, None, None, None


def _add_bags(gradient, rows, weights, cotangent):
  """Adds weighted cotangents [L, n, 2] to rows of a gradient [rows, 2]."""
  # Pairs of features move as one complex number: half the scattered adds.
  pair = torch.view_as_complex(cotangent.contiguous())
  flat = (pair[..., None] * weights).view(-1)
  torch.view_as_complex(gradient).index_add_(0, rows.view(-1), flat)


def scatter(gradient, rows, weights, cotangent):
  """Adds the gradient of encoded features to that of the table, in place.

  Args:
    gradient: [rows, 2], of the table.
    rows: [L, n, 8].
    weights: [L, n, 8].
    cotangent: [n, L * 2].
  """
  by_scale = cotangent.view(cotangent.shape[0], rows.shape[0], 2)
  _add_bags(gradient, rows, weights, by_scale.transpose(0, 1))


def encode_embedding_bag(table, gradient, rows, weights):
  """Encoded features by weighted bags.

  Args:
    table: [rows, 2].
    gradient: [rows, 2] buffer that the backward pass adds into, or None.
    rows: [L, n, 8].
    weights: [L, n, 8].

  Returns:
    [n, L * 2].
  """
  if gradient is None:
    return _features_last(_bag(table, rows, weights))
  return _features_last(_BagLookup.apply(table, gradient, rows, weights))
