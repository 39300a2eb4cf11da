"""The reference holds every field, and docs/configuration.md is up to date."""

import pathlib

import ml_collections

from configs import common
from infnerf_jax import config_reference

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _small():
  config = ml_collections.ConfigDict()
  config.alone = 1
  # Above it
  # in two lines.
  config.above = 0.5  # beside
  config.part = part = ml_collections.ConfigDict()
  part.shape = (1, 2)  # a | b
  return config


def test_comments_go_to_their_fields():
  fields = config_reference.read_fields(_small)
  assert fields == [
      ('alone', 1, ''),
      ('above', 0.5, 'Above it in two lines. beside'),
      ('part.shape', (1, 2), 'a | b'),
  ]


def test_every_field_is_there():
  fields = config_reference.read_fields(common.base)
  found = {field.key: field.default for field in fields}
  assert found == config_reference.flatten(common.base())
  assert sum(bool(field.comment) for field in fields) > 0.4 * len(fields)


def test_document_is_up_to_date():
  path = _ROOT / 'docs' / 'configuration.md'
  expected = config_reference.document_folder(_ROOT / 'configs')
  assert (
      path.read_text(encoding='utf-8') == expected
  ), 'run python -m experiments.configuration'
  assert '| `part' not in expected and '### `configs/aerial.py`' in expected
