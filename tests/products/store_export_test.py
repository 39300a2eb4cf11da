"""Exporting a run, loading the store, filming from it, and the commands."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import infnerf_jax
from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.products import film, level_pictures, paths, store_export
from infnerf_jax.storage import node_store
from tests import loaded_test

run = loaded_test.run  # the fixture: a run that was never trained


@pytest.fixture(scope='module')
def stored(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('export') / 'store'
  report = store_export.export_store(
      infnerf_jax.load(run[0]), folder, precision='int8', max_views=1
  )
  return folder, report


def test_the_report_says_sizes_and_cost(stored):
  folder, report = stored
  on_disk = sum(
      p.stat().st_size for p in folder.rglob('nodes/**/*') if p.is_file()
  )
  assert report['bytes'] == on_disk
  # Small nodes pay for frames and scales.
  assert report['share_of_float32'] < 0.3
  assert report['psnr_against_float32'] > 30
  assert 'psnr_loss' not in report  # its photos do not exist
  compared = report['precisions']
  assert list(compared) == ['float32', 'bfloat16', 'int8']
  assert compared['int8']['bytes'] == report['bytes']
  sizes = [item['bytes'] for item in compared.values()]
  assert sizes == sorted(sizes, reverse=True)
  assert compared['float32']['psnr_against_float32'] is None  # the same bits
  for name in ('bfloat16', 'int8'):
    assert 30 < compared[name]['psnr_against_float32'] < 90


def test_a_store_loads_as_its_run_does(run, stored):
  loaded, scene = infnerf_jax.load(run[0]), infnerf_jax.load(stored[0])
  assert scene.options == loaded.options
  assert scene.spec == loaded.spec
  assert scene.background == loaded.background
  assert scene.photo_names == loaded.photo_names
  assert scene.downscale == loaded.downscale
  assert scene.num_nodes == loaded.octree.num_nodes
  assert scene.store.header.provenance['num_steps'] == 40
  assert {k: v.tolist() for k, v in scene.split.items()} == {
      k: v.tolist() for k, v in loaded.split.items()
  }
  np.testing.assert_array_equal(scene.appearance(), loaded.appearance())
  np.testing.assert_array_equal(
      scene.cameras.cam_to_world, loaded.cameras.cam_to_world
  )
  first, second = (
      paths.make_path('zoom', s, num_frames=3, width=32)
      for s in (loaded, scene)
  )
  np.testing.assert_array_equal(
      first.cameras.cam_to_world, second.cameras.cam_to_world
  )
  with pytest.raises(errors.InputError, match="got 'z.png', expected one of"):
    scene.appearance('z.png')


def test_a_film_from_a_store(run, stored, tmp_path):
  scene = infnerf_jax.load(stored[0])
  path = paths.make_path('zoom', scene, num_frames=3, width=32)
  scene.evict_above = 0.5
  report = film.render_film(
      scene, path, tmp_path, max_memory_gb=0.5, level_map=True,
      show_progress=False,
  )  # fmt: skip
  assert json.loads((tmp_path / 'render.json').read_text())['num_frames'] == 3
  assert report['num_nodes'] == 17 and report['level_bias_max'] == 0
  assert 0 <= report['read_wait_share'] <= 1 and not report['damaged_nodes']
  assert report['memory']['cap'] == 0.5e9
  exact = infnerf_jax.load(run[0]).render(
      cameras_lib.take(path.cameras, 2), outputs=('rgb',)
  )
  again = scene.render(cameras_lib.take(path.cameras, 2))
  error = np.mean(np.square(exact.rgb - again.rgb))
  assert -10 * np.log10(error) > 30
  levels = level_pictures.read_levels(tmp_path / report['frames'][2]['level'])
  expected = scene.render(
      cameras_lib.take(path.cameras, 2), outputs=('level',)
  ).level
  np.testing.assert_allclose(levels, expected, atol=5.1e-4)


def _command(*arguments):
  return subprocess.run(
      [sys.executable, '-m', 'experiments.export', *arguments],
      capture_output=True, text=True,
  )  # fmt: skip


def test_verify_exits_2_where_something_is_damaged(stored, tmp_path):
  folder = shutil.copytree(stored[0], tmp_path / 'store')
  chunk = sorted((folder / 'nodes').rglob('*.1'))[3]
  chunk.write_bytes(chunk.read_bytes()[:-1])
  done = _command('--verify', f'--out={folder}')
  assert done.returncode == 2
  assert chunk.name in done.stdout and 'found 1 damaged' in done.stderr


def test_other_kinds_and_precisions_are_refused(run, tmp_path):
  loaded = infnerf_jax.load(run[0])
  with pytest.raises(errors.InputError, match="got 'int3', expected one of"):
    store_export.export_store(loaded, tmp_path, precision='int3')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').touch()
  with pytest.raises(errors.InputError, match='--out: .*Not a directory'):
    store_export.export_store(loaded, tmp_path / 'file' / 'store')
  header = store_export.store_header(loaded, 'bfloat16')
  assert header.group(node_store.PARAMETERS).precision == 'bfloat16'


def test_levels_that_have_not_joined_are_left_out(run, tmp_path):
  loaded = infnerf_jax.load(run[0])
  octree = loaded.octree
  slots = np.where(octree.level < 2, loaded.model.tree.slot_of_node, -1)
  tree = loaded.model.tree._replace(slot_of_node=slots)
  young = dataclasses.replace(loaded, model=loaded.model._replace(tree=tree))
  store_export.export_store(young, tmp_path, precision='float32', max_views=0)
  store = node_store.open_store(tmp_path)
  assert store.header.nodes_by_level == (1, 8)
  assert store.header.focus[0] == 1
  (page,) = store.walk()
  assert page.masks[0] == 255 and not page.masks[1:].any()
  row = store.read_row(page.keys[4])
  np.testing.assert_array_equal(row['table'], loaded.model.nodes['table'][4])


def _render(folder, out, *arguments):
  return subprocess.run(
      [sys.executable, '-m', 'experiments.render', f'--workdir={folder}',
       f'--out={out}', '--path=zoom', '--num_frames=2', '--width=32',
       *arguments],
      capture_output=True, text=True,
  )  # fmt: skip


@pytest.mark.slow
def test_the_command_holds_to_a_cap_in_megabytes(stored, tmp_path):
  done = _render(stored[0], tmp_path / 'a', '--max_memory_mb=500')
  assert done.returncode == 0, done.stderr
  report = json.loads((tmp_path / 'a' / 'render.json').read_text())
  assert report['memory']['cap'] == 500e6
  parts = report['memory']['device'], report['memory']['host']
  assert sum(part['total'] for part in parts) <= 500e6
  assert report['level_bias_max'] == 0
  done = _render(stored[0], tmp_path / 'b', '--max_memory_mb=20')
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert 'expected at least' in done.stderr


@pytest.mark.slow
def test_precisions_cost_little_on_the_city(tmp_path):
  """A minute of training; half and a quarter of the parameters' bytes."""
  subprocess.run(
      [sys.executable, '-m', 'experiments.train',
       '--config=configs/quickstart.py:demo', f'--workdir={tmp_path}'],
      check=True, capture_output=True,
  )  # fmt: skip
  found = store_export.compare_precisions(infnerf_jax.load(tmp_path))
  for precision, share, loss in (('bfloat16', 0.5, 0.1), ('int8', 0.25, 0.3)):
    assert found[precision]['share_of_float32'] <= share
    assert found[precision]['psnr_loss'] <= loss
