"""Notebooks: no outputs, no algorithms, and they run from end to end."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / 'experiments' / 'notebooks'
_NAMES = (
    'octree_and_memory.ipynb',
    'own_capture.ipynb',
    'quickstart.ipynb',
    'sweep_analysis.ipynb',
)
# Kernels and their messages have warnings of their own, which are not ours.
_RUNNER = """
import sys
import nbclient
import nbformat
path, root, parameters, out = sys.argv[1:]
notebook = nbformat.read(path, 4)
nbformat.validate(notebook)
for cell in notebook.cells:
  if 'parameters' in cell.metadata.get('tags', []):
    cell.source += chr(10) + parameters
nbclient.NotebookClient(
    notebook, timeout=900, kernel_name='python3',
    resources={'metadata': {'path': root}},
).execute()
nbformat.write(notebook, out)
"""


def _run(name, out, **parameters):
  """Executes a notebook; its cells' text outputs and number of pictures."""
  pytest.importorskip('nbclient')
  text = '\n'.join(f'{k} = {v!r}' for k, v in parameters.items())
  done = subprocess.run(
      [
          sys.executable, '-c', _RUNNER, str(_FOLDER / name), str(_ROOT), text,
          str(out),
      ],
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True, text=True, timeout=1800,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  texts, pictures = [], 0
  for cell in json.loads(out.read_text())['cells']:
    for output in cell.get('outputs', []):
      data = output.get('data', {})
      pictures += 'image/png' in data
      texts.append(''.join(output.get('text', data.get('text/plain', ''))))
  return '\n'.join(texts), pictures


def test_all_are_known():
  assert sorted(p.name for p in _FOLDER.glob('*.ipynb')) == sorted(_NAMES)


@pytest.mark.parametrize('name', _NAMES)
def test_stripped_and_without_algorithms(name):
  cells = json.loads((_FOLDER / name).read_text())['cells']
  tags = [cell['metadata'].get('tags', []) for cell in cells]
  assert ['parameters'] in tags and ['setup'] in tags
  for cell in cells:
    if cell['cell_type'] != 'code':
      continue
    assert cell['outputs'] == [] and cell['execution_count'] is None
    tree = ast.parse(''.join(cell['source']))
    defined = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While)
    assert not any(isinstance(node, defined) for node in ast.walk(tree))


def test_sweep_analysis_runs(tmp_path):
  runs = []
  for rate in (1, 2):
    for seed in (0, 1):
      name = f'rate={rate},seed={seed}'
      runs.append(
          {'name': name, 'values': {'rate': rate, 'seed': seed}, 'num_steps': 5}
      )
      folder = tmp_path / 'runs' / name
      folder.mkdir(parents=True)
      score = 20.0 + rate + seed
      levels = [{'level': 0, 'psnr': score}, {'level': 1, 'psnr': score + 2}]
      content = {'num_steps': 5, 'psnr': score, 'by_pyramid_level': levels}
      (folder / 'eval.json').write_text(json.dumps(content))
  (folder / 'eval.json').unlink()
  (tmp_path / 'sweep.json').write_text(json.dumps({'runs': runs}))
  text, pictures = _run(
      'sweep_analysis.ipynb', tmp_path / 'out.ipynb', SWEEP=str(tmp_path)
  )
  assert '3 of 4 runs are finished' in text and 'rate=2,seed=1' in text
  assert '21.50 +- 0.71' in text
  assert pictures == 1


@pytest.mark.slow
def test_the_others_run(tmp_path):
  workdir = tmp_path / 'run'
  text, pictures = _run(
      'quickstart.ipynb', tmp_path / 'quickstart.ipynb',
      ARGUMENT='quicktest', WORKDIR=str(workdir),
  )  # fmt: skip
  assert "'psnr'" in text and 'nodes touched' in text and pictures == 6
  text, pictures = _run(
      'octree_and_memory.ipynb', tmp_path / 'octree.ipynb',
      WORKDIR=str(workdir), NUM_VIEWS=3, WIDTH=40, HEIGHT=30,
  )  # fmt: skip
  assert 'level 0: 1 nodes' in text and pictures == 2
  text, pictures = _run(
      'own_capture.ipynb', tmp_path / 'own.ipynb',
      SCENE=str(workdir / 'scene'), WORKDIR=str(tmp_path / 'own'),
      ARGUMENT='quicktest', MAP_PIXELS=64, POINT_LEVEL=0,
      SHAPE={'num_steps': 600, 'batch_size': 512},
  )  # fmt: skip
  assert 'map_dsm.tif' in text and "'points'" in text and pictures == 4
