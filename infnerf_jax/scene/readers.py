"""One way into every scene format."""

import pathlib

from infnerf_jax import errors
from infnerf_jax.scene import colmap, infnerf_format, transforms, validate
from infnerf_jax.scene.scene import Scene


def detect_format(path) -> str:
  """'infnerf', 'transforms' or 'colmap', in this order where several fit.

  Args:
    path: scene folder, or its cameras.json or transforms.json.

  Returns:
    Name of the format.

  Raises:
    InputError: no such folder, or none of the formats.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise errors.InputError(
        f'{path}: got no such folder, expected a scene folder'
    )
  if path.is_file():
    if path.name == infnerf_format.FILE:
      return 'infnerf'
    if path.name.startswith('transforms') and path.suffix == '.json':
      return 'transforms'
    raise errors.InputError(
        f'{path}: got a file, expected a scene folder, '
        f'{infnerf_format.FILE} or {transforms.FILE}'
    )
  if (path / infnerf_format.FILE).is_file():
    return 'infnerf'
  if (path / transforms.FILE).is_file():
    return 'transforms'
  if colmap.find_models(path):
    return 'colmap'
  raise errors.InputError(
      f'{path}: got no scene, expected cameras.json (InfNeRF), '
      'transforms.json (nerfstudio, instant-ngp) or a COLMAP model (cameras, '
      'images and points3D as .bin or .txt in sparse/0, sparse or the folder)'
  )


def load_scene(path) -> Scene:
  """Reads a scene of any supported format; photos are not decoded yet.

  Args:
    path: scene folder, or its cameras.json or transforms.json.

  Returns:
    Scene: photos that exist, in order of name, with checked cameras.

  Raises:
    InputError: one line that names file, field, found and expected.
  """
  path = pathlib.Path(path)
  kind = detect_format(path)
  if kind == 'infnerf':
    draft = infnerf_format.read(path.parent if path.is_file() else path)
  elif kind == 'transforms':
    draft = transforms.read(path if path.is_file() else path / transforms.FILE)
  else:
    draft = colmap.read(path)
  return validate.finish(draft)
