"""Coarse pictures first, the final one last."""

import numpy as np
import pytest

from infnerf_jax.render import progressive


def test_levels_fall_to_the_final_picture():
  asked = []

  def render(pyramid_level):
    asked.append(pyramid_level)
    return np.zeros(2 ** (4 - pyramid_level))

  steps = list(
      progressive.coarse_to_fine(render, levels=(3, 1, 0), pyramid_level=1)
  )
  assert asked == [4, 2, 1]
  assert [step.is_final for step in steps] == [False, False, True]
  seconds = [step.seconds for step in steps]
  assert seconds == sorted(seconds)


@pytest.mark.parametrize('levels', [(0, 1), (2, 1), (1, 1, 0)])
def test_other_orders_are_refused(levels):
  with pytest.raises(ValueError, match='expected falling ones to 0'):
    next(progressive.coarse_to_fine(lambda **_: None, levels=levels))
