"""The input pipeline's side of the benchmark."""

import json
import pathlib
import statistics
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from infnerf_jax.evaluation.bench import jax_steps, shapes
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import ray_batches
from infnerf_jax.scene import scene as scene_lib

_NUM_PHOTOS = 24
_WIDTH, _HEIGHT = 640, 480


def _write_photos(folder: pathlib.Path, seed: int) -> scene_lib.Scene:
  """Photos of noise with cameras that no one looks through."""
  rng = np.random.default_rng(seed)
  names = tuple(f'{i:03d}.png' for i in range(_NUM_PHOTOS))
  for name in names:
    pixels = rng.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / name, compress_level=0)
  camera = cameras_lib.make_camera(
      focal=500.0, width=_WIDTH, height=_HEIGHT, cam_to_world=np.eye(4)[:3]
  )
  return scene_lib.Scene(
      photos=scene_lib.Photos(
          names, tuple(folder / n for n in names), (None,) * len(names)
      ),
      cameras=cameras_lib.stack([camera] * len(names)),
      points=None,
      visibility=None,
      frame={},
      report={},
  )


def _batches(num_rays: int, seed: int):
  """(step to RayBatch, what must live as long)."""
  folder = tempfile.TemporaryDirectory()
  root = pathlib.Path(folder.name)
  scene = _write_photos(root, seed)
  pyramid, _, _ = pyramid_lib.build(
      scene, root / 'cache', num_levels=4, show_progress=False
  )
  options = ray_batches.BatchOptions(num_rays=num_rays, seed=seed)
  rows = np.arange(len(scene.photos.names))
  make = lambda step: ray_batches.sample_batch(pyramid, rows, options, step)
  return make, folder


def input_parts(shape, *, implementation: str, seed: int = 0):
  """The pipeline by itself and against a training step.

  Args:
    shape: fields of StepShape.
    implementation: of the kernels.
    seed: of photos and batches.

  Returns:
    Functions by name: `batch` makes and uploads one batch; `wait` runs 20
    steps behind the prefetcher and returns the share of the time that they
    waited for input.
  """
  num_rays = shapes.StepShape(**shape).num_rays
  make, folder = _batches(num_rays, seed)
  step = jax_steps.train_step(shape, implementation=implementation, seed=seed)
  numbers = iter(range(10**9))
  upload = lambda batch: jax.block_until_ready(jax.tree.map(jnp.asarray, batch))

  def wait() -> float:
    with ray_batches.Prefetcher(make, 0) as batches:
      for _ in range(20):
        upload(next(batches))
        step()
      return batches.wait_share()

  def batch() -> None:
    upload(make(next(numbers)))

  # The folder lives as long as what reads it.
  batch.folder = wait.folder = folder
  return {'batch': batch, 'wait': wait}


def input_wait_share(workdir) -> float:
  """Share of a training run's time that its steps waited for input.

  Args:
    workdir: of a run, with `metrics.jsonl`.

  Returns:
    Median of the logged shares.

  Raises:
    ValueError: the file logs none.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines() if line]
  shares = [
      row['input_wait_share'] for row in rows if 'input_wait_share' in row
  ]
  if not shares:
    raise ValueError(f'{path}: input_wait_share: got none, expected a number')
  return statistics.median(shares)
