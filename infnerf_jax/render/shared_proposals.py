"""Faster pictures: tiles share proposals, and only what shows is coloured.

Neighbouring pixels see nearly the same surfaces, so proposals are drawn at the
corners of tiles of pixels; a pixel's own samples follow the largest weights of
its four corners. Of those samples densities come first, and colours only where
a weight is left: behind a surface, and in the air, nothing shows.
"""

import dataclasses

import jax.numpy as jnp

from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import (
  blending,
  early_stop,
  render_rays,
  sampling,
)  # fmt: skip
from kernels.composite import api as composite_op
from kernels.node_field import api as node_field

# What a corner's interval adds to its neighbours': a surface that slants
# through a tile is met an interval sooner or later.
_SPREAD = 0.5


def fast(options: render_rays.RenderOptions) -> render_rays.RenderOptions:
  """Options of pictures in two thirds of the time that look the same.

  Measured in results/pictures.json, with larger tiles, which lose some.

  Args:
    options: exact ones; what cannot share proposals stays as it is.

  Returns:
    RenderOptions.
  """
  stride = 2 if len(options.num_samples) == 2 else 1
  return dataclasses.replace(options, proposal_stride=stride, min_weight=1e-3)


def proposal_round(
    model, spec, rays, options: render_rays.RenderOptions
) -> render_rays.Samples:
  """Samples of the first round of rays [R], evenly spaced."""
  shape = rays.cone_slope.shape[:-1]
  sdist = sampling.stratified(None, shape, options.num_samples[0])
  limits = render_rays.ray_limits(model, spec, rays, options)
  return render_rays.locate_round(
      None, model, spec, rays, sdist, limits, options, options.proposal_bias
  )


def last_round(
    model, spec, rays, options: render_rays.RenderOptions, weights
) -> render_rays.Samples:
  """Samples of the last of two rounds from weights of the first.

  Args:
    model: scene.
    spec: static facts.
    rays: [R].
    options: sampling.
    weights: [R, S] of evenly spaced intervals.

  Returns:
    Samples.
  """
  shape = rays.cone_slope.shape[:-1]
  sdist = sampling.resample(
      None,
      sampling.stratified(None, shape, options.num_samples[0]),
      weights,
      options.num_samples[1],
      anneal=options.weight_power,
      padding=options.padding,
  )
  limits = render_rays.ray_limits(model, spec, rays, options)
  samples = render_rays.locate_round(
      None, model, spec, rays, sdist, limits, options, 0.0
  )
  return render_rays.with_coarse(
      samples, model, spec, rays, options.level_policy
  )


def corner_weights(weights, grid_columns, column, row, stride: int):
  """Weights of pixels from those of the corners of their tiles.

  Args:
    weights: [C, S] of the corners, row by row.
    grid_columns: corners in a row.
    column: [R] int32 of pixels in the picture.
    row: [R] int32.
    stride: pixels along a tile.

  Returns:
    [R, S] float32, the largest of four corners, spread to neighbours.
  """
  first = row // stride * grid_columns + column // stride
  corners = (0, 1, grid_columns, grid_columns + 1)
  value = weights[first]
  for step in corners[1:]:
    value = jnp.maximum(value, weights[first + step])
  value = value.astype(jnp.float32)
  before = jnp.pad(value[:, 1:], ((0, 0), (0, 1)))
  behind = jnp.pad(value[:, :-1], ((0, 0), (1, 0)))
  return jnp.maximum(value, _SPREAD * jnp.maximum(before, behind))


def shade_visible(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    samples: render_rays.Samples,
    inputs,
    *,
    min_weight: float,
    stop_below: float = 0.0,
    opaque_end: bool = False,
) -> render_rays.RayColors:
  """As `render_rays.shade_samples`, without colours that do not show.

  Args:
    model: scene.
    spec: static facts.
    samples: [R, S].
    inputs: [R, D].
    min_weight: samples of less weight are left out of the colour.
    stop_below: see `early_stop`.
    opaque_end: see `RenderOptions`.

  Returns:
    RayColors; densities, weights and opacity are exact up to what lies behind
    `stop_below`.
  """
  shape = samples.t.shape
  ray_idx = node_evaluation.ray_of_samples(samples.t)
  fixed = dict(spec=spec.field, implementation=spec.implementation)

  def densities(slot, position):
    raw = node_field.node_density(
        model.nodes, position.reshape(-1, 3), slot.reshape(-1), **fixed
    )
    density = scene_model.density(raw.reshape(slot.shape), spec)
    return jnp.where(slot < 0, 0.0, density)

  coarse = samples.coarse

  def evaluate(slot, part):
    fine = densities(slot, samples.position[:, part])
    if coarse is None:
      return (fine,)
    above = jnp.where(slot < 0, -1, coarse.slot[:, part])
    above = densities(above, coarse.position[:, part])
    share = coarse.share[:, part]
    return (1 - share) * fine + share * above, fine, above

  delta = samples.tdist[..., 1:] - samples.tdist[..., :-1]
  density, *by_level = early_stop.densities(
      evaluate, samples.slot, delta, stop_below=stop_below
  )

  def colors(slot, position, shows):
    slot = jnp.where(shows, slot, -1)
    _, rgb = node_field.node_field(
        model.nodes, position.reshape(-1, 3), slot.reshape(-1), ray_idx,
        inputs, **fixed,
    )  # fmt: skip
    return rgb.reshape(shape + (3,))

  if opaque_end:
    last = jnp.where(delta[:, -1] > 0, 1e6 * spec.root_side, 0.0)
    delta = delta.at[:, -1].set(last)
  none = jnp.zeros(shape + (3,))
  shows = (
      composite_op.composite(density, delta, none, samples.t).weights
      >= min_weight
  )
  rgb = colors(samples.slot, samples.position, shows)
  if coarse is not None:
    fine, above = by_level
    _, rgb = blending.blend(
        (fine, rgb), (above, colors(coarse.slot, coarse.position, shows)),
        coarse.share,
    )  # fmt: skip
  pixel = composite_op.composite(density, delta, rgb, samples.t)
  opacity, distance = pixel.opacity[:, None], pixel.distance[:, None]
  distance += (1 - opacity) * samples.tdist[..., -1:]
  # What was left out takes the colour of what shows.
  shown = jnp.sum(jnp.where(shows, pixel.weights, 0.0), -1, keepdims=True)
  rgb = pixel.rgb * jnp.where(shown > 1e-6, opacity / shown, 1.0)
  return render_rays.RayColors(
      jnp.minimum(rgb, 1.0), distance, opacity, pixel.weights, samples, density
  )
