"""The profiler: times of what it wraps, peaks of where they arise."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infnerf_jax import profiler


def test_times_and_rates():
  sections = profiler.Profiler()
  for _ in range(3):
    with sections.profile('sleep'):
      time.sleep(0.02)
  with sections.profile('nothing'):
    pass
  slow, fast = sections.rows()
  assert (slow.name, slow.calls, fast.calls) == ('sleep', 3, 1)
  assert 20 <= slow.min_ms <= slow.mean_ms < 500
  assert fast.mean_ms < 5
  assert slow.frames_per_second == pytest.approx(1000 / slow.mean_ms)
  lines = sections.summary().splitlines()
  assert len(lines) == 3 and 'mean ms' in lines[0] and 'frames/s' in lines[0]
  assert lines[1].startswith('sleep') and f'{slow.mean_ms:.2f}' in lines[1]


def test_block_waits_for_the_result():
  @jax.jit
  def busy(x):
    return jax.lax.fori_loop(0, 60, lambda _, y: y @ x / 500, x)

  x = jnp.ones((500, 500))
  busy(x).block_until_ready()
  start = time.perf_counter()
  busy(x).block_until_ready()
  seconds = time.perf_counter() - start
  sections = profiler.Profiler()
  with sections.profile('busy') as section:
    result = section.block({'a': busy(x)})
  assert result['a'].is_ready()
  assert sections.rows()[0].mean_ms > 1e3 * seconds / 10


@pytest.mark.skipif(
    not profiler._CLEAR.exists(), reason='the system keeps one mark a process'
)
def test_peaks_belong_to_their_sections():
  sections = profiler.Profiler()
  with sections.profile('outer'):
    with sections.profile('large'):
      block = np.ones(25_000_000)  # 200 MB
      del block
    with sections.profile('small'):
      np.ones(1000)
  peaks = {row.name: row.peak_bytes for row in sections.rows()}
  assert peaks['outer'] >= peaks['large'] > peaks['small'] + 150e6


def test_what_raises_is_not_counted():
  sections = profiler.Profiler()
  with pytest.raises(KeyError):
    with sections.profile('bad'):
      raise KeyError('x')
  with sections.profile('good'):
    pass
  assert [row.name for row in sections.rows()] == ['good']
  sections.reset()
  assert sections.rows() == [] and len(sections.summary().splitlines()) == 1


def test_module_functions_share_one_profiler():
  profiler.reset()
  with profiler.profile('frame'):
    pass
  assert profiler.rows()[0].name == 'frame' and 'frame' in profiler.summary()
  profiler.reset()
