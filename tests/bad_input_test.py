"""What commands refuse: exit status 2, one line, nothing left behind."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from infnerf_jax import errors
from infnerf_jax.capture import prepare
from infnerf_jax.products import film_journal, map_files, web_tiles
from infnerf_jax.scene import write
from tests.capture import builders as capture_builders
from tests.scene import builders

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _refused(name, *flags, words):
  done = subprocess.run(
      [sys.executable, '-m', f'experiments.{name}', *map(str, flags)],
      cwd=_ROOT,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True,
      text=True,
      timeout=600,
  )
  assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
  assert done.stderr.count('\n') == 1, done.stderr
  for word in words:
    assert word in done.stderr


def _leaving(folder):
  path = folder / 'cameras.json'
  entries = json.loads(path.read_text())
  entries['../../secret.png'] = entries['00.png']
  path.write_text(json.dumps(entries))


def _truncated(folder):
  (folder / 'scene.json').write_text('{"coordinate_system": "EPSG:3261')


def _unknown_system(folder):
  (folder / 'scene.json').write_text('{"coordinate_system": "EPSG:999999"}')


def _bomb(folder):
  (folder / 'cameras.json').unlink()
  (folder / 'a.xml').write_text(
      '<!DOCTYPE document [<!ENTITY a "x"><!ENTITY b "&a;&a;">]>'
      '<document><chunk>&b;</chunk></document>'
  )


@pytest.mark.parametrize(
    'spoil, message',
    [
        (_truncated, 'scene.json: got .* expected JSON'),
        (_unknown_system, "scene.json: coordinate_system: got 'EPSG:999999'"),
        (_leaving, r'\.\./\.\./secret\.png.* inside the scene folder'),
        (_bomb, 'a.xml: got entities or a document type'),
    ],
)
def test_scenes_that_are_refused(tmp_path, spoil, message):
  folder = builders.infnerf(tmp_path / 'in')
  spoil(folder)
  with pytest.raises(errors.InputError, match=message) as raised:
    write.convert(folder, tmp_path / 'out', show_progress=False)
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'out').exists()


def test_commands_end_with_status_2(tmp_path):
  (tmp_path / 'file').write_text('')
  below = tmp_path / 'file' / 'out'
  _refused(
      'convert', f'--source={builders.infnerf(tmp_path / "in")}',
      f'--out={below}', words=['file', 'can be written'],
  )  # fmt: skip
  _refused(
      'sweep', '--config=configs/aerial.py', f'--workdir={below}',
      '--print=commands', words=['--workdir'],
  )  # fmt: skip
  _refused(
      'export', f'--out={tmp_path / "a.ply"}', '--kind=splats',
      words=['splats', 'points'],
  )  # fmt: skip


def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path):
  for name in 'ab':
    capture_builders.photo(tmp_path / 'in' / f'{name}.jpg')
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.InputError, match='file.*can be written'):
    prepare.prepare(tmp_path / 'in', tmp_path / 'file' / 'scene')
  with pytest.raises(errors.InputError, match='--out: .*can be written'):
    map_files.check_out(tmp_path / 'file' / 'map.tif')
  with pytest.raises(errors.InputError, match='--xyz: .*can be written'):
    web_tiles.check_folder(tmp_path / 'file' / 'tiles')
  with pytest.raises(errors.InputError, match='can be written'):
    with film_journal.FilmJournal(tmp_path / 'file', 'job'):
      pass
