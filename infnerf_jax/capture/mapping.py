"""From matched photos to models: COLMAP's incremental and global mapping."""

import os
import pathlib
import shutil

from infnerf_jax import json_files, progress
from infnerf_jax.capture import structure
from infnerf_jax.geometry.colmap_library import pycolmap

_DONE = 'mapping.json'


def map_models(
    num_photos: int, work: pathlib.Path, options: structure.Options
) -> dict[int, pathlib.Path]:
  """Maps photos; models that are there already are taken.

  Args:
    num_photos: in the database.
    work: folder with database and images.
    options: see `structure.Options`.

  Returns:
    Folder of each model by the number of its photos' rank, largest first.
  """
  sparse = work / 'sparse'
  if not (work / _DONE).exists():
    shutil.rmtree(sparse, ignore_errors=True)
    sparse.mkdir()
    with (
        structure.quiet(),
        progress.Progress(num_photos, description='mapping') as bar,
    ):
      _run_mapping(num_photos, work, options, bar)
    json_files.write_json_atomic(
        work / _DONE, {'models': len(os.listdir(sparse))}
    )
  folders = sorted(p for p in sparse.iterdir() if (p / 'images.bin').is_file())
  return {int(folder.name): folder for folder in folders}


def _run_mapping(num_photos, work, options: structure.Options, bar) -> None:
  if options.mapping == 'global':
    _run_global(num_photos, work, options)
    return
  mapping = pycolmap.IncrementalPipelineOptions()
  mapping.min_model_size = _min_model_size(num_photos)
  mapping.num_threads = options.threads
  # One seed for all that is drawn; threads may still add in another order.
  mapping.random_seed = structure.SEED
  mapping.mapper.random_seed = structure.SEED
  mapping.triangulation.random_seed = structure.SEED
  done = 0

  def advance():
    nonlocal done
    done += 1
    bar.update(min(done, num_photos))

  pycolmap.incremental_mapping(
      work / 'database.db',
      work / 'images',
      work / 'sparse',
      options=mapping,
      next_image_callback=advance,
  )


def _min_model_size(num_photos: int) -> int:
  # Ten, COLMAP's own, would refuse captures of a few photos.
  return max(2, min(10, num_photos // 2))


def _run_global(num_photos, work, options: structure.Options) -> None:
  """Rotations of all photos first, then all places at once (GLOMAP)."""
  mapping = pycolmap.GlobalPipelineOptions()
  mapping.min_model_size = _min_model_size(num_photos)
  mapping.num_threads = mapping.mapper.num_threads = options.threads
  mapping.random_seed = mapping.mapper.random_seed = structure.SEED
  on_gpu = structure.uses_gpu(options)
  mapping.mapper.global_positioning.use_gpu = on_gpu
  mapping.mapper.bundle_adjustment.ceres.use_gpu = on_gpu
  pycolmap.global_mapping(
      work / 'database.db', work / 'images', work / 'sparse', options=mapping
  )


def read_models(folders: dict[int, pathlib.Path]):
  """Models by size, the one with most photos (then points) first.

  Args:
    folders: see `map_models`.

  Returns:
    List of (folder, pycolmap.Reconstruction).
  """
  with structure.quiet():
    models = [(f, pycolmap.Reconstruction(str(f))) for f in folders.values()]
  size = lambda item: (item[1].num_reg_images(), item[1].num_points3D())
  return sorted(models, key=size, reverse=True)
