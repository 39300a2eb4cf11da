"""Fits a photo's appearance embedding, and nothing else, to part of it.

Every node has a colour MLP of its own, and pixels of one pyramid level are
shown by nodes of one or two levels. What an embedding does to the others such
pixels do not say: fitted to the finest pyramid level alone, embeddings were
seen to cost 9 dB at the next. So one embedding is fitted to pixels of all
pyramid levels, measured in the spread of the embeddings that training found,
and never leaves the start for one that shows any pyramid level worse.
"""

import functools
from typing import NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays

# A picture that is right to the bit still has a loss to compare with.
_MIN_LOSS = 1e-8


class FitOptions(NamedTuple):
  """How an embedding is fitted.

  Attributes:
    num_steps: Adam steps; their rate falls to zero along a cosine.
    num_rays: pixels of each pyramid level, drawn once.
    learning_rate: at the start, in units of the spread.
    prior: weight of the mean squared distance from the start, in units of
      the spread, against the share of the start's loss that is left.
  """

  num_steps: int = 20
  num_rays: int = 512
  learning_rate: float = 0.5
  prior: float = 0.01


class Pixels(NamedTuple):
  """Pixels of L pictures of one photo, R of each.

  Attributes:
    pix: [L, R, 2] float32, centres in full-size pixels.
    pixel_size: [L, R] float32, widths in full-size pixels.
    rgb: [L, R, 3] float32.
  """

  pix: np.ndarray
  pixel_size: np.ndarray
  rgb: np.ndarray


def mean_appearance(appearance, train_rows=None) -> np.ndarray:
  """[A] mean embedding of the photos that training saw.

  Args:
    appearance: [P, A].
    train_rows: their rows; None is all.
  """
  return _of_training(appearance, train_rows).mean(axis=0)


def appearance_spread(appearance, train_rows=None) -> np.ndarray:
  """[A] standard deviation of the embeddings that training found.

  Args:
    appearance: [P, A].
    train_rows: rows of the training photos; None is all.

  Returns:
    [A]; ones where embeddings do not differ and so say nothing.
  """
  spread = _of_training(appearance, train_rows).std(axis=0)
  return np.where(spread > 0, spread, 1).astype(np.float32)


def _of_training(appearance, train_rows):
  appearance = np.asarray(appearance, np.float32)
  if train_rows is not None and len(train_rows):
    appearance = appearance[np.asarray(train_rows)]
  return appearance


def draw_pixels(
    pictures: Sequence, *, pixel_size: float, num_rays: int, seed
) -> Pixels | None:
  """Draws pixels of a photo's pyramid, as many of every level.

  Args:
    pictures: (pyramid level, [H, W, 3] uint8, [H, W] bool valid) a level;
      those without a valid pixel are left out.
    pixel_size: width of a pixel of level 0 in full-size pixels.
    num_rays: of each level.
    seed: number or sequence of numbers.

  Returns:
    Pixels, None where none is valid.
  """
  rng = np.random.default_rng(seed)
  drawn = []
  for level, rgb, valid in pictures:
    row, column = np.nonzero(np.asarray(valid, bool))
    if not len(row):
      continue
    chosen = rng.integers(0, len(row), num_rays)
    row, column = row[chosen], column[chosen]
    size = pixel_size * 2.0**level
    pix = (np.stack([column, row], axis=-1) + 0.5) * size
    drawn.append((pix, np.full(num_rays, size), rgb[row, column] / 255))
  if not drawn:
    return None
  return Pixels(*(np.stack(x).astype(np.float32) for x in zip(*drawn)))


def _level_losses(embedding, model, spec, rays, samples, rgb, background, end):
  """[L] mean squared errors of the levels' pixels."""
  appearance = jnp.broadcast_to(
      embedding, samples.t.shape[:1] + (len(embedding),)
  )
  colors = render_rays.shade_samples(
      model,
      spec,
      samples,
      render_rays.ray_inputs(rays, appearance),
      opaque_end=end,
  )
  shown = colors.rgb + (1 - colors.opacity) * background
  return jnp.mean(jnp.square(shown.reshape(rgb.shape) - rgb), axis=(1, 2))


def _descend(losses, start, spread, fit_options):
  """[A] the best embedding on the way down from the start.

  Args:
    losses: [A] to [L].
    start: [A].
    spread: [A] unit of steps.
    fit_options: FitOptions.
  """
  optimizer = optax.adam(
      optax.cosine_decay_schedule(
          fit_options.learning_rate, fit_options.num_steps
      )
  )
  at_start = jnp.maximum(losses(start), _MIN_LOSS)

  def objective(moved):
    left = losses(start + spread * moved) / at_start
    value = jnp.mean(left) + fit_options.prior * jnp.mean(jnp.square(moved))
    # Better on average is not enough: no level may pay for the others.
    return value, jnp.where(jnp.all(left <= 1), value, jnp.inf)

  def step(carry, _):
    moved, state, best, lowest = carry
    (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(moved)
    best = jnp.where(value < lowest, moved, best)
    updates, state = optimizer.update(gradient, state)
    moved = optax.apply_updates(moved, updates)
    return (moved, state, best, jnp.minimum(value, lowest)), None

  still = jnp.zeros_like(start)
  carry = (still, optimizer.init(still), still, jnp.float32(1))
  # One more, which judges where the last step led.
  carry, _ = jax.lax.scan(step, carry, None, length=fit_options.num_steps + 1)
  return start + spread * carry[2]


@functools.partial(jax.jit, static_argnames=('spec', 'options', 'fit_options'))
def _fit(
    model, cameras, start, spread, background, pixels, *,
    spec, options, fit_options,
):  # fmt: skip
  """[A] embedding; densities know none, so samples are placed once."""
  num_rays = pixels.pixel_size.size
  rays = cameras_lib.camera_rays(
      cameras,
      jnp.zeros(num_rays, jnp.int32),
      pixels.pix.reshape(num_rays, 2),
      pixels.pixel_size.reshape(num_rays),
      root_side=spec.root_side,
  )
  samples = render_rays.place_samples(None, model, spec, rays, options)
  losses = lambda embedding: _level_losses(
      embedding, model, spec, rays, samples, pixels.rgb, background,
      options.opaque_end,
  )  # fmt: skip
  return _descend(losses, start, spread, fit_options)


def fit_appearance(
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    camera: cameras_lib.Cameras,
    octree: tree_lib.Octree,
    pixels: Pixels | None,
    *,
    start,
    spread=None,
    options: render_rays.RenderOptions = render_rays.RenderOptions(),
    fit_options: FitOptions = FitOptions(),
    background=(0.0, 0.0, 0.0),
) -> np.ndarray:
  """The embedding with which the model shows a photo's pixels best.

  Of all steps, the start included, that one is kept which shows the pixels
  best and those of no pyramid level worse than the start does.

  Args:
    model: scene; does not change.
    spec: static facts.
    camera: single row, no leading dimension.
    octree: the host's tree.
    pixels: to fit to, None is none.
    start: [A] embedding to start from.
    spread: [A] how far embeddings usually lie apart; None is one.
    options: sampling.
    fit_options: steps and prior.
    background: [3] rgb.

  Returns:
    [A] float32; `start` where there is nothing to fit, or no embedding.
  """
  start = np.asarray(start, np.float32)
  if pixels is None or not len(start):
    return start
  spread = np.ones_like(start) if spread is None else spread
  return np.asarray(
      _fit(
          # Other photos' embeddings play no part.
          model._replace(appearance=jnp.zeros((0, len(start)))),
          scene_model.device_cameras(cameras_lib.stack([camera]), octree),
          jnp.asarray(start),
          jnp.asarray(spread, jnp.float32),
          jnp.asarray(background, jnp.float32),
          Pixels(*(jnp.asarray(x) for x in pixels)),
          spec=spec,
          options=options,
          fit_options=fit_options,
      )
  )
