"""Says what this machine can run.

  python -m experiments.doctor

Prints a table of versions, devices, kernels with their self-tests (built at
the first call: seconds), memory and disk; exits 1 when something that should
work does not.
"""

import sys

import rich.console

from infnerf_jax import command


def main(argv):
  """Prints the table; non-zero when something is broken."""
  del argv
  from infnerf_jax import doctor  # jax only where it is needed

  checks = doctor.examine()
  # A pipe has no width: nothing is folded there.
  width = None if sys.stdout.isatty() else 160
  rich.console.Console(width=width).print(doctor.table(checks))
  healthy = doctor.is_healthy(checks)
  print('all that should work does' if healthy else 'something is broken')
  return 0 if healthy else 1


if __name__ == '__main__':
  command.run(main)
