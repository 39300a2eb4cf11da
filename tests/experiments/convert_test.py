"""The convert command: a scene out, one line and status 2 on bad input."""

import os
import pathlib
import subprocess
import sys

from infnerf_jax.scene import readers
from tests.scene import builders

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*flags):
  return subprocess.run(
      [sys.executable, '-m', 'experiments.convert', *map(str, flags)],
      cwd=_ROOT,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True,
      text=True,
      timeout=600,
  )


def test_converts_colmap(tmp_path):
  builders.colmap(tmp_path / 'in')
  (tmp_path / 'in' / 'images' / '01.png').unlink()
  done = _run(f'--source={tmp_path / "in"}', f'--out={tmp_path / "out"}')
  assert done.returncode == 0, done.stderr
  assert '3 of 4 photos, 1 absent' in done.stdout
  assert f'wrote {tmp_path / "out"}' in done.stdout
  assert len(readers.load_scene(tmp_path / 'out').photos.names) == 3


def test_cut_model_is_one_line(tmp_path):
  folder, _ = builders.colmap(tmp_path / 'in', text=True)
  path = folder / 'sparse' / '0' / 'images.txt'
  path.write_text(path.read_text()[:-3000] + 'x y\nz\n')
  done = _run(f'--source={folder}', f'--out={tmp_path / "out"}')
  assert done.returncode == 2
  assert 'sparse/0: got' in done.stderr
  assert done.stderr.count('\n') == 1
  assert not (tmp_path / 'out').exists()


def test_dry_run_writes_nothing(tmp_path):
  folder = builders.transforms(tmp_path / 'in')
  out = tmp_path / 'out'
  done = _run(f'--source={folder}', f'--out={out}', '--dry_run')
  assert done.returncode == 0 and 'would write' in done.stdout
  assert not out.exists()
