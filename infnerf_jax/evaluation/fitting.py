"""Fits a photo's appearance embedding, and nothing else, to part of it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays


class FitOptions(NamedTuple):
  """How an embedding is fitted.

  Attributes:
    num_steps: Adam steps; their rate falls to zero along a cosine.
    num_rays: random pixels a step.
    learning_rate: at the start.
  """

  num_steps: int = 40
  num_rays: int = 512
  learning_rate: float = 0.05


@functools.partial(jax.jit, static_argnames=('spec', 'options', 'fit_options'))
def _fit(
    model, cameras, start, background, pix, pixel_size, rgb, *,
    spec, options, fit_options,
):  # fmt: skip
  """[A] embedding after all steps; pix [K, R, 2], rgb [K, R, 3]."""
  schedule = optax.cosine_decay_schedule(
      fit_options.learning_rate, fit_options.num_steps
  )
  optimizer = optax.adam(schedule)
  num_rays = pix.shape[1]

  def step(carry, batch):
    embedding, state = carry
    pix, rgb = batch
    rays = cameras_lib.camera_rays(
        cameras,
        jnp.zeros(num_rays, jnp.int32),
        pix,
        jnp.full(num_rays, pixel_size),
        root_side=spec.root_side,
    )
    samples = render_rays.place_samples(None, model, spec, rays, options)

    def loss(embedding):
      appearance = jnp.broadcast_to(embedding, (num_rays,) + embedding.shape)
      colors = render_rays.shade_samples(
          model,
          spec,
          samples,
          render_rays.ray_inputs(rays, appearance),
          opaque_end=options.opaque_end,
      )
      shown = colors.rgb + (1 - colors.opacity) * background
      return jnp.mean(jnp.square(shown - rgb))

    updates, state = optimizer.update(jax.grad(loss)(embedding), state)
    return (optax.apply_updates(embedding, updates), state), None

  carry = (start, optimizer.init(start))
  (embedding, _), _ = jax.lax.scan(step, carry, (pix, rgb))
  return embedding


def fit_appearance(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    camera: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    rgb,
    valid,
    *,
    start,
    options: render_rays.RenderOptions = render_rays.RenderOptions(),
    fit_options: FitOptions = FitOptions(),
    background=(0.0, 0.0, 0.0),
    pixel_size: float = 1.0,
    seed=0,
) -> np.ndarray:
  """The embedding with which the model shows a photo's pixels best.

  Deterministic: the pixels of every step follow from the seed.

  Args:
    model: scene; does not change.
    spec: static facts.
    camera: single row, no leading dimension.
    octree: the host's tree.
    rgb: [H, W, 3] uint8, the photo.
    valid: [H, W] bool, pixels to fit to.
    start: [A] embedding to start from.
    options: sampling.
    fit_options: steps and rays.
    background: [3] rgb.
    pixel_size: width of a pixel in full-size pixels.
    seed: number or sequence of numbers.

  Returns:
    [A] float32; `start` where there is nothing to fit, or no embedding.
  """
  start = np.asarray(start, np.float32)
  row, column = np.nonzero(np.asarray(valid, bool))
  if not len(row) or not len(start):
    return start
  rng = np.random.default_rng(seed)
  shape = (fit_options.num_steps, fit_options.num_rays)
  drawn = rng.integers(0, len(row), shape)
  row, column = row[drawn], column[drawn]
  pix = (np.stack([column, row], axis=-1) + 0.5) * pixel_size
  table = cameras_lib.stack([camera])
  return np.asarray(
      _fit(
          # Other photos' embeddings play no part.
          model._replace(appearance=jnp.zeros((0, len(start)))),
          scene_model.device_cameras(table, octree),
          jnp.asarray(start),
          jnp.asarray(background, jnp.float32),
          jnp.asarray(pix, jnp.float32),
          jnp.float32(pixel_size),
          jnp.asarray(rgb[row, column] / 255, jnp.float32),
          spec=spec,
          options=options,
          fit_options=fit_options,
      )
  )
