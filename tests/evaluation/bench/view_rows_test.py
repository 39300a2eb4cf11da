"""Rows of how soon a browser shows a run."""

import types

import pytest

from infnerf_jax.evaluation.bench import chromium, view_rows
from tests.viewer import tiny_run


@pytest.mark.parametrize('seconds, passed', [(1.9, True), (2.1, False)])
def test_the_median_is_held_against_the_promise(seconds, passed):
  found = [
      {
          'start': 4.0,
          'first_page': first,
          'second_page': 1.0,
          'first_page_live': 3.0,
          'second_page_live': 2.0,
      }
      for first in (0.5, seconds, 9.0)
  ]
  first, second, *live, start = view_rows.rows(found)
  assert first.name == 'view/first picture/wall' and first.value == seconds
  assert first.passed is passed and first.rule == '<='
  others = (second, *live, start)
  assert [row.value for row in others] == [1.0, 3.0, 2.0, 4.0]
  assert all(row.passed is None for row in others)
  assert first.detail == {'seconds': [0.5, seconds, 9.0]}


def test_without_a_run_nothing_is_measured():
  (row,) = view_rows.run(types.SimpleNamespace(scene=None))
  assert row.value is None and '--workdir' in row.note


@pytest.mark.slow
@pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing() or '-')
def test_chromium_sees_a_run(tmp_path):
  """The whole way; its figures are those of a machine at rest."""
  scene = types.SimpleNamespace(workdir=tiny_run.make_run(tmp_path / 'run'))
  rows = view_rows.run(types.SimpleNamespace(scene=scene, tiny=True))
  seconds = {row.name: row.value for row in rows}
  first = seconds['view/first picture/wall']
  assert 0 < first < seconds['view/picture that moves/wall']
  assert rows[0].passed == (first <= 2)
