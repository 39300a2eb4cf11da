"""Mega-NeRF's data; its tensors are read without PyTorch and run no code."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import readers
from infnerf_jax.scene.importers import torch_files
from tests.scene.importers import views

_TO_UP = np.array([[0, 1, 0], [0, 0, -1.0], [-1, 0, 0]])
_ORIGIN = np.array([12.0, 3.0, -7.0])
_SCALE = 25.0


class _Tensor:
  """An array that is pickled as PyTorch pickles a tensor."""

  def __init__(self, array, storage='FloatStorage', shape=None):
    self.array, self.storage, self.shape = array, storage, shape


@pytest.fixture
def names(monkeypatch):
  """Stand-ins for PyTorch's names, so that pickles can refer to them."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')

  def _rebuild_tensor_v2(*unused):
    raise AssertionError('only its name is pickled')

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  for name in ('FloatStorage', 'DoubleStorage', 'LongStorage'):
    kind = type(name, (), {'__module__': 'torch'})
    setattr(torch, name, kind)
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)
  return torch, utils


def _save(path, value, names, *, prefix='archive', compress=False):
  """Writes a value with _Tensor in it as torch.save does."""
  torch, utils = names
  storages = []

  class Pickler(pickle.Pickler):

    def reducer_override(self, item):
      if not isinstance(item, _Tensor):
        return NotImplemented
      array = np.ascontiguousarray(item.array)
      shape = item.shape or array.shape
      strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
      storages.append(array)
      key = types.SimpleNamespace(row=len(storages) - 1, item=item)
      arguments = (key, 0, tuple(map(int, shape)), strides, False)
      arguments += (collections.OrderedDict(),)
      return utils._rebuild_tensor_v2, arguments

    def persistent_id(self, item):
      if not isinstance(item, types.SimpleNamespace):
        return None
      kind = getattr(torch, item.item.storage)
      count = storages[item.row].size
      return ('storage', kind, str(item.row), 'cpu', count)

  buffer = io.BytesIO()
  Pickler(buffer, protocol=2).dump(value)
  path.parent.mkdir(parents=True, exist_ok=True)
  kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
  with zipfile.ZipFile(path, 'w', kind) as archive:
    archive.writestr(f'{prefix}/data.pkl', buffer.getvalue())
    for row, array in enumerate(storages):
      archive.writestr(f'{prefix}/data/{row}', array.tobytes())
    archive.writestr(f'{prefix}/version', '3\n')


def _write(folder, names):
  origin = {'origin_drb': _Tensor(_ORIGIN, 'DoubleStorage'),
            'pose_scale_factor': _SCALE}  # fmt: skip
  _save(folder / 'coordinates.pt', origin, names)
  for i, pose in enumerate(views.poses()):
    part = 'val' if i == 1 else 'train'
    # World: metres right, forward, up -> down, right, back, small.
    opengl = pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    center = (_TO_UP.T @ pose[:3, 3] - _ORIGIN) / _SCALE
    c2w = np.concatenate([_TO_UP.T @ opengl, center[:, None]], axis=1)
    content = {
        'H': 360, 'W': 480, 'c2w': _Tensor(c2w.astype(np.float32)),
        'intrinsics': _Tensor(np.float32([500, 501, 241, 179])),
        'distortion': _Tensor(np.float32([0.1])),
    }  # fmt: skip
    _save(folder / part / 'metadata' / f'{i:06d}.pt', content, names)
    views.photos(folder / part / 'rgbs', names=(f'{i:06d}.jpg',))
  return folder


def test_projects_as_it_says(tmp_path, names):
  scene = readers.load_scene(_write(tmp_path, names))
  assert scene.report['format'] == 'mega_nerf'
  order = [0, 2, 1]  # train, then val
  assert scene.photos.names[2] == 'val/000001.jpg'
  rotation, offset = scene.frame['rotation'], scene.frame['offset']
  world = (views.points() @ _TO_UP - offset) @ np.asarray(rotation).T
  for row, i in enumerate(order):
    local = views.local(views.poses()[i], views.points())
    expected = [241, 179] + np.array([500, 501]) * local[:, :2] / local[:, 2:]
    camera = cameras_lib.take(scene.cameras, row)
    found, _ = cameras_lib.project(camera, world)
    # The format keeps float32: 1e-7 of 25 units of scale at 20 m.
    np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.slow
def test_tensors_of_real_files(tmp_path):
  torch = pytest.importorskip('torch')
  value = {
      'a': torch.arange(12.0).reshape(3, 4).T,
      'b': [torch.tensor(3, dtype=torch.int64), 'text'],
      'c': torch.zeros(0),
  }
  torch.save(value, tmp_path / 'a.pt')
  found = torch_files.load(tmp_path / 'a.pt')
  np.testing.assert_array_equal(found['a'], value['a'].numpy())
  assert found['b'][0] == 3 and found['b'][1] == 'text'
  assert found['c'].shape == (0,)


class _Evil:

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, 'w')


@pytest.mark.parametrize(
    'where', ['coordinates.pt', 'train/metadata/000000.pt']
)
def test_code_is_never_run(tmp_path, names, where):
  folder = _write(tmp_path / 'in', names)
  trap = tmp_path / 'trap'
  _save(folder / where, {'origin_drb': _Evil(trap)}, names)
  with pytest.raises(errors.InputError, match='which is not read'):
    readers.load_scene(folder)
  assert not trap.exists()


def test_sizes_that_lie_are_refused(tmp_path, names, monkeypatch):
  path = tmp_path / 'a.pt'
  three = np.zeros(3, np.float32)
  _save(path, _Tensor(three, shape=(2, 2)), names)
  with pytest.raises(errors.InputError, match='larger than its bytes'):
    torch_files.load(path)
  _save(path, _Tensor(three, 'DoubleStorage'), names)
  with pytest.raises(errors.InputError, match='middle of a number'):
    torch_files.load(path)
  # Zeros that unpack to a hundred times their size.
  monkeypatch.setattr(torch_files, '_MAX_STORAGE', 100_000)
  zeros = np.zeros(10**5, np.float32)
  _save(path, _Tensor(zeros), names, compress=True)
  assert path.stat().st_size < 10_000
  with pytest.raises(errors.InputError, match='400000 bytes'):
    torch_files.load(path)


@pytest.mark.parametrize(
    'content', [b'', b'PK\x03\x04', pickle.dumps(1), struct.pack('<Q', 9)]
)
def test_damaged_files_are_one_line(tmp_path, content):
  path = tmp_path / 'coordinates.pt'
  path.write_bytes(content)
  with pytest.raises(errors.InputError, match='saved by PyTorch 1.6') as raised:
    readers.load_scene(tmp_path)
  assert '\n' not in str(raised.value)
