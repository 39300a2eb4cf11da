"""One way into every scene format."""

import pathlib
from typing import Callable, NamedTuple

from infnerf_jax import errors
from infnerf_jax.scene import colmap, infnerf_format, transforms, validate
from infnerf_jax.scene.importers import (
    mega_nerf,
    metashape,
    mip_nerf_360,
    open_drone_map,
    reality_capture,
)
from infnerf_jax.scene.scene import Scene


class Found(NamedTuple):
  """A scene on disk.

  Attributes:
    format: its name.
    path: what the format's reader takes.
    read: that reader.
  """

  format: str
  path: pathlib.Path
  read: Callable[[pathlib.Path], validate.Draft]


_EXPORTS = (
    ('metashape', '*.xml', metashape),
    ('reality_capture', '*.csv', reality_capture),
)


def find_scene(path) -> Found:
  """What a path holds; the first of the formats that fits.

  Args:
    path: scene folder, or the file that lists its photos (cameras.json,
      transforms.json, Metashape's XML, RealityCapture's CSV).

  Returns:
    Found.

  Raises:
    InputError: no such path, none of the formats, or several exports of which
      none is named.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise errors.InputError(
        f'{path}: got no such folder, expected a scene folder'
    )
  found = _of_file(path) if path.is_file() else _of_folder(path)
  if found is None:
    raise errors.InputError(
        f'{path}: got no scene, expected cameras.json (InfNeRF), '
        'transforms.json (nerfstudio, instant-ngp), a COLMAP model (cameras, '
        'images and points3D as .bin or .txt in sparse/0, sparse or the '
        f'folder), {open_drone_map.FILE} (OpenDroneMap), {mega_nerf.FILE} '
        "(Mega-NeRF), Metashape's cameras (.xml) or RealityCapture's (.csv)"
    )
  return found


def _of_file(path: pathlib.Path) -> Found | None:
  if path.name == infnerf_format.FILE:
    return Found('infnerf', path.parent, infnerf_format.read)
  if path.name.startswith('transforms') and path.suffix == '.json':
    return Found('transforms', path, transforms.read)
  for name, _, module in _EXPORTS:
    if module.is_export(path):
      return Found(name, path, module.read)
  raise errors.InputError(
      f'{path}: got a file, expected a scene folder, {infnerf_format.FILE}, '
      f"{transforms.FILE}, Metashape's cameras (.xml) or RealityCapture's "
      '(.csv)'
  )


def _of_folder(path: pathlib.Path) -> Found | None:
  if (path / infnerf_format.FILE).is_file():
    return Found('infnerf', path, infnerf_format.read)
  if (path / transforms.FILE).is_file():
    return Found('transforms', path / transforms.FILE, transforms.read)
  if (path / open_drone_map.FILE).is_file():
    return Found('open_drone_map', path, open_drone_map.read)
  if (path / mega_nerf.FILE).is_file():
    return Found('mega_nerf', path, mega_nerf.read)
  if mip_nerf_360.photo_folder(path) is not None:
    return Found('mip_nerf_360', path, mip_nerf_360.read)
  if colmap.find_models(path):
    return Found('colmap', path, colmap.read)
  for name, pattern, module in _EXPORTS:
    files = [p for p in sorted(path.glob(pattern)) if module.is_export(p)]
    if len(files) > 1:
      raise errors.InputError(
          f'{path}: got {len(files)} exports ({files[0].name}, '
          f'{files[1].name}), expected the name of one'
      )
    if files:
      return Found(name, files[0], module.read)
  return None


def detect_format(path) -> str:
  """Name of a scene's format, see `find_scene`."""
  return find_scene(path).format


def load_scene(path) -> Scene:
  """Reads a scene of any supported format; photos are not decoded yet.

  Args:
    path: see `find_scene`.

  Returns:
    Scene: photos that exist, in order of name, with checked cameras.

  Raises:
    InputError: one line that names file, field, found and expected.
  """
  found = find_scene(path)
  return validate.finish(found.read(found.path))
