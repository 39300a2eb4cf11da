"""Groups of photos are a partition; batches do not depend on the parts."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.scene import photo_groups, pyramid, ray_batches, readers
from tests.scene import builders

_OPTIONS = ray_batches.BatchOptions(
    num_rays=48, pyramid_ray_share=(0.8, 0.2), detail_candidates=3
)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scene')
  builders.infnerf(folder, num_photos=7)
  scene = readers.load_scene(folder)
  return pyramid.build(
      scene, folder / 'cache', num_levels=2, show_progress=False
  )[0]


def test_groups_are_a_partition_of_the_photos():
  rows = np.array([2, 3, 5, 7, 11, 13, 17])
  groups = photo_groups.group_photos(rows, 3, seed=1)
  np.testing.assert_array_equal(np.sort(np.concatenate(groups)), rows)
  assert [len(g) for g in groups] == [3, 2, 2]
  again = photo_groups.group_photos(rows, 3, seed=1)
  for a, b in zip(groups, again, strict=True):
    np.testing.assert_array_equal(a, b)
  with pytest.raises(errors.InputError, match='photo_groups: got 8'):
    photo_groups.group_photos(rows, 8, seed=1)


def test_one_group_is_the_batch_itself(photos):
  groups = photo_groups.group_photos(np.arange(7), 1, 0)
  want = ray_batches.sample_batch(photos, np.arange(7), _OPTIONS, 5)
  got = photo_groups.sample_rays(photos, groups, _OPTIONS, 5)
  part = photo_groups.sample_rays(
      photos, groups, _OPTIONS, 5, rays=slice(12, 24)
  )
  for a, b, c in zip(got, want, part, strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(c, b[12:24])


@pytest.mark.parametrize('num_parts', [1, 2, 3, 6])
def test_parts_make_the_batch_and_hold_their_own_photos(
    photos, num_parts, monkeypatch
):
  groups = photo_groups.group_photos(np.arange(7), 3, 0)
  whole = photo_groups.sample_rays(photos, groups, _OPTIONS, 2)
  size = 48 // num_parts
  parts, real = [], pyramid.gather
  for part in range(num_parts):
    asked = []

    def gather(pyramid_, photo_idx, *rest, asked=asked):
      asked.append(photo_idx)
      return real(pyramid_, photo_idx, *rest)

    monkeypatch.setattr(pyramid, 'gather', gather)
    rays = slice(part * size, (part + 1) * size)
    parts.append(
        photo_groups.sample_rays(photos, groups, _OPTIONS, 2, rays=rays)
    )
    own = [groups[g] for g in range(3) if 16 * g < rays.stop
           and 16 * (g + 1) > rays.start]  # fmt: skip
    assert set(np.concatenate(asked)) <= set(np.concatenate(own))
  for name in whole._fields:
    np.testing.assert_array_equal(
        np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name)
    )
