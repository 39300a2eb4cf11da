"""Metrics: lines, what resuming keeps, companions."""

import json
import struct
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.training import metrics_log


def options(**changes):
  defaults = {'tensorboard': False, 'wandb_project': ''}
  return types.SimpleNamespace(**{**defaults, **changes})


def test_lines_are_json_and_flushed(tmp_path):
  with metrics_log.MetricsLog(tmp_path, options()) as log:
    log.write({'step': 1, 'loss': jnp.float32(0.5), 'psnr': np.float64(20)})
    log.write({'step': 2, 'loss': float('nan'), 'levels': np.arange(3)})
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
      {'step': 1, 'loss': 0.5, 'psnr': 20.0},
      {'step': 2, 'loss': None, 'levels': [0, 1, 2]},
  ]
  assert metrics_log.read_metrics(tmp_path)[1]['levels'] == [0, 1, 2]
  assert metrics_log.read_metrics(tmp_path / 'absent') == []


@pytest.mark.parametrize('torn', ['', '{"step": 1', '{"step": 10}', '\x00\xff'])
def test_resuming_drops_later_and_torn_lines(tmp_path, torn):
  path = tmp_path / 'metrics.jsonl'
  rows = [{'note': 'start'}] + [{'step': s, 'x': s * 2} for s in (10, 20, 30)]
  path.write_text(''.join(json.dumps(r) + '\n' for r in rows) + torn)
  with metrics_log.MetricsLog(tmp_path, first_step=20) as log:
    log.write({'step': 25, 'x': 1})
  want = rows[:3] + [{'step': 25, 'x': 1}]
  assert [json.loads(line) for line in path.read_text().splitlines()] == want


def test_a_fresh_start_empties_the_log(tmp_path):
  with metrics_log.MetricsLog(tmp_path) as log:
    log.write({'step': 5})
  with metrics_log.MetricsLog(tmp_path, first_step=0):
    pass
  assert (tmp_path / 'metrics.jsonl').read_text() == ''


def _events(folder):
  """TensorBoard's events in order: records of length, check, bytes, check."""
  from tensorboardX.proto import event_pb2

  found = []
  for path in sorted(folder.iterdir()):
    content, at = path.read_bytes(), 0
    while at < len(content):
      (size,) = struct.unpack_from('<Q', content, at)
      event = event_pb2.Event()
      event.ParseFromString(content[at + 12 : at + 12 + size])
      found.append(event)
      at += 12 + size + 4
  return found


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_tensorboard_reads_back(tmp_path):
  first = (0, [(10, 0.5), (20, 0.25)])
  resumed = (10, [(20, 0.125)])  # step 20 was lost and is done again
  for first_step, rows in (first, resumed):
    with metrics_log.MetricsLog(
        tmp_path, options(tensorboard=True), first_step=first_step
    ) as log:
      for step, loss in rows:
        log.write({'step': step, 'loss': loss, 'levels': [1, 2]})
      log.image(rows[-1][0], 'view', np.full((4, 5, 3), 200, np.uint8))
  scalars, images, restarts = [], [], []
  for event in _events(tmp_path / 'tensorboard'):
    if event.HasField('session_log'):
      restarts.append(event.step)
    for value in event.summary.value:
      if value.HasField('image'):
        images.append((value.tag, value.image.height, value.image.width))
      else:
        scalars.append((event.step, value.tag, value.simple_value))
  assert scalars == [
      (10, 'loss', 0.5), (20, 'loss', 0.25), (20, 'loss', 0.125)
  ]  # fmt: skip
  assert images == [('view', 4, 5)] * 2
  # TensorBoard hides what lies at or behind the step of a restart.
  assert restarts == [11]


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_tensorboard_only_when_asked(tmp_path):
  with metrics_log.MetricsLog(tmp_path, options()) as log:
    log.write({'step': 1, 'loss': 0.5})
  assert not (tmp_path / 'tensorboard').exists()
  with metrics_log.MetricsLog(tmp_path, options(tensorboard=True)) as log:
    log.write({'step': 1, 'loss': 0.5, 'text': 'no scalar'})
    log.image(1, 'view', np.zeros((4, 5, 3), np.uint8))
  events = b''.join(
      p.read_bytes() for p in (tmp_path / 'tensorboard').iterdir()
  )
  assert b'loss' in events and b'view' in events and b'no scalar' not in events


def test_wandb_is_optional(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(errors.InputError, match='wandb is not installed'):
    metrics_log.MetricsLog(tmp_path, options(wandb_project='city'))


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
  calls = []

  class Run:
    id = 'abc'
    log = lambda self, values, step: calls.append((step, values))
    finish = lambda self: calls.append('finish')

  def init(**keywords):
    calls.append((keywords['id'], keywords['project']))
    return Run()

  fake = types.SimpleNamespace(init=init)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  for step in (1, 2):
    with metrics_log.MetricsLog(
        tmp_path, options(wandb_project='city'), first_step=step - 1
    ) as log:
      log.write({'step': step, 'loss': 0.5, 'levels': [1, 2]})
  assert calls == [
      (None, 'city'),
      (1, {'loss': 0.5}),
      'finish',
      ('abc', 'city'),
      (2, {'loss': 0.5}),
      'finish',
  ]
