"""What growth costs and keeps: levels that join, photos that are added.

Small runs on a procedural city. `growth`: levels that join one after the other
against all levels from the start, with as many steps. `extension`: a run of the
city's west to which its east is added, against a run of both from the start.
"""

import pathlib
import shutil
import tempfile
import time
from typing import Any

import jax
import numpy as np

from infnerf_jax import json_files
from infnerf_jax.evaluation import train_and_evaluate
from infnerf_jax.octree import extend
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import readers, synthesize, write
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.storage import leaves
from infnerf_jax.training import loop, metrics_log, pruning
from infnerf_jax.training import workdir as workdir_lib

_SCHEDULE = (0.1, 0.2, 0.3, 0.4)
# Steps before and after a level joins whose losses are compared.
_WINDOW = 20
_LOG_EVERY = 5
_GAP = 40.0  # metres between the photos of both fields


def _config(config, scene, *, num_steps: int):
  """A config for another scene and number of steps."""
  config = config.copy_and_resolve_references()
  config.data.path = str(scene)
  config.num_steps = config.checkpoint_every = num_steps
  config.preview_every = 0
  config.octree_growth_schedule = _SCHEDULE
  config.logging.log_every = _LOG_EVERY
  return config


def _city(folder, **options) -> pathlib.Path:
  sizes = {'extent': 72.0, 'width': 128, 'height': 96, **options}
  return synthesize.synthesize(folder, synthesize.SynthesisOptions(**sizes))


def _train(config, workdir) -> tuple[loop.Trained, float]:
  """(Trained, CPU seconds of the whole run)."""
  start = time.process_time()
  trained = loop.train(config, workdir)
  return trained, time.process_time() - start


def _scores(config, trained, rows) -> dict[str, Any]:
  found = train_and_evaluate.score(
      config, trained.run, trained.state, rows, fit=False
  )
  by_level = [item['psnr'] for item in found['by_pyramid_level']]
  return {'psnr': found['psnr'], 'by_pyramid_level': by_level}


def _curve(workdir) -> tuple[list[int], list[float]]:
  """Steps, and the photometric loss of their batches."""
  rows = metrics_log.read_metrics(workdir)
  loss = [10.0 ** (-0.1 * row['psnr']) for row in rows]
  return [row['step'] for row in rows], loss


def _jumps(curve, steps) -> list[float]:
  """Photometric loss behind each step over that before it."""
  at, loss = map(np.asarray, curve)
  ratio = []
  for step in steps:
    before = loss[(at > step - _WINDOW) & (at <= step)]
    after = loss[(at > step) & (at <= step + _WINDOW)]
    ratio.append(float(after.mean() / before.mean()))
  return ratio


def measure_growth(config, *, tiny: bool = False) -> dict[str, Any]:
  """Growth with and without rehearsal, and all levels from the start.

  Args:
    config: of a small run.
    tiny: for tests.
  """
  num_steps = 60 if tiny else 1000
  kinds = {
      'growth': {},
      'growth without rehearsal': {'growth_rehearsal': 0.0},
      'from scratch': {'octree_growth_schedule': ()},
  }
  result = {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    scene = _city(folder / 'scene', num_photos=24 if tiny else 64)
    for kind, changes in kinds.items():
      changed = _config(config, scene, num_steps=num_steps)
      changed.update(changes)
      workdir = folder / kind
      trained, seconds = _train(changed, workdir)
      curve = _curve(workdir)
      steps = [round(share * num_steps) for share in _SCHEDULE]
      levels = trained.run.plan.built.octree.num_levels
      result[kind] = {
          'num_steps': num_steps,
          'num_nodes': trained.run.plan.built.octree.num_nodes,
          'cpu_seconds': seconds,
          'steps_of_growth': steps[: levels - 1],
          'curve': curve,
          'loss_after_over_before': _jumps(curve, steps[: levels - 1]),
          **_scores(changed, trained, trained.run.split.test),
      }
  return result


def part_of_scene(scene: scene_lib.Scene, keep) -> scene_lib.Scene:
  """Some photos of a scene, and the points that two of them see."""
  part = scene_lib.select_photos(scene, keep)
  counts = np.diff(part.visibility.offsets)
  seen = counts >= 2
  return part._replace(
      points=scene_lib.Points(*(field[seen] for field in part.points)),
      visibility=scene_lib.Visibility(
          np.concatenate([[0], np.cumsum(counts[seen])]),
          part.visibility.photo_idx[np.repeat(seen, counts)],
      ),
  )


def row_digests(octree: tree_lib.Octree, state) -> dict[int, str]:
  """{node_key: sha256} of each node's parameters, moments and step counts."""
  rows = {'params': state.params['nodes'], 'state': state.opt_state['nodes']}
  rows = jax.tree.map(np.asarray, rows)
  keys = tree_lib.node_key(octree.level, octree.coord)

  def digest(row):
    return leaves.params_sha256(jax.tree.map(lambda x: x[row], rows))

  return {int(key): digest(row) for row, key in enumerate(keys)}


def two_fields(folder, *, tiny: bool = False) -> list[pathlib.Path]:
  """Scenes of a city's west and of its east, each flown straight down.

  Args:
    folder: to make them in.
    tiny: for tests; both see the same.
  """
  options = {'num_photos': 24}
  if not tiny:
    # One altitude: what lies further off than a photo is wide, none sees.
    options = dict(
        extent=216.0, num_photos=180, altitudes=(42.0,), supersampling=2
    )
  city = readers.load_scene(_city(folder / 'scene', **options))
  pose = np.asarray(city.cameras.cam_to_world)
  down = tiny | (pose[:, 2, 2] < -0.9)
  x = pose[:, 0, 3]
  paths = []
  for name, keep in (('west', x < 0), ('east', x > (0 if tiny else _GAP))):
    part = part_of_scene(city, np.flatnonzero(keep & down))
    paths.append(write.write_infnerf(part, folder / name, show_progress=False))
  return paths


def measure_extension(config, *, tiny: bool = False) -> dict[str, Any]:
  """The west, then with the east added; and both from the start.

  Args:
    config: of a small run.
    tiny: for tests.
  """
  base_steps, more_steps = (40, 60) if tiny else (1000, 600)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    west, east = two_fields(folder, tiny=tiny)
    config = _config(config, west, num_steps=base_steps)
    if not tiny:
      # The city is three times as wide.
      config.target_depth = config.max_depth = config.max_depth + 1
      config.octree_growth_schedule = (*_SCHEDULE, 0.5)
    base, base_seconds = _train(config, folder / 'run')
    test = base.run.split.test
    before = _scores(config, base, test)
    digests = row_digests(base.run.plan.built.octree, base.state)
    alone = _forgetful_copy(folder / 'run', folder / 'alone', config)
    config, alone = (
        _extended(c, east, base_steps + more_steps) for c in (config, alone)
    )
    more, more_seconds = _train(config, folder / 'run')
    forgot, _ = _train(alone, folder / 'alone')
    both, both_seconds = _train(config, folder / 'both')
    return {
        'base_steps': base_steps,
        'more_steps': more_steps,
        'cpu_seconds': [base_seconds, more_seconds, both_seconds],
        'photos': [len(test), len(more.run.split.test) - len(test)],
        **_extension_nodes(base, more, digests),
        'old photos before': before,
        'old photos after': _scores(config, more, test),
        'old photos after, without replay': _scores(alone, forgot, test),
        'new photos after': _scores(
            config, more, more.run.split.test[len(test) :]
        ),
        **_both_scores(config, base, both),
    }


def _forgetful_copy(workdir, copy, config):
  """Config of a copy of a run in which old photos would not replay."""
  shutil.copytree(workdir, copy)
  config = config.copy_and_resolve_references()
  config.data.extra_ray_share = 1.0
  values = workdir_lib.config_to_json(config)
  workdir_lib.write_json_atomic(copy / workdir_lib.CONFIG, values)
  return config


def _extended(config, extra_path, num_steps):
  config = config.copy_and_resolve_references()
  config.data.extra_paths = str(extra_path)
  config.num_steps = num_steps
  return config


def _extension_nodes(base, more, digests) -> dict[str, Any]:
  """Counts of nodes, and how many that should stay as they are did."""
  octree = more.run.plan.built.octree
  now = row_digests(octree, more.state)
  learns = more.run.retraining.learns
  keys = tree_lib.node_key(octree.level, octree.coord)
  stays = [int(key) for key in keys[~learns]]
  old = extend.rows_of_keys(octree, np.array(list(digests)))
  return {
      'nodes_before': base.run.plan.built.octree.num_nodes,
      'nodes_after': octree.num_nodes,
      'nodes_untouched': len(stays),
      'nodes_untouched_same_bytes': sum(now[k] == digests[k] for k in stays),
      'old_nodes_retrained': int(learns[old].sum()),
  }


def _both_scores(config, base, both) -> dict[str, Any]:
  """Scores of a run of both scenes from the start, on its own test photos."""
  count = len(base.run.plan.scene.photos.names)
  test = both.run.split.test
  return {
      'old photos, both from the start': _scores(
          config, both, test[test < count]
      ),
      'new photos, both from the start': _scores(
          config, both, test[test >= count]
      ),
  }


def measure_pruning(config, *, tiny: bool = False) -> dict[str, Any]:
  """A tree of all nodes down to a level, with and without the empty ones.

  Args:
    config: of a small run.
    tiny: for tests.
  """
  num_steps = 40 if tiny else 800
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    scene = _city(folder / 'scene', num_photos=24 if tiny else 64)
    config = _config(config, scene, num_steps=num_steps)
    config.update(use_pruning=False, max_depth=2, grid_size=64, root_octaves=0)
    trained, _ = _train(config, folder / 'run')
    start = time.process_time()
    pruned = train_and_evaluate.without_empty_nodes(
        config, folder / 'run', trained
    )
    seconds = time.process_time() - start
    report = json_files.read_json(folder / 'run' / pruning.REPORT)
    test = trained.run.split.test
    return {
        'num_steps': num_steps,
        'cpu_seconds': seconds,
        'before': _scores(config, trained, test),
        'after': _scores(config, pruned, test),
        'report': report,
    }
