"""Train, validation and test photos."""

import pathlib
from typing import NamedTuple

import numpy as np

from infnerf_jax import errors


class Split(NamedTuple):
  """Rows of photos in order of name, each [M] int64 and increasing.

  Attributes:
    train: photos that training sees.
    validation: photos scored during training.
    test: photos scored at the end.
  """

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def read_list(path) -> tuple[str, ...]:
  """Names from a text file, one a line; empty lines and `#` lines are skipped.

  Args:
    path: file.

  Returns:
    Names.

  Raises:
    InputError: unreadable.
  """
  try:
    text = pathlib.Path(path).read_text(encoding='utf-8-sig')
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or 'not a text file'
    raise errors.InputError(
        f'{path}: got {reason}, expected a list of photo names'
    ) from None
  lines = (line.strip() for line in text.splitlines())
  return tuple(line for line in lines if line and not line.startswith('#'))


def _rows(names, listed, *, field: str, absent) -> np.ndarray:
  """Rows of listed names; those known to be absent or damaged are skipped."""
  if isinstance(listed, (str, pathlib.Path)):
    field, listed = str(listed), read_list(listed)
  row_of = {name: row for row, name in enumerate(names)}
  unknown = [n for n in listed if n not in row_of and n not in absent]
  if unknown:
    raise errors.InputError(
        f'{field}: got {unknown[0]!r}'
        + (f' and {len(unknown) - 1} more' if len(unknown) > 1 else '')
        + f' not in the scene, expected names such as {names[0]!r}'
    )
  rows = [row_of[name] for name in listed if name in row_of]
  return np.unique(np.array(rows, np.int64))


def split_photos(
    names,
    *,
    test_every: int = 8,
    train_list=None,
    test_list=None,
    validation_list=None,
    validation_every: int = 0,
    absent=(),
) -> Split:
  """Splits photos: every `test_every`th by name is for testing, or by lists.

  Args:
    names: names of the usable photos, in order.
    test_every: photos with index % test_every == 0 are tested; 0: none.
    train_list: names, or a file of names, to train on; default all that are
      neither tested nor validated.
    test_list: names, or a file of names; overrides `test_every`.
    validation_list: names, or a file of names.
    validation_every: of the photos left, those with index % n == n // 2 are
      for validation; 0: none.
    absent: names that the scene lists but could not use; lists may name them.

  Returns:
    Split.

  Raises:
    InputError: unknown names, a photo both trained and tested, nothing left
      to train on.
  """
  count, absent = len(names), set(absent)
  rows = lambda listed, field: _rows(names, listed, field=field, absent=absent)
  given = {
      field: rows(listed, field)
      for field, listed in (
          ('train_list', train_list),
          ('validation_list', validation_list),
          ('test_list', test_list),
      )
      if listed is not None
  }
  empty = np.zeros(0, np.int64)
  left = np.arange(count)
  if 'test_list' in given:
    test = given['test_list']
  else:
    test = np.arange(0, count, test_every) if test_every else empty
    test = np.setdiff1d(test, given.get('train_list', empty))
    test = np.setdiff1d(test, given.get('validation_list', empty))
  left = np.setdiff1d(left, test)
  if 'validation_list' in given:
    validation = given['validation_list']
  else:
    free = np.setdiff1d(left, given.get('train_list', empty))
    every = validation_every
    validation = free[every // 2 :: every] if every else empty
  left = np.setdiff1d(left, validation)
  train = given.get('train_list', left)
  _check(names, train, validation, test)
  return Split(train=train, validation=validation, test=test)


def _check(names, train, validation, test) -> None:
  pairs = (
      ('train', train, 'test', test),
      ('train', train, 'validation', validation),
      ('validation', validation, 'test', test),
  )
  for first, a, second, b in pairs:
    both = np.intersect1d(a, b)
    if len(both):
      raise errors.InputError(
          f'split: got {names[both[0]]} in {first} and {second}, expected each '
          'photo in one of them'
      )
  if not len(train):
    raise errors.InputError(
        f'split: got 0 of {len(names)} photos to train on, expected at least 1'
    )
