"""Renders rays by traversal: even steps wherever space is not empty.

In place of sampling rounds: one walk of `kernels.traverse` through the tree of
`traversal` places ragged samples, as many as a ray has occupied space, at the
nodes that their footprints ask for; one pass of the field and
`composite_ragged` fold them. Nothing is evaluated to find out where to sample.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import blending, render_rays
from infnerf_jax.render import traversal as traversal_lib
from kernels.composite import api as composite_op
from kernels.locate import reference as locate_reference
from kernels.traverse import api as traverse_op

RenderOptions = render_rays.RenderOptions
# Intervals looked at or leapt over; max_samples ends rays long before.
_MAX_STEPS = 1 << 16


def by_traversal(
    options: RenderOptions, *, step: float, max_samples: int = 256
) -> RenderOptions:
  """Options that place samples by traversal.

  Args:
    options: whose rounds and tiles do not matter then.
    step: in the finest node_gsd.
    max_samples: of a ray.

  Returns:
    RenderOptions.
  """
  return dataclasses.replace(
      options, sampler='traverse', step=step, max_samples=max_samples,
      proposal_stride=1, first_stride=0, samples_per_interval=0.0,
      stop_below=0.0,
  )  # fmt: skip


class Placed(NamedTuple):
  """Ragged samples of rays, ray r's at [ray_offsets[r], ray_offsets[r + 1]).

  Attributes:
    ray_offsets: [R + 1] int32.
    ray_idx: [C] int32; 0 behind the last sample.
    samples: Samples [C, 1]; slot -1 behind the last sample.
    near: [R, 1] metres.
    far: [R, 1] metres.
    has_length: [R] bool, whether a ray meets the box.
  """

  ray_offsets: jax.Array
  ray_idx: jax.Array
  samples: render_rays.Samples
  near: jax.Array
  far: jax.Array
  has_length: jax.Array


def _walked(origins, origins_lo):
  """Origins in units of the walked cube, and what that rounds away."""
  shifted = origins - traversal_lib.LOW
  # The part of `origins` that the sum lost (Knuth's two-sum).
  back = shifted - origins
  lost = (origins - (shifted - back)) + (-traversal_lib.LOW - back)
  return shifted / traversal_lib.SIDE, (origins_lo + lost) / traversal_lib.SIDE


def place_samples(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    rays: cameras_lib.Rays,
    options: RenderOptions,
    *,
    phase=None,
) -> Placed:
  """Walks rays; no gradient flows.

  Args:
    model: scene with a `traversal`.
    spec: static facts.
    rays: [R].
    options: sampling.
    phase: [R, 1] in [0, 1), shifts a ray's intervals; None: not.

  Returns:
    Placed.

  Raises:
    ValueError: the scene has no traversal.
  """
  tree = model.traversal
  if tree is None:
    raise ValueError(
        "sampler: got 'traverse' and a scene without a traversal, expected one"
        ' of `LoadedScene.with_traversal`'
    )
  near, far = render_rays.ray_limits(model, spec, rays, options)
  sizes = dict(root_gsd=spec.root_gsd, max_level=spec.max_level)
  entered = traversal_lib.level_footprints(options.level_policy, **sizes)
  free = lambda num: jnp.full(num, jnp.inf)  # entered whatever the footprint
  levels = (free(traversal_lib.LEVELS_ABOVE), entered)
  found = traverse_op.traverse(
      *_walked(rays.origins, rays.origins_lo), rays.directions, near, far,
      rays.base_radius, rays.cone_slope,
      jnp.concatenate([*levels, free(tree.levels_below.shape[0])]),
      tree.children, tree.slot_of_node, tree.words, phase,
      root_side=spec.root_side * traversal_lib.SIDE,
      min_step=options.step * spec.root_gsd * 0.5**spec.max_level,
      max_steps=_MAX_STEPS, max_samples_per_ray=options.max_samples,
      # There is no native traversal.
      implementation=None
      if spec.implementation == 'native' else spec.implementation,
  )  # fmt: skip
  ray_idx = jnp.maximum(found.ray_idx, 0)
  mine = jax.tree.map(lambda a: a[ray_idx], rays)
  t = found.t[:, None]
  x = (mine.origins + mine.origins_lo) + t * mine.directions / spec.root_side
  # The walked cube's root is not the model's.
  level = tree.level_of_node[found.node_id]
  position = jnp.where(
      level[:, None] == 0, locate_reference.contract(x), found.position
  )
  half = 0.5 * found.delta[:, None]
  tdist = jnp.concatenate([t - half, t + half], axis=-1)
  samples = render_rays.Samples(
      tdist=tdist, sdist=tdist, t=t, position=position[:, None],
      slot=found.slot[:, None],
      node_id=jnp.maximum(found.node_id - 2, 0)[:, None], level=level[:, None],
  )  # fmt: skip
  samples = render_rays.with_coarse(
      samples, model, spec, mine, options.level_policy
  )
  placed = Placed(
      found.ray_offsets, ray_idx, samples, near, far, (far > near)[:, 0]
  )
  return jax.lax.stop_gradient(placed)


def _evaluate(model, spec, placed, inputs, shows=None):
  """([C] density, [C, 3] colour); colours of `shows` alone where given."""
  samples = placed.samples
  at = (
      lambda slot: slot[:, 0]
      if shows is None
      else jnp.where(shows, slot[:, 0], -1)
  )

  def colors(slot, position):
    raw, rgb = node_evaluation.node_colors(
        model.nodes, model.tree, position[:, 0], at(slot), placed.ray_idx,
        inputs, spec=spec,
    )  # fmt: skip
    return jnp.where(slot[:, 0] < 0, 0.0, scene_model.density(raw, spec)), rgb

  fine = colors(samples.slot, samples.position)
  if samples.coarse is None:
    return fine
  coarse = samples.coarse
  return blending.blend(
      fine, colors(coarse.slot, coarse.position), coarse.share[:, 0]
  )


def _densities(model, spec, placed):
  """[C] densities, without colours."""

  def density(slot, position):
    raw = node_evaluation.node_density(
        model.nodes, model.tree, position[:, 0], slot[:, 0], placed.ray_idx,
        spec=spec,
    )  # fmt: skip
    return jnp.where(slot[:, 0] < 0, 0.0, scene_model.density(raw, spec))

  samples, coarse = placed.samples, placed.samples.coarse
  fine = density(samples.slot, samples.position)
  if coarse is None:
    return fine
  share = coarse.share[:, 0]
  return (1 - share) * fine + share * density(coarse.slot, coarse.position)


def _last_sample(placed, spec, delta):
  """Intervals whose last one of each ray has no end."""
  first, end = placed.ray_offsets[:-1], placed.ray_offsets[1:]
  at = jnp.where(end > first, end - 1, delta.shape[0])
  return delta.at[at].set(1e6 * spec.root_side, mode='drop')


class _End(NamedTuple):
  """What rays that met nothing show where they end; [R]."""

  is_needed: jax.Array
  rgb: jax.Array  # [R, 3]
  slot: jax.Array
  level: jax.Array


def _no_end(placed) -> _End:
  """Rays that meet nothing are clear."""
  zero = jnp.zeros(len(placed.far), jnp.int32)
  return _End(zero > 0, jnp.zeros((len(zero), 3)), zero - 1, zero)


def _end_of_rays(model, spec, placed, rays, inputs, options) -> _End:
  """The far end's own sample, of rays without any other."""
  first, end = placed.ray_offsets[:-1], placed.ray_offsets[1:]
  is_needed = placed.has_length & (end == first)
  _, slot, level, position = render_rays.locate_samples(
      None, model, spec, rays, placed.far, policy=options.level_policy
  )
  slot = jnp.where(is_needed, slot[:, 0], -1)
  row = jnp.arange(len(slot), dtype=jnp.int32)
  _, rgb = node_evaluation.node_colors(
      model.nodes, model.tree, position[:, 0], slot, row, inputs, spec=spec
  )
  return _End(is_needed, rgb, slot, level[:, 0])


def _in_rows(placed, value, fill, num_columns: int):
  """Ragged [C, ...] as rows [R, S, ...], `fill` behind a ray's last sample."""
  first, end = placed.ray_offsets[:-1, None], placed.ray_offsets[1:, None]
  place = first + jnp.arange(num_columns, dtype=jnp.int32)
  taken = value[jnp.minimum(place, value.shape[0] - 1)]
  real = (place < end).reshape(place.shape + (1,) * (value.ndim - 1))
  return jnp.where(real, taken, fill)


def _between(row, *, gap=0, last=None):
  """Rows [R, S, ...] with a gap before each value and one behind them all.

  Args:
    row: [R, S, ...].
    gap: value of the gaps.
    last: [R] of the gap behind all; None: `gap`.

  Returns:
    [R, 2 S + 1, ...].
  """
  gaps = jnp.full_like(row, gap)
  both = jnp.stack([gaps, row], axis=2)
  both = both.reshape((row.shape[0], -1) + row.shape[2:])
  behind = gaps[:, :1] if last is None else last[:, None].astype(row.dtype)
  return jnp.concatenate([both, behind], axis=1)


def _rows_of_samples(placed, end: _End, num_columns: int):
  """Samples [R, 2 S + 1]: intervals and the gaps between them.

  So a ray's intervals follow each other without a hole, as those of sampling
  rounds do: what is made of them needs to know nothing of gaps.
  """
  samples = placed.samples
  rows = lambda name, fill: _in_rows(
      placed, getattr(samples, name)[:, 0], fill, num_columns
  )
  ends = _in_rows(placed, samples.tdist, jnp.inf, num_columns)  # [R, S, 2]
  ends = jnp.minimum(ends.reshape(len(placed.far), -1), placed.far)
  tdist = jnp.concatenate([placed.near, ends, placed.far], axis=1)
  # Neighbours share an end up to rounding.
  tdist = jax.lax.cummax(tdist, axis=1)
  coarse = samples.coarse
  if coarse is not None:
    row = lambda x, fill: _in_rows(placed, x[:, 0], fill, num_columns)
    coarse = blending.Coarse(
        _between(row(coarse.share, 0.0)),
        _between(row(coarse.slot, -1), gap=-1),
        _between(row(coarse.position, 0.0)),
    )
  return render_rays.Samples(
      tdist=tdist, sdist=tdist, t=0.5 * (tdist[:, 1:] + tdist[:, :-1]),
      position=_between(rows('position', 0.0)),
      slot=_between(rows('slot', -1), gap=-1, last=end.slot),
      node_id=_between(rows('node_id', 0)),
      level=_between(rows('level', 0), last=end.level), coarse=coarse,
  )  # fmt: skip


def shade_samples(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    placed: Placed,
    rays: cameras_lib.Rays,
    inputs,
    options: RenderOptions,
) -> render_rays.RayColors:
  """Evaluates and composites placed samples (differentiable).

  Args:
    model: scene.
    spec: static facts.
    placed: of `place_samples`.
    rays: [R].
    inputs: [R, D], see `render_rays.ray_inputs`.
    options: with `min_weight` samples of less weight get no colour; with
      `opaque_end` a ray's last interval has no end, and a ray that meets
      nothing shows what its far end does.

  Returns:
    RayColors; samples in rows, with the gaps between them.
  """
  samples = placed.samples
  delta, t = samples.tdist[:, 1] - samples.tdist[:, 0], samples.t[:, 0]
  num_rays = len(placed.far)
  end = _no_end(placed)
  length = delta
  if options.opaque_end:
    end = _end_of_rays(model, spec, placed, rays, inputs, options)
    length = _last_sample(placed, spec, delta)
  fold = lambda density, rgb: composite_op.composite_ragged(
      density, length, rgb, t, placed.ray_offsets
  )
  if options.min_weight:
    density = _densities(model, spec, placed)
    weights = fold(density, jnp.zeros(t.shape + (3,))).weights
    shows = weights >= options.min_weight
    _, rgb = _evaluate(model, spec, placed, inputs, shows)
    pixel = fold(density, rgb)
    # What was left out takes the colour of what shows.
    shown = jax.ops.segment_sum(
        jnp.where(shows, weights, 0.0), placed.ray_idx, num_rays
    )
    shown = jnp.where(shown > 1e-6, pixel.opacity / shown, 1.0)
    pixel = pixel._replace(rgb=jnp.minimum(pixel.rgb * shown[:, None], 1.0))
  else:
    density, rgb = _evaluate(model, spec, placed, inputs)
    pixel = fold(density, rgb)
  met_nothing = end.is_needed[:, None]
  opacity = jnp.where(met_nothing, 1.0, pixel.opacity[:, None])
  distance = jnp.where(met_nothing, placed.far, pixel.distance[:, None])
  in_rows = lambda x: _in_rows(placed, x, 0.0, options.max_samples)
  return render_rays.RayColors(
      rgb=jnp.where(met_nothing, end.rgb, pixel.rgb),
      distance=distance + (1 - opacity) * placed.far,
      opacity=opacity,
      weights=_between(in_rows(pixel.weights), last=end.is_needed),
      samples=_rows_of_samples(placed, end, options.max_samples),
      density=_between(in_rows(density)),
  )


def render_by_traversal(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    rays: cameras_lib.Rays,
    inputs,
    options: RenderOptions,
) -> render_rays.RayColors:
  """Renders rays; deterministic.

  Args:
    model: scene with a `traversal`.
    spec: static facts.
    rays: [R].
    inputs: [R, D], see `render_rays.ray_inputs`.
    options: sampling.

  Returns:
    RayColors, see `shade_samples`.
  """
  placed = place_samples(model, spec, rays, options)
  return shade_samples(model, spec, placed, rays, inputs, options)
