"""Photos laid on the surface model of the exact city."""

import numpy as np

from infnerf_jax.accuracy import capture_maps, exact_pixels
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame
from infnerf_jax.products import orthophoto
from infnerf_jax.scene import city as city_lib

_OFFSET = np.array([512_000.0, 5_412_000.0, 200.0])
_FRAME = map_frame.make_frame(
    {
        'offset': _OFFSET,
        'rotation': np.eye(3),
        'coordinate_system': 'EPSG:32633',
    }
)


def test_photos_and_points_of_the_city_agree_with_its_map(tmp_path):
  pixels, gsd = exact_pixels.CityPixels(72.0), 0.15
  job = orthophoto.plan_map(pixels, _FRAME, gsd=gsd)
  path = tmp_path / 'a.tif'
  orthophoto.write_map(job, path, show_progress=False)
  camera = cameras_lib.make_camera(
      focal=400, width=480, height=360,
      cam_to_world=cameras_lib.look_at([3, -2, 55], [4, -1, 0], (0, 1, 0)),
  )  # fmt: skip
  view = city_lib.render(pixels.city, camera, supersampling=2)
  rgb = np.round(255 * view.rgb).astype(np.uint8)
  found = capture_maps.compare_photo(path, _FRAME, camera, rgb, 1.0, gsd)
  assert np.linalg.norm(found['shift']) < 0.3 * gsd
  assert found['psnr'] > 22
  np.testing.assert_allclose(
      found['place'] - _OFFSET[:2], [3, -2], atol=0.3 * gsd
  )
  # A camera that is believed to be 0.6 m east of where it was.
  pose = camera.cam_to_world.copy()
  pose[0, 3] += 0.6
  moved = capture_maps.compare_photo(
      path, _FRAME, camera._replace(cam_to_world=pose), rgb, 1.0, gsd
  )
  np.testing.assert_allclose(moved['shift'], [-0.6, 0], atol=0.3 * gsd)
  # Photos that look aside do not show what is below them.
  flat = camera._replace(
      cam_to_world=cameras_lib.look_at([3, -2, 55], [60, -2, 0])
  )
  assert capture_maps.compare_photo(path, _FRAME, flat, rgb, 1.0, gsd) is None
