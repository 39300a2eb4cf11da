"""Round trip and refusals of cameras.npz."""

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_io


def _cameras():
  return cameras_lib.stack(
      [
          cameras_lib.make_camera(
              focal=(500.0, 501.0),
              width=64 + i,
              height=48,
              cam_to_world=cameras_lib.look_at([i, 2e6, 1 / 3], [0, 2e6, 0]),
              distortion=(0.1, 0.01, 1e-3),
              projection=i,
          )
          for i in range(3)
      ]
  )


def test_round_trip_keeps_every_bit(tmp_path):
  names = ('a.jpg', 'flight 1/b.jpg', 'Überflug.png')
  camera_io.save_cameras(tmp_path / 'cameras.npz', names, _cameras())
  loaded_names, loaded = camera_io.load_cameras(tmp_path / 'cameras.npz')
  assert loaded_names == names
  for field, value in _cameras()._asdict().items():
    np.testing.assert_array_equal(getattr(loaded, field), value)
    assert getattr(loaded, field).dtype == value.dtype


def test_refusals_name_the_file(tmp_path):
  with pytest.raises(errors.InputError, match='cameras.npz: no such file'):
    camera_io.load_cameras(tmp_path / 'cameras.npz')
  (tmp_path / 'empty.npz').write_bytes(b'')
  with pytest.raises(errors.InputError, match='empty.npz: cannot be read'):
    camera_io.load_cameras(tmp_path / 'empty.npz')
  np.savez(tmp_path / 'odd.npz', names=np.array(['a']), **_cameras()._asdict())
  with pytest.raises(
      errors.InputError,
      match=r'odd.npz: projection: got shape \(3,\), expected \(1,\)',
  ):
    camera_io.load_cameras(tmp_path / 'odd.npz')
  with pytest.raises(ValueError, match='2 names, 3 cameras'):
    camera_io.save_cameras(tmp_path / 'x.npz', ('a', 'b'), _cameras())
