"""A run's folder with a small scene that was never trained."""

import jax
import numpy as np

from configs import common
from infnerf_jax import json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import io as octree_io
from infnerf_jax.scene import camera_io
from infnerf_jax.storage import checkpoint
from infnerf_jax.training import workdir as workdir_lib
from tests import tiny_model

NAMES = ('a.png', 'b.png', 'c.png')
OFFSET = (512_000.0, 5_412_000.0, 200.0)
_BOX = np.stack(
    [tiny_model.ROOT_MIN - 0.5, tiny_model.ROOT_MIN + tiny_model.SIDE + 0.5]
)


def _config():
  config = common.base()
  config.field.num_grid_scales = 4
  config.field.log2_table_size = 9
  config.field.base_resolution = 4
  config.field.hidden_width = 16
  config.field.num_geometry = 7
  config.field.appearance_dim = 4
  config.sampling.num_samples = (16, 12)
  config.background = (0.1, 0.2, 0.3)
  return config


def state_of(seed: int):
  """A training state of other content for every seed."""
  model, _, _ = tiny_model.make_model(seed=seed)
  appearance = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
  return {'params': {'nodes': model.nodes, 'appearance': appearance}}


def save(folder, step: int, seed: int) -> None:
  """Writes a checkpoint."""
  with checkpoint.CheckpointManager(folder / 'checkpoints') as manager:
    manager.save(step, jax.tree.map(np.asarray, state_of(seed)))


def make_run(folder):
  """A run of 17 nodes, three photos, in UTM coordinates, at step 40."""
  folder.mkdir(parents=True, exist_ok=True)
  octree = tiny_model.make_octree()
  cameras = cameras_lib.stack(
      [tiny_model.make_camera(angle) for angle in (0.1, 2.2, 4.3)]
  )
  config = workdir_lib.config_to_json(_config())
  json_files.write_json_atomic(folder / 'config.json', config)
  octree_io.save_octree(folder / 'octree.npz', octree, _BOX)
  camera_io.save_cameras(folder / 'cameras.npz', NAMES, cameras)
  json_files.write_json_atomic(
      folder / 'split.json',
      {'train': ['b.png', 'c.png'], 'validation': [], 'test': ['a.png']},
  )
  json_files.write_json_atomic(
      folder / 'frame.json',
      {'coordinate_system': 'EPSG:32633', 'offset': OFFSET,
       'rotation': np.eye(3)},
  )  # fmt: skip
  save(folder, 40, seed=0)
  return folder
