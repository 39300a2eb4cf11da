"""Runs the tests that need eight CPU devices in a process of their own.

More meshes, and growth, are marked slow: each takes ten seconds to compile.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu \\
      python -m pytest -m slow tests/sharding/sharded_step_test.py
"""

import os
import pathlib
import re
import subprocess
import sys

from tests.sharding import devices

_TIMEOUT = 600  # s


def test_the_sharded_step_on_eight_virtual_devices():
  flags = os.environ.get('XLA_FLAGS', '')
  done = subprocess.run(
      [
          sys.executable,
          '-m',
          'pytest',
          '-p',
          'no:cacheprovider',
          'tests/sharding/sharded_state_test.py',
          'tests/sharding/sharded_step_test.py',
          'tests/sharding/mesh_loop_test.py',
          'tests/sharding/paged_mesh_test.py',
      ],
      cwd=pathlib.Path(__file__).parents[2],
      env={
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          # These programs take longer to compile than to run.
          'XLA_FLAGS': (
              f'{flags} {devices.FLAG} --xla_backend_optimization_level=0'
          ),
          # Eight devices share the cores already.
          'OMP_NUM_THREADS': '1',
      },
      capture_output=True,
      text=True,
      timeout=_TIMEOUT,
  )
  assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
  # Skipped tests would show nothing.
  passed = re.search(r'(\d+) passed', done.stdout)
  assert passed and int(passed[1]) >= 25, done.stdout
  assert 'skipped' not in done.stdout
