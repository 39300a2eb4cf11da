"""A run's pictures in eager PyTorch: the peer of `pictures`.

The whole renderer once more, of the same parameters: two rounds of samples, the
descent of the octree, node fields in a loop over nodes. Rays come from outside.
"""

import jax
import numpy as np
import torch

from infnerf_jax.evaluation.bench import shapes, torch_peer
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_image, render_rays

_BLOCK = 8192  # rays


def _shape(spec, num_nodes) -> shapes.StepShape:
  grid, field = spec.field.grid, spec.field
  return shapes.StepShape(
      num_grid_scales=grid.num_grid_scales,
      log2_table_size=grid.table_size.bit_length() - 1,
      num_nodes=num_nodes, num_slots=num_nodes,
      base_resolution=grid.base_resolution,
      finest_resolution=grid.finest_resolution,
      num_features=grid.num_features, hidden_width=field.hidden_width,
      num_geometry=field.num_geometry, appearance_dim=spec.appearance_dim,
  )  # fmt: skip


def _resample(sdist, weights, num: int, options):
  """Ends [R, num + 1] by intervals' weights [R, S]; see `sampling.resample`."""
  width = sdist[:, 1:] - sdist[:, :-1]
  powered = weights.clamp(min=0) ** options.weight_power
  total = powered.sum(-1, keepdim=True)
  uniform = width / width.sum(-1, keepdim=True).clamp(min=1e-12)
  pdf = powered / total.clamp(min=1e-8) + (options.padding + 1e-5) * uniform
  pdf = pdf / pdf.sum(-1, keepdim=True)
  cdf = pdf.cumsum(-1).clamp(max=1.0)
  cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf[:, :-1],
                   torch.ones_like(cdf[:, :1])], -1)  # fmt: skip
  draws = ((torch.arange(num) + 0.5) / num).expand(len(sdist), num).contiguous()
  low = torch.searchsorted(cdf, draws, right=True) - 1
  low = low.clamp(0, cdf.shape[-1] - 2)
  c0, c1 = cdf.gather(-1, low), cdf.gather(-1, low + 1)
  e0, e1 = sdist.gather(-1, low), sdist.gather(-1, low + 1)
  share = ((draws - c0) / (c1 - c0).clamp(min=1e-12)).clamp(0, 1)
  points = e0 + share * (e1 - e0)
  middle = 0.5 * (points[:, 1:] + points[:, :-1])
  first = torch.maximum(2 * points[:, :1] - middle[:, :1], sdist[:, :1])
  last = torch.minimum(2 * points[:, -1:] - middle[:, -1:], sdist[:, -1:])
  return torch.cat([first, middle, last], -1)


class Renderer:
  """Renders views of a run whose nodes are all resident."""

  def __init__(self, loaded):
    """Copies the parameters.

    Args:
      loaded: a LoadedScene with two sampling rounds, unblended.
    """
    model, self._spec = loaded.model, loaded.spec
    self._options, self._loaded = loaded.options, loaded
    params = jax.tree.map(np.asarray, model.nodes)
    num_nodes = len(params['table'])
    self._fields = torch_peer.NodeFields(
        _shape(self._spec, num_nodes), params, 'per_node'
    )
    self._children = torch.tensor(np.asarray(model.tree.children)).long()
    self._slots = torch.tensor(np.asarray(model.tree.slot_of_node)).long()
    self._aabb = torch.tensor(np.asarray(model.sample_aabb))

  def rays(self, camera, pixel_size: float):
    """Tensors of a picture's rays, and its size: what `render` takes."""
    loaded = self._loaded
    width, height = render_image.image_size(camera, pixel_size=pixel_size)
    table = cameras_lib.Cameras(*(np.asarray(x)[None] for x in camera))
    pix = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    pix = (pix.reshape(-1, 2) + 0.5).astype(np.float32) * np.float32(pixel_size)
    num = len(pix)
    rays = cameras_lib.camera_rays(
        scene_model.device_cameras(table, loaded.octree),
        np.zeros(num, np.int32), pix, np.full(num, pixel_size, np.float32),
        root_side=self._spec.root_side,
    )  # fmt: skip
    appearance = np.broadcast_to(
        loaded.appearance(), (num, self._spec.appearance_dim)
    )
    inputs = render_rays.ray_inputs(rays, appearance)
    arrays = (
        rays.origins, rays.origins_lo, rays.directions, rays.base_radius,
        rays.cone_slope, inputs,
    )  # fmt: skip
    return [torch.tensor(np.asarray(a)) for a in arrays], (height, width)

  @torch.inference_mode()
  def render(self, tensors, size) -> np.ndarray:
    """[H, W, 3] rgb."""
    blocks = [
        self._block(*(x[start : start + _BLOCK] for x in tensors))
        for start in range(0, len(tensors[0]), _BLOCK)
    ]
    return torch.cat(blocks).view(*size, 3).numpy()

  def _block(self, origin, low, direction, base, slope, inputs):
    """[R, 3] colours."""
    near, far = self._limits(origin + low, direction)
    first, second = self._options.num_samples
    sdist = torch.linspace(0, 1, first + 1).expand(len(origin), first + 1)
    rays = (origin, low, direction, base, slope)
    tdist, data = self._samples(rays, sdist.contiguous(), near, far, inputs)
    raw = self._fields.density(data)
    weights = self._weights(raw, tdist, opaque_end=False)
    sdist = _resample(sdist, weights, second, self._options)
    tdist, data = self._samples(rays, sdist, near, far, inputs)
    raw, rgb = self._fields(data)
    weights = self._weights(raw, tdist, opaque_end=self._options.opaque_end)
    color = (weights[..., None] * rgb.view(*weights.shape, 3)).sum(-2)
    background = torch.tensor(self._loaded.background)
    return color + (1 - weights.sum(-1, keepdim=True)) * background

  def _limits(self, origin, direction):
    half, side = self._spec.half_side, self._spec.root_side
    a = (self._aabb[0] - origin) / direction
    b = (self._aabb[1] - origin) / direction
    enter = torch.minimum(a, b).amax(-1, keepdim=True) * side
    leave = torch.maximum(a, b).amin(-1, keepdim=True) * side
    near = enter.clamp(min=self._options.near * half)
    return near, torch.maximum(leave.clamp(max=self._options.far * half), near)

  def _samples(self, rays, sdist, near, far, inputs):
    """([R, S + 1] interval ends, StepData of their midpoints)."""
    origin, low, direction, base, slope = rays
    h = self._spec.half_side
    squeeze = lambda u: torch.where(u < 1, 0.5 * u, 1 - 0.5 / u.clamp(min=1))
    first, last = squeeze(near / h), squeeze(far / h)
    s = first + sdist * (last - first)
    tdist = h * torch.where(s < 0.5, 2 * s, 0.5 / (1 - s).clamp(min=1e-7))
    t = 0.5 * (tdist[:, 1:] + tdist[:, :-1])
    slot, position = self._locate(origin, low, direction, t, base + t * slope)
    num_rays, num_samples = t.shape
    return tdist, shapes.StepData(
        position=position.view(-1, 3), slot=slot.view(-1),
        ray_idx=torch.arange(num_rays).repeat_interleave(num_samples),
        ray_inputs=inputs, delta=None, target=None,
    )  # fmt: skip

  def _locate(self, origin, low, direction, t, footprint):
    """([R, S] slots, [R, S, 3] positions in the nodes' boxes)."""
    spec = self._spec
    bias = getattr(self._options.level_policy, 'bias', 0.0)
    target = torch.log2(spec.root_gsd / (footprint * 2.0**bias))
    target = target.ceil().clamp(0, spec.max_level)
    cell = torch.zeros(*t.shape, 3)
    node = torch.zeros(t.shape, dtype=torch.long)
    bits = torch.tensor([4, 2, 1])

    def local(level):
      scale = 2.0**level
      near = (origin[:, None] * scale - cell) + low[:, None] * scale
      step = (scale / spec.root_side) * direction[:, None]
      return near + t[..., None] * step

    x = local(0)
    going = ((x >= 0) & (x < 1)).all(-1)
    q = (x - 0.5) * 2
    m = q.abs().amax(-1, keepdim=True).clamp(min=1)
    position = ((2 - 1 / m) * q / m + 2) / 4
    for level in range(1, spec.max_level + 1):
      upper = (x >= 0.5).long()
      child = self._children[node, (upper * bits).sum(-1)]
      going = going & (child >= 0) & (target >= level)
      node = torch.where(going, child, node)
      cell = torch.where(going[..., None], 2 * cell + upper, cell)
      x = torch.where(going[..., None], local(level), x)
      position = torch.where(going[..., None], x.clamp(0, 1), position)
    return self._slots[node], position

  def _weights(self, raw, tdist, *, opaque_end: bool):
    delta = tdist[:, 1:] - tdist[:, :-1]
    if opaque_end:
      delta = delta.clone()
      endless = 1e6 * self._spec.root_side
      delta[:, -1] = torch.where(delta[:, -1] > 0, endless, 0.0)
    density = torch.exp(raw.clamp(max=15.0)) / self._spec.half_side
    depth = density.view(delta.shape) * delta
    # Not `cumsum - depth`: an endless last interval would drown the rest.
    before = depth[:, :-1].cumsum(-1)
    before = torch.cat([torch.zeros_like(depth[:, :1]), before], -1)
    return torch.exp(-before) * -torch.expm1(-depth)
