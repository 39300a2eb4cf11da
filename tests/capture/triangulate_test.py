"""Points for scenes that have poses alone, on pictures of the city."""

import numpy as np
import PIL.Image
import pytest

from infnerf_jax import errors
from infnerf_jax.capture import structure, triangulate
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from infnerf_jax.scene import readers, write


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
  """Six nadir photos of the city with exact poses and no points."""
  folder = tmp_path_factory.mktemp('city')
  city = city_lib.make_city(extent=60.0)
  entries = {}
  (folder / 'images').mkdir()
  for i in range(6):
    center = np.array([-8.0 + 5 * i, 3.0 * (i % 2), 45.0])
    camera = cameras_lib.make_camera(
        focal=400, width=480, height=360,
        cam_to_world=cameras_lib.look_at(center, center * [1.05, 1, 0]),
        distortion=(0.01, -0.002) if i % 2 else (),
    )  # fmt: skip
    view = city_lib.render(city, camera, supersampling=2, with_depth=False)
    rgb = np.round(255 * np.clip(view.rgb, 0, 1)).astype(np.uint8)
    PIL.Image.fromarray(rgb).save(folder / 'images' / f'{i}.png')
    entries[f'{i}.png'] = camera
  table = cameras_lib.stack(list(entries.values()))
  draft = readers.Scene(
      photos=_photos(folder, entries), cameras=table, points=None,
      visibility=None, frame={}, report={},
  )  # fmt: skip
  return draft, city


def _photos(folder, names):
  from infnerf_jax.scene import scene as scene_lib

  paths = tuple(folder / 'images' / name for name in names)
  return scene_lib.Photos(tuple(names), paths, (None,) * len(paths))


@pytest.mark.slow
def test_points_lie_on_the_city(scene, tmp_path):
  scene, city = scene
  found = triangulate.add_points(
      scene, tmp_path / 'work', structure.Options(480, 1000, 2)
  )
  assert len(found.points.positions) > 100
  assert np.diff(found.visibility.offsets).min() >= 2
  # Poses are as they were, points where rays through them meet the city.
  for name in ('cam_to_world', 'intrinsics'):
    np.testing.assert_array_equal(
        getattr(found.cameras, name), getattr(scene.cameras, name)
    )
  offsets, photo_idx = found.visibility
  errors_m = []
  for p in range(0, len(found.points.positions), 5):
    row = photo_idx[offsets[p]]
    origin = scene.cameras.cam_to_world[row, :, 3]
    ray = found.points.positions[p] - origin
    distance = np.linalg.norm(ray)
    view = city_lib.render_rays(
        city, origin[None], (ray / distance)[None], np.array([1e-3])
    )
    errors_m.append(abs(float(view.depth[0]) - distance))
  # A pixel is 0.11 m on the ground.
  assert np.median(errors_m) < 0.2
  write.write_infnerf(found, tmp_path / 'out', show_progress=False)
  assert readers.load_scene(tmp_path / 'out').report['visibility'] == 'source'


def test_a_place_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(errors.InputError, match='can be written'):
    triangulate.add_points(
        None, tmp_path / 'file' / 'a', structure.Options()
    )
