"""Nodes by level, bytes and a picture of a run's octree.

python -m experiments.octree --workdir=DIR
"""

import pathlib

from absl import flags

from infnerf_jax import command, errors, json_files

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.')
_OUT = flags.DEFINE_string(
    'out', None, 'Folder for octree.json and octree.png; default the workdir.'
)
_MAX_DEPTH = flags.DEFINE_integer(
    'max_depth', None, 'Deepest level that is drawn.', lower_bound=0
)
flags.mark_flags_as_required(['workdir'])


def _points(config, workdir):
  """Sparse points of the run's scene, None where it is gone."""
  from infnerf_jax.training import setup

  try:
    scene = setup.load_scenes(config, workdir).scene
  except errors.InputError as error:
    print(f'drawn without points: {error}')
    return None
  return None if scene.points is None else scene.points.positions


def main(argv):
  """Writes octree.json and octree.png."""
  del argv
  from infnerf_jax.octree import io  # jax only where it is needed
  from infnerf_jax.products import octree_report
  from infnerf_jax.training import settings
  from infnerf_jax.training import workdir as workdir_lib

  workdir = pathlib.Path(_WORKDIR.value)
  config = workdir_lib.load_config(workdir)
  octree, _ = io.load_octree(workdir / 'octree.npz')
  report = octree_report.analyze_octree_memory(
      octree, settings.model_spec(config, octree)
  )
  out = pathlib.Path(_OUT.value or workdir)
  out.mkdir(parents=True, exist_ok=True)
  json_files.write_json_atomic(out / 'octree.json', report)
  octree_report.visualize_octree(
      octree, _MAX_DEPTH.value, out / 'octree.png', _points(config, workdir)
  )
  for row in report['by_level']:
    word = 'node' if row['nodes'] == 1 else 'nodes'
    print(
        f'level {row["level"]}: {row["nodes"]} {word} of {row["node_side"]:.4g}'
        f' m, gsd {row["node_gsd"]:.4g} m, {row["bytes"] / 1e6:.1f} MB'
    )
  print(f'wrote {out}/octree.json, {out}/octree.png')


if __name__ == '__main__':
  command.run(main)
