"""Renders views of a trained run: pictures, depth, films.

python -m experiments.render --workdir=DIR --path=spiral --out=FOLDER
"""

from absl import flags

from infnerf_jax import command, errors

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
_PATH = flags.DEFINE_string(
    'path',
    'spiral',
    'test (the test photos), spiral (around the scene), zoom (from far above to'
    ' close up), or a camera_path.json of nerfstudio.',
)
_OUT = flags.DEFINE_string('out', None, 'Folder for what is rendered.')
_APPEARANCE = flags.DEFINE_string(
    'appearance', 'mean', 'mean, or the photo whose embedding is taken.'
)
_MAX_MEMORY_GB = flags.DEFINE_float(
    'max_memory_gb', 0.0, 'Most memory for model and rays; 0: as in training.',
    lower_bound=0.0,
)  # fmt: skip
_NUM_FRAMES = flags.DEFINE_integer(
    'num_frames', 120, 'Views of spiral and zoom.', lower_bound=1
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
flags.mark_flags_as_required(['workdir', 'out'])


def main(argv):
  """Renders and prints what was written."""
  del argv
  import infnerf_jax  # jax only where it is needed
  from infnerf_jax.products import film, paths

  if _PATH.value not in ('test', 'spiral', 'zoom'):
    if not _PATH.value.endswith('.json'):
      raise errors.InputError(
          f'--path: got {_PATH.value!r}, expected test, spiral, zoom or a .json'
      )
  loaded = infnerf_jax.load(_WORKDIR.value)
  path = paths.make_path(
      _PATH.value, loaded, num_frames=_NUM_FRAMES.value,
      width=_WIDTH.value, height=_HEIGHT.value, fps=_FPS.value,
  )  # fmt: skip
  report = film.render_film(
      loaded, path, _OUT.value, appearance=_APPEARANCE.value,
      max_memory_gb=_MAX_MEMORY_GB.value or None,
  )  # fmt: skip
  print(
      f'wrote {_OUT.value}: {report["num_frames"]} frames, film.mp4,'
      f' depth.mp4, render.json ({report["rays_per_second"]:.0f} rays/s,'
      f' {report["nodes_touched_mean"]:.1f} of {report["nodes"]} nodes a view)'
  )


if __name__ == '__main__':
  command.run(main)
