"""Popping is the change of the error, not of the picture."""

import numpy as np

from infnerf_jax.evaluation import popping


def test_a_jump_is_found_and_motion_is_not():
  rng = np.random.default_rng(0)
  truth = rng.uniform(size=(6, 4, 5, 3))
  still = truth + 0.1
  np.testing.assert_allclose(
      popping.unexplained_changes(still, truth), 0, atol=1e-12
  )
  jump = still.copy()
  jump[3:] += 0.25
  steps = popping.unexplained_changes(jump, truth)
  np.testing.assert_allclose(steps, [0, 0, 0.25, 0, 0], atol=1e-12)
  found = popping.measure(jump, truth)
  assert found['largest'] == max(found['steps']) and found['peak'] > 100
  expected = -10 * np.log10(np.mean(np.square(jump - truth)))
  assert found['psnr'] == expected
