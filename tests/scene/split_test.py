"""Train, validation and test photos."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.scene import split

NAMES = tuple(f'{i:02d}.jpg' for i in range(20))


def test_every_eighth_by_name():
  got = split.split_photos(NAMES)
  assert got.test.tolist() == [0, 8, 16]
  assert got.train.tolist() == [i for i in range(20) if i % 8]
  assert not len(got.validation)


def test_every_and_none():
  assert split.split_photos(NAMES, test_every=5).test.tolist() == [0, 5, 10, 15]
  got = split.split_photos(NAMES, test_every=0)
  assert not len(got.test) and len(got.train) == 20


def test_validation():
  got = split.split_photos(NAMES, validation_every=4)
  assert not np.intersect1d(got.validation, got.test).size
  assert not np.intersect1d(got.validation, got.train).size
  assert len(got.validation) == 4 and len(got.train) == 13


def test_lists_by_file_and_tuple(tmp_path):
  (tmp_path / 'test.txt').write_text('# held out\n03.jpg\n\n 01.jpg \n')
  got = split.split_photos(NAMES, test_list=tmp_path / 'test.txt')
  assert got.test.tolist() == [1, 3]
  assert got.train.tolist() == [0, 2] + list(range(4, 20))
  got = split.split_photos(
      NAMES, train_list=('05.jpg', '08.jpg'), test_list=('02.jpg',)
  )
  assert got.train.tolist() == [5, 8] and got.test.tolist() == [2]
  got = split.split_photos(NAMES, train_list=('05.jpg', '08.jpg'))
  assert got.train.tolist() == [5, 8] and got.test.tolist() == [0, 16]
  got = split.split_photos(NAMES, validation_list=('00.jpg', '01.jpg'))
  assert got.validation.tolist() == [0, 1] and got.test.tolist() == [8, 16]


def test_known_absent_names_are_skipped():
  got = split.split_photos(
      NAMES, test_list=('01.jpg', 'gone.jpg'), absent=['gone.jpg']
  )
  assert got.test.tolist() == [1]


@pytest.mark.parametrize(
    'options, message',
    [
        (
            {'test_list': ('01.jpg', 'x.jpg', 'y')},
            "test_list: got 'x.jpg' and 1",
        ),
        ({'test_list': '/nowhere.txt'}, '/nowhere.txt: got No such file'),
        (
            {'test_list': ('01.jpg',), 'train_list': ('01.jpg', '02.jpg')},
            'split: got 01.jpg in train and test',
        ),
        ({'test_every': 1}, '0 of 20 photos to train on'),
        ({'train_list': ()}, '0 of 20 photos to train on'),
    ],
)
def test_bad_lists(options, message):
  with pytest.raises(errors.InputError, match=message):
    split.split_photos(NAMES, **options)
