"""Runs the library's main functions on a small city, in about two minutes.

python -m experiments.demo --out=FOLDER
"""

from absl import flags

from configs import quickstart
from infnerf_jax import command

_OUT = flags.DEFINE_string('out', None, 'Folder for pictures and numbers.')
flags.mark_flags_as_required(['out'])


def main(argv):
  """Runs the demo and says what it wrote."""
  del argv
  from infnerf_jax import demo  # jax only where it is needed

  result = demo.run(quickstart.get_config('demo'), _OUT.value)
  for name, view in result['views'].items():
    print(f'{name}: {view["nodes_touched"]} of {view["nodes"]} nodes touched')
  print(f'octree level by camera height: {result["level_by_height"]}')
  print(
      f'wrote {_OUT.value}: demo.json, octree.png, oblique.png, nadir.png,'
      f' far.png, run/ (psnr {result["psnr"]:.2f} dB)'
  )


if __name__ == '__main__':
  command.run(main)
