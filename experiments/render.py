"""Renders views of a trained run: pictures, depth, films.

python -m experiments.render --workdir=DIR --path=spiral --out=FOLDER

The same command goes on where it was interrupted, frame by frame.
"""

from absl import flags

from infnerf_jax import command, errors

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a trained run, or an exported store.'
)
_PATH = flags.DEFINE_string(
    'path',
    'spiral',
    'test (the test photos), spiral (around the scene), zoom (from far above to'
    ' close up), flyover (along the flight), or a camera_path.json of'
    ' nerfstudio.',
)
_OUT = flags.DEFINE_string('out', None, 'Folder for what is rendered.')
_APPEARANCE = flags.DEFINE_string(
    'appearance', 'mean', 'mean, or the photo whose embedding is taken.'
)
_MAX_MEMORY_GB = flags.DEFINE_float(
    'max_memory_gb', 0.0,
    'Most memory for model and rays (of a store: for all that is held, and'
    ' views are coarsened to fit); 0: as in training.',
    lower_bound=0.0,
)  # fmt: skip
_MAX_MEMORY_MB = flags.DEFINE_float(
    'max_memory_mb', 0.0, 'The same in megabytes (1e6 bytes).', lower_bound=0.0
)
_NUM_FRAMES = flags.DEFINE_integer(
    'num_frames', 120, 'Views of spiral, zoom and flyover.', lower_bound=1
)
_WIDTH = flags.DEFINE_integer(
    'width', 0, 'Pixels; 0 derives it from the photos.', lower_bound=0
)
_HEIGHT = flags.DEFINE_integer(
    'height', 0, 'Pixels; 0 derives it from the photos.', lower_bound=0
)
_FPS = flags.DEFINE_float(
    'fps', 0.0, 'Frames a second; 0 is the default.', lower_bound=0.0
)
_FAST = flags.DEFINE_bool(
    'fast', True, 'Share samples among 2 x 2 pixels; colour only what shows.'
)
_OCCUPANCY = flags.DEFINE_bool(
    'occupancy', False, 'Of a run: leave out empty cells; their grid is made'
    ' first.',
)  # fmt: skip
_SAMPLER = flags.DEFINE_enum(
    'sampler', 'proposals', ['proposals', 'traverse'],
    'How samples are placed; traverse, of a run: even steps where space is not'
    ' empty.',
)  # fmt: skip
_STEP = flags.DEFINE_float(
    'step', 2.0, "Of traverse: in the finest nodes' node_gsd.", lower_bound=0.1
)
_LEVEL_MAP = flags.DEFINE_bool(
    'level_map', False, 'Also write the octree level that each pixel came from.'
)
_EVICT_ABOVE = flags.DEFINE_float(
    'evict_above', 1.0, 'Of a store: share of the nodes that fit above which'
    ' those that a view does not need are given up.',
    lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
_LEVEL_BLEND = flags.DEFINE_float(
    'level_blend', 0.5, 'Share of an octave over which levels fade; 0: none.',
    lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
flags.mark_flags_as_required(['workdir', 'out'])


def _with_traversal(loaded):
  """The scene with what is empty in it, which is looked at first."""
  if not hasattr(loaded, 'with_traversal'):
    raise errors.InputError(
        f'--sampler: got traverse and the store {_WORKDIR.value}, expected a'
        ' run, whose nodes are all in memory'
    )
  return loaded.with_traversal()


def main(argv):
  """Renders and prints what was written."""
  del argv
  import infnerf_jax  # jax only where it is needed
  from infnerf_jax.products import film, paths
  from infnerf_jax.render import traversed_rays

  if _PATH.value not in paths.KINDS and not _PATH.value.endswith('.json'):
    raise errors.InputError(
        f'--path: got {_PATH.value!r}, expected {", ".join(paths.KINDS)} or a'
        ' .json'
    )
  if _MAX_MEMORY_GB.value and _MAX_MEMORY_MB.value:
    raise errors.InputError(
        '--max_memory_mb: got a value beside --max_memory_gb, expected one'
    )
  max_memory_gb = _MAX_MEMORY_GB.value or _MAX_MEMORY_MB.value / 1e3
  loaded = infnerf_jax.load(_WORKDIR.value)
  path = paths.make_path(
      _PATH.value, loaded, num_frames=_NUM_FRAMES.value,
      width=_WIDTH.value, height=_HEIGHT.value, fps=_FPS.value,
  )  # fmt: skip
  if _OCCUPANCY.value:
    if not hasattr(loaded, 'with_occupancy'):
      raise errors.InputError(
          f'--occupancy: got the store {_WORKDIR.value}, expected a run, whose'
          ' nodes are all in memory'
      )
    loaded = loaded.with_occupancy()
  options = film.film_options(
      loaded, fast=_FAST.value, level_blend=_LEVEL_BLEND.value
  )
  if _SAMPLER.value == 'traverse':
    loaded = _with_traversal(loaded)
    options = traversed_rays.by_traversal(options, step=_STEP.value)
  if hasattr(loaded, 'evict_above'):
    loaded.evict_above = _EVICT_ABOVE.value
  report = film.render_film(
      loaded, path, _OUT.value, appearance=_APPEARANCE.value,
      max_memory_gb=max_memory_gb or None,
      options=options,
      level_map=_LEVEL_MAP.value,
  )  # fmt: skip
  print(
      f'wrote {_OUT.value}: {report["num_frames"]} frames, film.mp4,'
      f' depth.mp4, render.json ({report["rays_per_second"]:.0f} rays/s,'
      f' {report["nodes_touched_mean"]:.1f} of {report["nodes"]} nodes a view)'
  )
  if report.get('level_bias_max'):
    print(
        f'views were coarsened by up to {report["level_bias_max"]:g} octaves to'
        f' fit {max_memory_gb:g} GB; render.json says which'
    )
  for node, reason in report.get('damaged_nodes', {}).items():
    print(f'damaged node {node}: {reason}; its ancestor was shown, if any')
  if report.get('unreachable_nodes'):
    print(
        f'{len(report["unreachable_nodes"])} nodes were out of reach for some'
        ' views; ancestors were shown, render.json names them'
    )


if __name__ == '__main__':
  command.run(main)
