"""The scaling suite: its arithmetic, its rows and its picture."""

import dataclasses

import pytest

from infnerf_jax.evaluation.scaling import meshes, projection, suite
from infnerf_jax.sharding import traffic


def test_one_device_is_the_unit():
  one = projection.project(1)
  assert one['speedup'] == 1 and one['mesh'] == [1, 1] and one['bytes'] == 0
  seconds = one['seconds']
  assert seconds['wires'] == seconds['latency'] == 0
  assert one['share'] == 1


@pytest.mark.parametrize('num_devices', [2, 8, 64])
def test_fields_divide_and_wires_do_not_vanish(num_devices):
  one = projection.project(1)['seconds']
  found = projection.project(num_devices)
  fields = one['fields'] * projection.Workload().imbalance / num_devices
  assert found['seconds']['fields'] == pytest.approx(fields)
  assert found['seconds']['wires'] > 0 and found['speedup'] < num_devices
  fastest = projection.best_mesh(
      projection.Workload(), projection.Machine(), num_devices
  )
  best = projection.project(num_devices, mesh=fastest)
  assert best['speedup'] >= found['speedup']


def test_wires_by_hand():
  # One exchange that matters: 4 devices of a host, no priors, no features.
  work = projection.Workload(
      num_rays=1000, num_samples=(10,), num_prior_points=0, num_scales=0,
      density_weights=0, color_weights=0, dense_size=0,
  )  # fmt: skip
  machine = projection.Machine(near=1e9, latency=0.0)
  found = projection.step_seconds(work, machine, 1, 4)
  # 16 bytes a sample, all-reduced: twice three quarters of the buffer.
  assert found['wires'] == pytest.approx(2 * 0.75 * 16 * 10_000 / 1e9)
  far = dataclasses.replace(machine, host_devices=2, far=1e8)
  found = projection.step_seconds(work, far, 1, 4)
  assert found['wires'] == pytest.approx(2 * 0.75 * 16 * 10_000 / 1e8)


def test_bytes_of_a_program():
  program = """
  %a = f32[4,3]{1,0} all-reduce(%x), replica_groups={{0,1}}
  %b = (s32[2]{0}, pred[]) all-reduce-start(%y, %z)
  ROOT %c = f32[8]{0} all-gather(%w), dimensions={0}
  """
  found = traffic.collective_bytes(program)
  assert found == {'all-reduce': 48 + 8 + 1, 'all-gather': 32}
  with pytest.raises(ValueError, match='all-to-all'):
    traffic.collective_bytes('%a = f32[4] all-to-all(%x)')


def _series():
  mesh = {
      'mesh': [1, 4],
      'bytes_held': [26, 25, 25, 26],
      'resident_share': 0.26,
      'memory_imbalance': 1.02,
      'expected_imbalance': 1.1,
      'exchanged': {'all-reduce': 800, 'all-gather': 210},
      'formula': {'all-reduce': 800, 'all-gather': 200},
      'flops': 30.0,
      'samples': [[10, 20, 30, 40]],
  }
  large = {**mesh, 'bytes_held': [104] * 4}
  return {
      'partitions': [
          {
              'name': 'a', 'num_nodes': 200, 'shards': shards,
              'share': 1.04 / shards, 'num_replicated': 1,
              'memory_imbalance': 1.0, 'sample_imbalance': 1.2,
          }
          for shards in (1, 4)
      ],
      'missing': ['no such capture'],
      'meshes': {
          'num_nodes': 200,
          'single': {'bytes_held': 100, 'samples': 100, 'flops': 60.0},
          'meshes': [mesh],
          'large_tables': large,
      },
      'projected': suite.measure_projected(),
      'growth': {
          kind: {
              'num_steps': 100, 'num_nodes': 9, 'cpu_seconds': 2.0 + jump,
              'steps_of_growth': [10, 20], 'psnr': 20.0 - jump,
              'curve': [list(range(1, 100)), [jump] * 99],
              'loss_after_over_before': [1.0, jump],
          }
          for kind, jump in (
              ('growth', 0.9), ('growth without rehearsal', 3.0),
              ('from scratch', 0.8),
          )
      },
      'pruning': {
          'num_steps': 9, 'before': {'psnr': 20.0}, 'after': {'psnr': 19.99},
          'report': {'num_nodes': 73, 'num_pruned': 11, 'num_not_seen': 18},
      },
      'extension': {
          'base_steps': 10, 'more_steps': 5, 'photos': [3, 2],
          'nodes_before': 8, 'nodes_after': 11, 'nodes_untouched': 4,
          'nodes_untouched_same_bytes': 4, 'old_nodes_retrained': 4,
          **{
              key: {'psnr': psnr, 'by_pyramid_level': [psnr, psnr + 1]}
              for key, psnr in (
                  ('old photos before', 21.0), ('old photos after', 20.9),
                  ('old photos after, without replay', 18.0),
                  ('new photos after', 19.0),
                  ('old photos, both from the start', 21.0),
                  ('new photos, both from the start', 20.0),
              )
          },
      },
  }  # fmt: skip


def test_rows_and_picture_say_what_was_measured(tmp_path):
  rows = {row.name: row for row in suite.rows(_series())}
  passed = {name: row.passed for name, row in rows.items()}
  mesh = 'scaling/mesh 1 x 4'
  assert passed['scaling/partition/a/4 devices/share of the nodes'] is True
  assert (
      passed['scaling/partition/a/4 devices/imbalance of expected samples']
      is False
  )
  assert rows['scaling/partition'].value is None
  assert passed[f'{mesh}/live bytes of a device'] is True
  assert passed[f'{mesh}/samples evaluated by all devices'] is True
  assert rows[f'{mesh}/imbalance of evaluated samples'].value == 1.6
  assert passed[f'{mesh}/bytes of collectives, compiled'] is True
  assert passed[f'{mesh}/bytes of collectives with 4.0 times the parameters']
  assert rows['scaling/projected, same batch/1024 devices/speed'].value > 0
  jump = 'loss behind the steps of growth'
  assert passed[f'scaling/growth/growth/{jump}'] is True
  assert passed[f'scaling/growth/growth without rehearsal/{jump}'] is None
  old = rows['scaling/extension/old test photos']
  assert old.passed is True and old.ratio == pytest.approx(-0.1)
  assert rows['scaling/extension/new test photos'].ratio == -1.0
  same = 'scaling/extension/nodes that nothing new touches, same bytes'
  assert passed[same] is True
  assert passed['scaling/pruning/test photos'] is True
  suite.plot(_series(), tmp_path / 'plot.png')
  assert 10_000 < (tmp_path / 'plot.png').stat().st_size < 300_000


@pytest.mark.slow
def test_counts_on_virtual_devices():
  found = meshes.measure_in_child(tiny=True)
  (mesh,) = found['meshes']
  assert sum(mesh['samples'][0]) == found['single']['samples']
  share = max(mesh['bytes_held']) / found['single']['bytes_held']
  assert share == pytest.approx(mesh['resident_share'], rel=0.01)
  for kind, formula in mesh['formula'].items():
    assert formula <= mesh['exchanged'][kind] <= formula + 256
