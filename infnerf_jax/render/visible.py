"""Colours of what shows: densities first, colours where a weight is left.

Behind a surface, and in the air, nothing shows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from infnerf_jax.models import node_evaluation, scene_model
from infnerf_jax.render import blending, early_stop, render_rays, sampling
from kernels.composite import api as composite_op
from kernels.node_field import api as node_field


class _AtLevel(NamedTuple):
  """Samples as one level of the octree sees them.

  Attributes:
    slot: [R, S] int32.
    position: [R, S, 3] in the node's own box.
    density: [R, S] per metre.
    geometry: [R, S, G] what colours need.
  """

  slot: jax.Array
  position: jax.Array
  density: jax.Array
  geometry: jax.Array


def _densities(model, spec, slot, position):
  """([R, S] densities, zero without a slot; [R, S, G] what colours need)."""
  raw, geometry = node_field.node_geometry(
      model.nodes, position.reshape(-1, 3), slot.reshape(-1),
      spec=spec.field, implementation=spec.implementation,
  )  # fmt: skip
  density = scene_model.density(raw.reshape(slot.shape), spec)
  return (
      jnp.where(slot < 0, 0.0, density),
      geometry.reshape(slot.shape + geometry.shape[1:]),
  )


def _levels(model, spec, samples, delta, stop_below):
  """([R, S] densities, list of _AtLevel: the samples' own, then the coarse)."""
  coarse = samples.coarse

  def evaluate(slot, part):
    own = _densities(model, spec, slot, samples.position[:, part])
    if coarse is None:
      return own[:1] + own
    above = jnp.where(slot < 0, -1, coarse.slot[:, part])
    above = _densities(model, spec, above, coarse.position[:, part])
    share = coarse.share[:, part]
    return ((1 - share) * own[0] + share * above[0],) + own + above

  density, *found = early_stop.densities(
      evaluate, samples.slot, delta, stop_below=stop_below
  )
  levels = [_AtLevel(samples.slot, samples.position, *found[:2])]
  if coarse is not None:
    levels.append(_AtLevel(coarse.slot, coarse.position, *found[2:]))
  return density, levels


def _colors(model, spec, level: _AtLevel, shows, inputs):
  """[R, S, 3] rgb of samples that show."""
  slot = jnp.where(shows, level.slot, -1)
  rgb = node_field.node_color(
      model.nodes,
      level.geometry.reshape((slot.size,) + level.geometry.shape[2:]),
      level.position.reshape(-1, 3), slot.reshape(-1),
      node_evaluation.ray_of_samples(slot), inputs,
      spec=spec.field, implementation=spec.implementation,
  )  # fmt: skip
  return rgb.reshape(slot.shape + (3,))


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
  delta = samples.tdist[..., 1:] - samples.tdist[..., :-1]
  density, levels = _levels(model, spec, samples, delta, stop_below)
  if opaque_end:
    is_last = sampling.is_last(samples.tdist)
    delta = jnp.where(is_last, 1e6 * spec.root_side, delta)
  none = jnp.zeros(delta.shape + (3,))
  pixel = composite_op.composite(density, delta, none, samples.t)
  shows = pixel.weights >= min_weight
  rgb = [_colors(model, spec, level, shows, inputs) for level in levels]
  if len(levels) == 1:
    (rgb,) = rgb
  else:
    own, above = zip((level.density for level in levels), rgb)
    _, rgb = blending.blend(own, above, samples.coarse.share)
  opacity, distance = pixel.opacity[:, None], pixel.distance[:, None]
  distance += (1 - opacity) * samples.tdist[..., -1:]
  weights = jnp.where(shows, pixel.weights, 0.0)
  color = jnp.sum(weights[..., None] * rgb, axis=-2)
  # What was left out takes the colour of what shows.
  shown = jnp.sum(weights, axis=-1, keepdims=True)
  color *= jnp.where(shown > 1e-6, opacity / shown, 1.0)
  return render_rays.RayColors(
      jnp.minimum(color, 1.0), distance, opacity, pixel.weights, samples,
      density,
  )  # fmt: skip
