"""A run whose nodes are paged, ready to render and to score."""

import pathlib
from typing import Any

import jax.numpy as jnp

from infnerf_jax import errors
from infnerf_jax.evaluation import evaluate as evaluate_lib
from infnerf_jax.evaluation import photo_scores
from infnerf_jax.models import scene_model
from infnerf_jax.octree import io as octree_io
from infnerf_jax.scene import joining
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.streaming import store_scene
from infnerf_jax.training import extension, setup
from infnerf_jax.training import workdir as workdir_lib


def open_pyramid(config, workdir, downscale, photo_names, extra_paths=None):
  """Pixels of a run's photos, row by row as the run has them.

  Args:
    config: of the run.
    workdir: its folder.
    downscale: full-size pixels per pixel of level 0.
    photo_names: of the run.
    extra_paths: scenes joined with the run's, None: as the config says.

  Returns:
    PhotoPyramid.

  Raises:
    InputError: the scene's photos are no longer those of the run.
  """
  if extra_paths is None:
    extra_paths = extension.extra_paths(config)
  folder = setup.scene_folder(config, workdir)
  scene = joining.load_scenes(folder, extra_paths).scene
  pyramid, usable, _ = pyramid_lib.build(
      scene,
      workdir / 'cache',
      downscale=downscale,
      num_levels=config.num_pyramid_levels,
      cache_gb=config.data.cache_gb,
      max_damaged_fraction=config.data.max_damaged_fraction,
  )
  names = scene_lib.select_photos(scene, usable).photos.names
  if tuple(names) != photo_names:
    odd = sorted(set(names) ^ set(photo_names))
    raise errors.InputError(
        f'{config.data.path or workdir}: photos: got'
        f' {len(names)} usable ones, expected the {len(photo_names)}'
        f' of the run ({", ".join(odd[:5])} differ)'
    )
  return pyramid


class StoredRun(store_scene.StoreScene):
  """A run that pages its nodes: rendered and scored from its store.

  Attributes:
    folder: of the run.
  """

  folder: pathlib.Path

  def evaluate(
      self,
      split: str = 'test',
      *,
      appearance: Any = None,
      show_progress: bool = True,
      **protocol,
  ) -> dict[str, Any]:
    """Scores photos; see `LoadedScene.evaluate`."""
    rows = self.split.get(split, ())
    if not len(rows):
      raise errors.InputError(
          f'{self.folder}/split.json: {split}: got no photos, expected some'
          ' to score'
      )
    if appearance is None or isinstance(appearance, str):
      appearance = self.appearance(appearance)
    config = workdir_lib.load_config(self.folder)
    octree, _ = octree_io.load_octree(self.folder / 'octree.npz')
    learned = jnp.asarray(self.views['appearance'])
    subject = photo_scores.Subject(
        scene_model.SceneModel(None, None, learned, None),
        self.spec, octree, self.options, self.background, store=self,
    )  # fmt: skip
    pyramid = open_pyramid(
        config, self.folder, self.downscale, self.photo_names
    )
    return evaluate_lib.evaluate(
        subject,
        evaluate_lib.PhotoTable(self.photo_names, self.cameras, pyramid),
        rows,
        evaluate_lib.Protocol(
            train_rows=self.split['train'],
            appearance=appearance,
            **{'seed': config.seed, **protocol},
        ),
        num_steps=self.store.header.provenance['num_steps'],
        show_progress=show_progress,
    )
