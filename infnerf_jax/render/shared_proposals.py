"""Faster pictures: tiles share proposals, and only what shows is coloured.

Neighbouring pixels see nearly the same surfaces, so proposals are drawn at the
corners of tiles of pixels; the pixels of a tile share the intervals that follow
from the largest weights of its four corners, few where these lie together, many
where they spread. `visible` then colours only what shows.
"""

import dataclasses

import jax.numpy as jnp

from infnerf_jax.render import render_rays, sampling

# What a corner's interval adds to its neighbours': a surface that slants
# through a tile is met an interval sooner or later.
_SPREAD = 0.25
# Weight from which an interval that a corner saw is looked at beside it.
_MIN_PROPOSAL = 1e-3
# Samples of a tile whose weights lie in one interval; fewer miss what the
# interval does not resolve.
_MIN_SAMPLES = 4


def fast(options: render_rays.RenderOptions) -> render_rays.RenderOptions:
  """Options of pictures in half the time that look the same.

  Measured in results/pictures.json, with others, which lose more or take
  longer.

  Args:
    options: exact ones; what cannot share proposals stays as it is.

  Returns:
    RenderOptions.
  """
  if len(options.num_samples) != 2:
    return dataclasses.replace(options, min_weight=1e-2)
  return dataclasses.replace(
      options, proposal_stride=2, first_stride=4, samples_per_interval=3.0,
      min_weight=1e-2,
  )  # fmt: skip


def proposal_round(
    model, spec, rays, options: render_rays.RenderOptions, looks=None
) -> render_rays.Samples:
  """Samples of the first round of rays [R], evenly spaced.

  Args:
    model: scene.
    spec: static facts.
    rays: [R].
    options: sampling.
    looks: [R, S] bool, intervals that have a sample; None: all.

  Returns:
    Samples.
  """
  shape = rays.cone_slope.shape[:-1]
  sdist = sampling.stratified(None, shape, options.num_samples[0])
  limits = render_rays.ray_limits(model, spec, rays, options)
  return render_rays.locate_round(
      None, model, spec, rays, sdist, limits, options, options.proposal_bias,
      wanted=looks,
  )  # fmt: skip


def corners_largest(weights, columns, first):
  """[T, S] float32 largest weights of tiles' four corners.

  Args:
    weights: [C, S] of the corners, row by row.
    columns: corners in a row.
    first: [T] int32, the first of each tile's corners.
  """
  corners = jnp.stack(
      [first, first + 1, first + columns, first + columns + 1], axis=-1
  )
  value = weights.at[corners].get(mode='promise_in_bounds')  # [T, 4, S]
  return jnp.max(value, axis=1).astype(jnp.float32)


def _beside(values):
  """[T, S] the larger of both neighbours along the ray."""
  before = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
  behind = jnp.pad(values[:, :-1], ((0, 0), (1, 0)))
  return jnp.maximum(before, behind)


def is_worth_a_look(largest):
  """[T, S] bool, intervals in which rays of tiles may meet something.

  Args:
    largest: [T, S] weights of the tiles' corners.
  """
  found = jnp.maximum(largest, _beside(largest))
  return found >= _MIN_PROPOSAL


def tile_intervals(largest, options: render_rays.RenderOptions):
  """Intervals of the last round of tiles.

  Args:
    largest: [T, S] weights of the tiles' corners in evenly spaced intervals.
    options: sampling.

  Returns:
    [T, S' + 1] ends, normalised; without length from where the tile's samples
    end.
  """
  weights = jnp.maximum(largest, _SPREAD * _beside(largest))
  num_proposals, num_samples = options.num_samples
  return sampling.resample(
      None,
      sampling.stratified(None, weights.shape[:1], num_proposals),
      weights,
      num_samples,
      anneal=options.weight_power,
      padding=options.padding,
      counts=_sample_counts(weights, options),
  )


def _sample_counts(weights, options):
  """[T, 1] int32 samples of tiles; None: all have `num_samples`."""
  if not options.samples_per_interval:
    return None
  total = jnp.sum(weights, axis=-1, keepdims=True)
  share = weights / jnp.maximum(total, 1e-8)
  # Equal weights in n intervals have the entropy log(n).
  entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-12)), axis=-1)
  wanted = jnp.ceil(options.samples_per_interval * jnp.exp(entropy))
  num_samples = options.num_samples[-1]
  # What no corner met may be anywhere.
  wanted = jnp.where(total[:, 0] < _MIN_PROPOSAL, num_samples, wanted)
  least = min(_MIN_SAMPLES, num_samples)
  return jnp.clip(wanted, least, num_samples).astype(jnp.int32)[:, None]


def last_round(
    model, spec, rays, options: render_rays.RenderOptions, sdist
) -> render_rays.Samples:
  """Samples of the last of two rounds in given intervals.

  Args:
    model: scene.
    spec: static facts.
    rays: [R].
    options: sampling.
    sdist: [R, S + 1] ends, normalised.

  Returns:
    Samples; those of intervals without length are in no node.
  """
  limits = render_rays.ray_limits(model, spec, rays, options)
  samples = render_rays.locate_round(
      None, model, spec, rays, sdist, limits, options, 0.0,
      wanted=sdist[:, 1:] > sdist[:, :-1],
  )  # fmt: skip
  return render_rays.with_coarse(
      samples, model, spec, rays, options.level_policy
  )
