"""Scenes joined in one frame."""

import json

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.scene import joining
from tests.scene import builders


def _scene(folder, frame=None, **options):
  builders.infnerf(folder, **options)
  if frame is not None:
    (folder / 'scene.json').write_text(json.dumps(frame))
  return folder


def test_alone_a_scene_is_what_it_was(tmp_path):
  joined = joining.load_scenes(_scene(tmp_path / 'a'), ())
  assert joined.parts == (joined.scene,)


def test_photos_of_extra_scenes_follow_under_their_folders_name(tmp_path):
  first = _scene(tmp_path / 'a', num_photos=3)
  second = _scene(tmp_path / 'b' / 'field', num_photos=2)
  third = _scene(tmp_path / 'c' / 'field', num_photos=2)
  joined = joining.load_scenes(first, (str(second), str(third)))
  assert joined.scene.photos.names == (
      '00.png', '01.png', '02.png', 'field/00.png', 'field/01.png',
      'field-2/00.png', 'field-2/01.png',
  )  # fmt: skip
  assert joined.scene.photos.paths[5] == third / 'images' / '00.png'
  assert len(joined.scene.points.positions) == 60
  assert joined.scene.visibility is None
  kept = joining.select_photos(joined, [0, 2, 3, 6])
  assert [len(p.photos.names) for p in kept.parts] == [2, 1, 1]
  assert kept.scene.photos.names[-1] == 'field-2/01.png'


def test_offsets_of_one_map_are_made_up_for(tmp_path):
  utm = 'EPSG:32632'
  frame = lambda *offset: {'coordinate_system': utm, 'offset': offset}
  first = _scene(tmp_path / 'a', frame(100.0, 200.0, 5.0))
  second = _scene(tmp_path / 'b', frame(103.0, 198.0, 5.0))
  joined = joining.load_scenes(first, (str(second),))
  shift = [3.0, -2.0, 0.0]
  pose = np.asarray(joined.scene.cameras.cam_to_world)
  np.testing.assert_allclose(pose[4:, :, 3], pose[:4, :, 3] + shift)
  points = joined.scene.points.positions
  np.testing.assert_allclose(points[20:], points[:20] + shift)
  assert joined.scene.frame['offset'] == [100.0, 200.0, 5.0]


@pytest.mark.parametrize(
    'field, value',
    [
        ('coordinate_system', 'EPSG:32633'),
        ('rotation', [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    ],
)
def test_other_frames_are_refused_in_one_line(tmp_path, field, value):
  frame = {'coordinate_system': 'EPSG:32632', 'offset': [0.0, 0.0, 0.0]}
  first = _scene(tmp_path / 'a', frame)
  second = _scene(tmp_path / 'b', {**frame, field: value})
  with pytest.raises(errors.InputError, match=f'extra_paths.*b: {field}') as e:
    joining.load_scenes(first, (str(second),))
  assert '\n' not in str(e.value)


def test_visibility_is_joined_where_all_parts_have_it(tmp_path):
  first = joining.load_scenes(builders.colmap(tmp_path / 'a')[0], ()).scene
  joined = joining.load_scenes(
      tmp_path / 'a', (str(builders.colmap(tmp_path / 'b')[0]),)
  ).scene
  count = len(first.photos.names)
  seen = first.visibility
  np.testing.assert_array_equal(
      joined.visibility.photo_idx,
      np.concatenate([seen.photo_idx, seen.photo_idx + count]),
  )
  points = len(first.points.positions)
  assert joined.visibility.offsets[points] == len(seen.photo_idx)
  assert joined.visibility.offsets[-1] == 2 * len(seen.photo_idx)
