"""Preview pictures of a run: a photo, its render, its depth, side by side."""

import pathlib

import numpy as np
from PIL import Image

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.render import render_image
from infnerf_jax.scene import pyramid as pyramid_lib

# Previews must not cost what they show: this many pixels at most.
_MAX_PIXELS = 60_000


def preview_row(run) -> int:
  """The photo that previews show: the first test photo, else training."""
  rows = run.split.test if len(run.split.test) else run.split.train
  return int(rows[0])


def preview_level(pyramid, row: int) -> int:
  """The finest pyramid level that is small enough."""
  pixels = np.prod(pyramid.sizes[row].astype(np.int64), axis=-1)
  small = np.flatnonzero(pixels <= _MAX_PIXELS)
  return int(small[0]) if len(small) else len(pixels) - 1


def depth_picture(depth, opacity) -> np.ndarray:
  """[H, W, 3] uint8: near is bright, nothing is black.

  Args:
    depth: [H, W] metres.
    opacity: [H, W].
  """
  depth = np.asarray(depth, np.float64)
  solid = np.asarray(opacity) > 0.5
  if not solid.any():
    return np.zeros(depth.shape + (3,), np.uint8)
  # Disparity: even steps of it are even steps of detail.
  disparity = 1 / np.maximum(depth, 1e-6)
  low, high = np.percentile(disparity[solid], [1, 99])
  share = np.clip((disparity - low) / max(high - low, 1e-12), 0, 1)
  grey = np.where(solid, 40 + 215 * share, 0).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=-1)


def write_preview(model, run, path, *, background, store=None) -> None:
  """Writes photo, render and depth of one photo side by side.

  Args:
    model: SceneModel; unused where there is a store.
    run: set-up of the run.
    path: PNG file.
    background: rgb.
    store: StoreScene to render from.
  """
  row = preview_row(run)
  level = preview_level(run.pyramid, row)
  truth, _ = pyramid_lib.photo(run.pyramid, row, level)
  camera = cameras_lib.take(run.plan.scene.cameras, row)
  options = dict(
      background=background, pixel_size=run.plan.downscale * 2.0**level
  )
  if store is not None:
    image = store.render(camera, options=run.render_options, **options)
  else:
    image = render_image.render_image(
        model,
        run.plan.spec,
        camera,
        run.plan.built.octree,
        np.asarray(model.appearance)[run.split.train].mean(axis=0),
        run.render_options,
        **options,
    )
  rgb = np.round(255 * np.clip(np.asarray(image.rgb), 0, 1)).astype(np.uint8)
  depth = depth_picture(image.depth, image.opacity)
  height, width = truth.shape[:2]
  picture = np.concatenate(
      [truth, rgb[:height, :width], depth[:height, :width]], axis=1
  )
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(picture).save(path)
