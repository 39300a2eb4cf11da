"""The peer's side of the frame: eager PyTorch, written with care.

All rays of the picture walk together, those that are done drop out; node
fields loop over nodes, as the published implementation does.
"""

import math

import torch

from infnerf_jax.evaluation.bench import frame, shapes, torch_peer

_MARGIN = 0.02  # intervals by which a leap falls short


class _Walk:
  """The rays that still walk, and the tree."""

  def __init__(self, shape: frame.FrameShape, data: frame.FrameData):
    self.rule = shape.rule
    tensors = [torch.tensor(x) for x in data]
    self.origin, self.low, self.direction, *columns = tensors[:7]
    self.near, self.far, self.base, self.slope = (c[:, 0] for c in columns)
    self.footprints = data.level_footprints.tolist()
    self.children = tensors[8].long().view(-1)
    self.slot_of_node = tensors[9].long()
    self.occupied = tensors[10].view(-1)
    step, slope = self.rule['min_step'], self.rule['step_slope']
    self.growth = math.log1p(slope)
    self.start = torch.clamp(self.near, min=step / slope)
    self.bend = (self.start - self.near) / step

  def distance(self, k, ray):
    """Metres at which interval k begins."""
    near, bend = self.near[ray], self.bend[ray]
    grown = torch.exp((k - bend).clamp(min=0) * self.growth) * self.start[ray]
    t = torch.where(k <= bend, near + k * self.rule['min_step'], grown)
    return torch.minimum(torch.maximum(t, near), self.far[ray])

  def leap(self, t, ray):
    """Whole intervals that end before t."""
    step = (t - self.near[ray]) / self.rule['min_step']
    start = self.start[ray]
    grown = torch.log(torch.maximum(t, start) / start) / self.growth
    step = torch.where(t <= start, step, self.bend[ray] + grown)
    return torch.floor(step - _MARGIN).clamp(0, self.rule['max_steps'])

  def local(self, ray, t, cell, level):
    """Coordinates [n, 3] in a cell's own unit."""
    scale = 2.0**level
    near = (self.origin[ray] * scale - cell) + self.low[ray] * scale
    return near + t[:, None] * (scale / self.rule['root_side']) * (
        self.direction[ray]
    )

  def descend(self, ray, t, *, skip: bool = True):
    """(node, slot, position, metres to which space is empty or -inf).

    Without `skip` nothing is empty, and the last is None.
    """
    footprint = self.base[ray] + t * self.slope[ray]
    cell = torch.zeros(len(t), 3)
    node = torch.zeros(len(t), dtype=torch.long)
    x = self.local(ray, t, cell, 0)
    going = ((x >= 0) & (x < 1)).all(-1)
    q = (x - 0.5) * 2
    m = q.abs().amax(-1, keepdim=True).clamp(min=1)
    position = ((2 - 1 / m) * q / m + 2) / 4
    best, slot = node, self.slot_of_node[node]
    empty_to = torch.full_like(t, -math.inf) if skip else None
    entered = math.inf
    for level in range(len(self.footprints) + 1):
      if skip:
        leave = self._leave(ray, t, x, level, node, entered)
        empty = going & (leave > -math.inf)
        empty_to = torch.where(empty, leave, empty_to)
        going = going & ~empty
      if level:
        best = torch.where(going, node, best)
        slot = torch.where(going, self.slot_of_node[node], slot)
        position = torch.where(going[:, None], x.clamp(0, 1), position)
      if level == len(self.footprints):
        break
      entered = min(entered, self.footprints[level])
      upper = (x >= 0.5).long()
      path = upper[:, 0] * 4 + upper[:, 1] * 2 + upper[:, 2]
      child = self.children[node * 8 + path]
      going = going & (footprint < entered) & (child >= 0)
      node = torch.where(going, child, node)
      cell = torch.where(going[:, None], 2 * cell + upper, cell)
      x = self.local(ray, t, cell, level + 1)
    return best, slot, position, empty_to

  def _leave(self, ray, t, x, level, node, entered):
    """Distance at which a sample leaves its empty cell; -inf in a full one."""
    brick = torch.floor(x * 4).long().clamp(0, 3)
    bit = (brick[:, 0] * 4 + brick[:, 1]) * 4 + brick[:, 2]
    full = self.occupied[node * 64 + bit]
    d = self.direction[ray]
    metres = self.rule['root_side'] / 2.0**level
    length = ((brick + (d > 0)) / 4 - x) * metres / torch.where(d == 0, 1.0, d)
    length = torch.where(d == 0, math.inf, length).amin(-1).clamp(min=0)
    coarser = (entered - self.base[ray]) / self.slope[ray]
    leave = torch.minimum(t + length, coarser)
    return torch.where(full, -math.inf, leave)


def _order(parts, num_rays: int):
  """Samples sorted by ray and the first of each ray."""
  ray = torch.cat([p[0] for p in parts])
  ray, order = torch.sort(ray, stable=True)
  rest = [torch.cat(column)[order] for column in list(zip(*parts))[1:]]
  counts = torch.bincount(ray, minlength=num_rays)
  ends = counts.cumsum(0)
  return ray, *rest, ends - counts


def traverse(walk: _Walk):
  """Ragged samples of all rays.

  Args:
    walk: scene.

  Returns:
    (ray_idx [S], t [S], delta [S], slot [S], position [S, 3], first sample of
    each ray [R]).
  """
  num_rays = len(walk.near)
  ray = torch.arange(num_rays)
  ray = ray[walk.near < walk.far]
  k = torch.zeros(len(ray))
  count = torch.zeros(len(ray), dtype=torch.long)
  parts = []
  while len(ray):
    t0, t1 = walk.distance(k, ray), walk.distance(k + 1, ray)
    t = 0.5 * (t0 + t1)
    _, slot, position, empty_to = walk.descend(ray, t)
    empty = empty_to > -math.inf
    kept = ~empty & (slot >= 0) & (t1 > t0)
    found = (ray, t, t1 - t0, slot, position)
    parts.append(tuple(x[kept] for x in found))
    count = count + kept
    leap = torch.where(empty, walk.leap(empty_to, ray), 0.0)
    k = torch.maximum(k + 1, leap)
    more = (k < walk.rule['max_steps']) & (
        count < walk.rule['max_samples_per_ray']
    )
    more &= walk.distance(k, ray) < walk.far[ray]
    ray, k, count = ray[more], k[more], count[more]
  return _order(parts, num_rays)


def composite(raw, rgb, delta, ray, first, max_samples: int):
  """Colours [R, 3] of ragged samples, by padding rays to `max_samples`."""
  place = ray * max_samples + torch.arange(len(ray)) - first[ray]
  shape = (len(first), max_samples)
  dense = torch.full((shape[0] * max_samples,), -math.inf)
  dense[place] = raw
  color = torch.zeros(shape[0] * max_samples, 3)
  color[place] = rgb
  length = torch.zeros(shape[0] * max_samples)
  length[place] = delta
  return torch_peer.composite(dense, color, length.view(shape))


class _Frame:
  """The scene on the default device, and its ops."""

  def __init__(self, shape: frame.FrameShape):
    data = frame.make_frame(shape)
    step = frame.field_shape(shape, data)
    params = shapes.make_params(step, torch_peer.num_rows(step))
    self.shape = shape
    self.walk = _Walk(shape, data)
    self.fields = torch_peer.NodeFields(step, params, 'per_node')
    self.inputs = torch.tensor(data.ray_inputs)

  def distances(self):
    """By block of rays: (ray of each sample [S], distances [S])."""
    near, far = (
        c.cpu().numpy()[:, None] for c in (self.walk.near, self.walk.far)
    )
    num, size = self.shape.num_located, self.shape.rays_per_block
    t = torch.tensor(frame.located_distances(near, far, num))
    rays = torch.arange(len(t)).repeat_interleave(num)
    return [
        (rays[i * num : (i + size) * num], t[i : i + size].reshape(-1))
        for i in range(0, len(t), size)
    ]

  def step_data(self, samples):
    """What NodeFields takes."""
    ray, _, delta, slot, position, _ = samples
    return shapes.StepData(position, slot, ray, self.inputs, delta, None)

  def blocks(self, samples):
    """Samples by block of rays: fewer at a time bound the memory."""
    first = samples[5]
    size = self.shape.rays_per_block
    starts = first[::size].tolist() + [len(samples[0])]
    for i, (low, high) in enumerate(zip(starts[:-1], starts[1:])):
      ray, *rest = (x[low:high] for x in samples[:5])
      rays = slice(i * size, (i + 1) * size)
      yield rays, (ray, *rest, first[rays] - low)

  def fold(self, rays, samples, raw, rgb):
    """Colours of a block."""
    ray, _, delta, _, _, first = samples
    most = self.shape.max_samples
    return composite(raw, rgb, delta, ray - rays.start, first, most)

  def render(self):
    """[R, 3] colours of the frame."""
    out = []
    for rays, block in self.blocks(traverse(self.walk)):
      out.append(self.fold(rays, block, *self.fields(self.step_data(block))))
    return torch.cat(out)


def frame_parts(shape, *, platform: str):
  """As frame_steps.frame_parts, in eager PyTorch.

  Args:
    shape: fields of FrameShape.
    platform: 'cpu' or 'gpu'.

  Returns:
    Functions of nothing by name, which return the number of samples.
  """
  torch_peer.use_platform(platform)
  scene = _Frame(frame.from_dict(shape))
  with torch.inference_mode():
    samples = traverse(scene.walk)
    blocks = list(scene.blocks(samples))
    data = [scene.step_data(block) for _, block in blocks]
    shaded = [scene.fields(d) for d in data]
    distances = scene.distances()
  count = float(len(samples[0]))

  def timed(function, count=count):
    @torch.inference_mode()
    def run():
      function()
      if platform == 'gpu':
        torch.cuda.synchronize()
      return count

    return run

  def locate():
    for ray, t in distances:
      scene.walk.descend(ray, t, skip=False)

  def fold():
    for (rays, block), out in zip(blocks, shaded):
      scene.fold(rays, block, *out)

  located = float(sum(len(t) for _, t in distances))
  return {
      'locate': timed(locate, located),
      'traverse': timed(lambda: traverse(scene.walk)),
      'hash_lookup': timed(lambda: [scene.fields.encode(d) for d in data]),
      'node_field': timed(lambda: [scene.fields(d) for d in data]),
      'composite': timed(fold),
      'frame': timed(scene.render),
  }


def picture(shape):
  """[R, 3] colours of the whole frame, a NumPy array."""
  with torch.inference_mode():
    return _Frame(frame.from_dict(shape)).render().cpu().numpy()
