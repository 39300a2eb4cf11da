"""What a run's folder says of its tree and photos, beside the checkpoints."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import io as octree_io
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import camera_io

OCTREE, CAMERAS, SPLIT = 'octree.npz', 'cameras.npz', 'split.json'


class RunFiles(NamedTuple):
  """Tree and photos of a run.

  Attributes:
    octree: tree.
    sample_aabb: [2, 3] float64, metres; rays are clipped to it.
    photo_names: P names.
    cameras: table [P].
    split: rows of photos: `train`, `validation`, `test`.
  """

  octree: tree_lib.Octree
  sample_aabb: np.ndarray
  photo_names: tuple[str, ...]
  cameras: cameras_lib.Cameras
  split: dict[str, np.ndarray]


def write(workdir, run) -> None:
  """Writes what a trained run needs beside its checkpoints.

  Args:
    workdir: folder.
    run: setup.Run.
  """
  workdir = pathlib.Path(workdir)
  names = run.plan.scene.photos.names
  octree_io.save_octree(
      workdir / OCTREE, run.plan.built.octree, run.plan.built.sample_aabb
  )
  camera_io.save_cameras(workdir / CAMERAS, names, run.plan.scene.cameras)
  split = {
      part: [names[i] for i in rows]
      for part, rows in run.split._asdict().items()
  }
  json_files.write_json_atomic(workdir / SPLIT, split)
  json_files.write_json_atomic(workdir / 'scene_report.json', run.report)
  json_files.write_json_atomic(workdir / 'frame.json', run.plan.scene.frame)


def read(folder) -> RunFiles:
  """Reads what `write` wrote.

  Args:
    folder: of a run, or of its files as they were before an extension.

  Returns:
    RunFiles.

  Raises:
    InputError: absent, unreadable or inconsistent files.
  """
  folder = pathlib.Path(folder)
  octree, sample_aabb = octree_io.load_octree(folder / OCTREE)
  names, cameras = camera_io.load_cameras(folder / CAMERAS)
  split = _read_split(folder / SPLIT, names)
  return RunFiles(octree, sample_aabb, names, cameras, split)


def _read_split(path, names) -> dict[str, Any]:
  """Rows by part from names by part."""
  stored = json_files.read_json(path)
  row_of = {name: row for row, name in enumerate(names)}
  try:
    return {
        part: np.array([row_of[name] for name in stored.get(part, [])], int)
        for part in ('train', 'validation', 'test')
    }
  except (KeyError, TypeError, AttributeError) as error:
    raise errors.InputError(
        f'{path}: got {error}, expected lists of photos of cameras.npz'
    ) from None
