"""The peer's side of a training batch: the same ops in eager PyTorch."""

from typing import Callable

import torch

from infnerf_jax.evaluation.bench import (
    batch,
    shapes,
    torch_grid,
    torch_peer,
)


class _FieldsOfFeatures(torch_peer.NodeFields):
  """Node fields whose encoded features are leaves, as ours are."""

  def __init__(self, shape, params):
    super().__init__(shape, params, 'per_node')
    self.features = []

  def _encode(self, node, position):
    with torch.no_grad():
      encoded = super()._encode(node, position)
    self.features.append(encoded.requires_grad_())
    return encoded


def _field_gradient(fields: _FieldsOfFeatures, data):
  """Gradients of weights and encoded features, nothing kept."""
  fields.features = []
  raw, rgb = fields(data)
  leaves = [w for w in fields.dense] + fields.features
  return torch.autograd.grad(raw.sum() + rgb.sum(), leaves, allow_unused=True)


class _Lookup:
  """Encoded features by node, differentiable in the positions."""

  def __init__(self, shape: shapes.StepShape, params, data):
    self._tables = [torch.tensor(table) for table in params['table']]
    grids = [torch_grid.make_grid(shape, is_root=r) for r in (True, False)]
    self._lookups = [torch_grid.CornerLookup(grid) for grid in grids]
    slot, self._order = torch.sort(data.slot, stable=True)
    counts = torch.bincount(slot, minlength=len(self._tables)).tolist()
    self._counts = counts

  def gradient(self, position, seed):
    """[S, 3] of sum(features * seed), samples sorted by node.

    Args:
      position: [S, 3].
      seed: [S, L * F], sorted by node.
    """
    position = position[self._order]
    found, start = [], 0
    for node, count in enumerate(self._counts):
      mine = slice(start, start + count)
      start += count
      if count:
        at = position[mine].requires_grad_()
        rows, weights = self._lookups[node > 0].differentiable(at)
        out = torch_grid.encode_indexing(self._tables[node], rows, weights)
        found += torch.autograd.grad(out, at, seed[mine])
    return torch.cat(found)

  def sorted(self, seed):
    """Rows [S, ...] in the order that `gradient` takes."""
    return seed[self._order]


class _Update:
  """Scatters the features' gradient into tables and steps the touched rows."""

  def __init__(self, shape: shapes.StepShape, params, data, seed):
    self._fields = torch_peer.NodeFields(shape, params, 'hand_written')
    self._adam = torch_peer.LazyAdam(self._fields)
    self._data, self._seed = data, seed
    self._scatter()
    self.num_rows = float(sum(int(m.sum()) for m in self._fields.touched))

  @torch.no_grad()
  def _scatter(self):
    fields, data = self._fields, self._data
    fields.scatter(data.position, data.slot, self._seed)

  def __call__(self):
    self._scatter()
    self._adam.step()


def _composite_gradient(raw, rgb, delta, seed):
  leaves = [raw.requires_grad_(), rgb.requires_grad_()]
  color = torch_peer.composite(*leaves, delta)
  return torch.autograd.grad((color * seed).sum(), leaves)


def batch_parts(shape, *, platform: str) -> dict[str, Callable[[], float]]:
  """As batch_steps.batch_parts, in eager PyTorch.

  Args:
    shape: fields of StepShape.
    platform: 'cpu' or 'gpu'.

  Returns:
    Functions of nothing by name, which return the number of samples;
    sparse_adam that of the rows that it updates.
  """
  torch_peer.use_platform(platform)
  shape = shapes.StepShape(**shape)
  data = torch_peer.tensors(shapes.make_data(shape, 0))
  params = shapes.make_params(shape, torch_peer.num_rows(shape))
  encoded = shape.num_grid_scales * shape.num_features
  d_color, d_features = map(torch.tensor, batch.seeds(shape, encoded))
  fields = _FieldsOfFeatures(shape, params)
  with torch.no_grad():
    raw, rgb = fields(data)
  lookup = _Lookup(shape, params, data)
  d_sorted = lookup.sorted(d_features)
  update = _Update(shape, params, data, d_features)
  num_samples = float(data.slot.shape[0])

  def timed(function, count=num_samples):
    def run():
      function()
      if platform == 'gpu':
        torch.cuda.synchronize()
      return count

    return run

  return {
      'hash_lookup gradient': timed(
          lambda: lookup.gradient(data.position, d_sorted)
      ),
      'node_field gradient': timed(lambda: _field_gradient(fields, data)),
      'composite gradient': timed(
          lambda: _composite_gradient(raw, rgb, data.delta, d_color)
      ),
      'sparse_adam': timed(update, update.num_rows),
  }
