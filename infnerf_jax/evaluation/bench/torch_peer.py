"""The peer: the same step in eager PyTorch, written with care.

It loops over nodes, as the published implementation does, with samples sorted
by node once, and works on contiguous slices. Only the benchmark imports this
module; torch is optional.
"""

import torch

from infnerf_jax.evaluation.bench import shapes, torch_grid

# `stacked`: one parameter for all nodes, a node's row by indexing, autograd.
# `per_node`: parameters of each node of their own, as modules have; autograd.
# `hand_written`: the same with weighted bags and a backward pass by hand.
FORMULATIONS = ('stacked', 'per_node', 'hand_written')
OPTIMIZERS = ('dense', 'lazy')
_RATE, _B1, _B2, _EPS = 1e-2, 0.9, 0.99, 1e-15


def use_platform(platform: str) -> None:
  """Makes what follows run on 'cpu' or 'gpu'; RuntimeError if it cannot."""
  if platform == 'gpu':
    if not torch.cuda.is_available():
      raise RuntimeError('no GPU: torch has no CUDA device')
    torch.set_default_device('cuda')
    torch.backends.cuda.matmul.allow_tf32 = True


def _leaf(array):
  return torch.tensor(array).requires_grad_()


class NodeFields:
  """Fields of all nodes: one set of parameters a node.

  Args:
    shape: sizes.
    params: stacked NumPy parameters, see `shapes.make_params`.
    formulation: of the hash lookup, one of `FORMULATIONS`.
  """

  def __init__(self, shape: shapes.StepShape, params, formulation: str):
    if formulation not in FORMULATIONS:
      raise ValueError(f'formulation: got {formulation}, not {FORMULATIONS}')
    self._bags = formulation == 'hand_written'
    self._lookup = [
        torch_grid.CornerLookup(torch_grid.make_grid(shape, is_root=root))
        for root in (True, False)
    ]
    stacked = [*params['density'].values(), *params['color'].values()]
    if formulation == 'stacked':
      self.tables = _leaf(params['table'])
      leaves = [_leaf(w) for w in stacked]
      self._weights_of = lambda node: [w[node] for w in leaves]
      self.dense = leaves
    else:
      self.tables = [_leaf(table) for table in params['table']]
      rows = [[_leaf(w) for w in row] for row in zip(*stacked, strict=True)]
      self._weights_of = lambda node: rows[node]
      self.dense = sum(rows, [])
    # Rows that a step addressed, kept where a lazy optimiser asks for them.
    self.touched = None
    if self._bags:
      for table in self.tables:
        table.grad = torch.zeros_like(table)

  def __call__(self, data):
    """Evaluates samples.

    Args:
      data: shapes.StepData of tensors.

    Returns:
      ([S] raw density, [S, 3] rgb).
    """
    order, parts = self._parts(data.slot)
    position = data.position[order]
    inputs = data.ray_inputs[data.ray_idx[order]]
    outputs = [self._node(n, position[p], inputs[p]) for n, p in parts]
    raw = torch.cat([raw for raw, _ in outputs])
    rgb = torch.cat([rgb for _, rgb in outputs])
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0])
    return raw[back], rgb[back]

  def density(self, data):
    """Raw densities [S] alone, as `__call__` takes samples."""
    order, parts = self._parts(data.slot)
    position = data.position[order]
    raw = torch.empty(len(order))
    raw[order] = torch.cat([self._density(n, position[p]) for n, p in parts])
    return raw

  def encode(self, data):
    """Encoded features [S, L * F], sorted by node."""
    order, parts = self._parts(data.slot)
    position = data.position[order]
    return torch.cat([self._encode(n, position[p]) for n, p in parts])

  def scatter(self, position, slot, gradient):
    """Adds features' gradients to the tables' buffers (hand_written only).

    Args:
      position: [S, 3].
      slot: [S].
      gradient: [S, L * F] of the encoded features.
    """
    order, parts = self._parts(slot)
    position, gradient = position[order], gradient[order]
    for node, mine in parts:
      rows, weights = self._lookup[node > 0](position[mine])
      if self.touched is not None:
        self.touched[node].index_fill_(0, rows.view(-1).long(), True)
      torch_grid.scatter(self.tables[node].grad, rows, weights, gradient[mine])

  def _parts(self, slot):
    """([S] samples sorted by node, [(node, its slice of them)])."""
    slot, order = torch.sort(slot, stable=True)
    ends = torch.bincount(slot, minlength=len(self.tables)).cumsum(0).tolist()
    parts, start = [], 0
    for node, end in enumerate(ends):
      if end > start:
        parts.append((node, slice(start, end)))
      start = end
    return order, parts

  def _encode(self, node, position):
    table = self.tables[node]
    rows, weights = self._lookup[node > 0](position)
    if self.touched is not None:
      self.touched[node].index_fill_(0, rows.view(-1).long(), True)
    if not self._bags:
      return torch_grid.encode_indexing(table, rows, weights)
    gradient = table.grad if torch.is_grad_enabled() else None
    return torch_grid.encode_embedding_bag(table, gradient, rows, weights)

  def _density(self, node, position):
    density0, density1, *_ = self._weights_of(node)
    hidden = torch.relu_(self._encode(node, position) @ density0)
    return hidden @ density1[:, 0]

  def _node(self, node, position, inputs):
    density0, density1, color0, color1, color2 = self._weights_of(node)
    encoded = self._encode(node, position)
    out = torch.relu_(encoded @ density0) @ density1
    color = torch.cat([torch.sigmoid(out[:, 1:]), inputs], dim=-1)
    color = torch.relu_(torch.relu_(color @ color0) @ color1)
    return out[:, 0], torch.sigmoid(color @ color2)


def composite(raw, rgb, delta):
  """Emission-absorption colours.

  Args:
    raw: [R * S].
    rgb: [R * S, 3].
    delta: [R, S].

  Returns:
    [R, 3].
  """
  optical = torch.exp(raw.clamp(max=15.0)).view(delta.shape) * delta
  before = torch.cumsum(optical, -1) - optical
  weights = torch.exp(-before) * -torch.expm1(-optical)
  return (weights[..., None] * rgb.view(*delta.shape, 3)).sum(-2)


class LazyAdam:
  """Adam of touched rows only, with a step count a row.

  Args:
    fields: whose tables it updates; gradients lie in persistent buffers.
  """

  def __init__(self, fields: NodeFields):
    self._fields = fields
    tables = fields.tables
    self._moment1 = [torch.zeros_like(t) for t in tables]
    self._moment2 = [torch.zeros_like(t) for t in tables]
    self._count = [torch.zeros(t.shape[0], 1) for t in tables]
    fields.touched = [torch.zeros(t.shape[0], dtype=torch.bool) for t in tables]

  @torch.no_grad()
  def step(self):
    """Updates touched rows and zeroes their gradients."""
    for node, table in enumerate(self._fields.tables):
      mask = self._fields.touched[node]
      rows = mask.nonzero().view(-1)
      if not rows.shape[0]:
        continue
      gradient = table.grad.index_select(0, rows)
      count = self._count[node].index_select(0, rows).add_(1)
      first = self._moment1[node].index_select(0, rows)
      first.lerp_(gradient, 1 - _B1)
      second = self._moment2[node].index_select(0, rows)
      second.mul_(_B2).addcmul_(gradient, gradient, value=1 - _B2)
      root = (second / (1 - _B2**count)).sqrt_().add_(_EPS)
      step = (first / (1 - _B1**count)).div_(root).mul_(-_RATE)
      table.index_add_(0, rows, step)
      self._moment1[node].index_copy_(0, rows, first)
      self._moment2[node].index_copy_(0, rows, second)
      self._count[node].index_copy_(0, rows, count)
      table.grad.index_fill_(0, rows, 0.0)
      mask.index_fill_(0, rows, False)


class _Adam:
  """Adam of everything, tables lazily or not."""

  def __init__(self, fields, optimizer, formulation):
    if optimizer not in OPTIMIZERS:
      raise ValueError(f'optimizer: got {optimizer}, not {OPTIMIZERS}')
    dense = list(fields.dense)
    self._lazy = None
    # In-place gradients live in buffers that are zeroed, not thrown away.
    self._zero = fields.tables if formulation == 'hand_written' else []
    if optimizer == 'lazy':
      self._lazy, self._zero = LazyAdam(fields), []
    else:
      tables = fields.tables
      dense += [tables] if torch.is_tensor(tables) else tables
    self._drop = [w for w in dense if not any(w is z for z in self._zero)]
    self._adam = torch.optim.Adam(
        dense, lr=_RATE, betas=(_B1, _B2), eps=_EPS, fused=True
    )

  def zero_grad(self):
    for param in self._drop:
      param.grad = None
    for param in self._zero:
      param.grad.zero_()

  def step(self):
    self._adam.step()
    if self._lazy is not None:
      self._lazy.step()


def tensors(data: shapes.StepData) -> shapes.StepData:
  """The same data as tensors."""
  return shapes.StepData(*[torch.tensor(x) for x in data])


def num_rows(shape: shapes.StepShape) -> int:
  """Rows of a node's table."""
  return sum(torch_grid.make_grid(shape, is_root=False).rows)


def train_step(shape, *, formulation: str, optimizer: str, seed: int = 0):
  """A step to call again and again.

  Args:
    shape: fields of StepShape.
    formulation: one of `FORMULATIONS`.
    optimizer: 'dense' or 'lazy'.
    seed: of data.

  Returns:
    Function of nothing that does one step and returns the loss.
  """
  shape = shapes.StepShape(**shape)
  if optimizer == 'lazy' and formulation != 'hand_written':
    raise ValueError(f'lazy Adam: got {formulation}, needs hand_written')
  data = tensors(shapes.make_data(shape, seed))
  params = shapes.make_params(shape, num_rows(shape))
  fields = NodeFields(shape, params, formulation)
  adam = _Adam(fields, optimizer, formulation)

  def step():
    adam.zero_grad()
    raw, rgb = fields(data)
    color = composite(raw, rgb, data.delta)
    loss = torch.mean((color - data.target) ** 2)
    loss.backward()
    adam.step()
    return loss.item()

  return step


def inference_step(shape, *, formulation: str, seed: int = 0):
  """Rendering of a batch without gradient, to call again and again.

  Args:
    shape: fields of StepShape.
    formulation: one of `FORMULATIONS`.
    seed: of data.

  Returns:
    Function of nothing that returns [R, 3] colours.
  """
  shape = shapes.StepShape(**shape)
  data = tensors(shapes.make_data(shape, seed))
  params = shapes.make_params(shape, num_rows(shape))
  fields = NodeFields(shape, params, formulation)

  @torch.inference_mode()
  def step():
    raw, rgb = fields(data)
    return composite(raw, rgb, data.delta)

  return step
