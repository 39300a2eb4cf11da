"""Writes scenes in the InfNeRF format; see `infnerf_format` for its fields."""

import contextlib
import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
from rich import progress as rich_progress

from infnerf_jax import errors, npz_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import (
    camera_models,
    colmap,
    decode,
    photo_files,
    ply,
    readers,
    validate,
)
from infnerf_jax.scene import scene as scene_lib


def write_infnerf(
    scene: scene_lib.Scene,
    out_dir,
    *,
    copy_photos: bool = True,
    overwrite: bool = False,
    show_progress: bool = True,
) -> pathlib.Path:
  """Writes a scene; reading it back gives the same scene.

  The folder appears when it is complete: a run that was killed leaves only
  `OUT.partial`, which the next one replaces.

  Args:
    scene: N photos.
    out_dir: folder to make; it may exist if it is empty.
    copy_photos: copy photos and masks; otherwise link to them.
    overwrite: replace a scene in the InfNeRF format.
    show_progress: draw a progress bar.

  Returns:
    The folder.

  Raises:
    InputError: the folder holds something, or cannot be written.
  """
  out_dir = pathlib.Path(out_dir)
  _check_target(scene, out_dir, overwrite)
  partial = out_dir.with_name(out_dir.name + '.partial')
  try:
    shutil.rmtree(partial, ignore_errors=True)
    (partial / 'images').mkdir(parents=True)
    masks = _place_photos(scene.photos, partial, copy_photos, show_progress)
    _dump(partial / 'cameras.json', _entries(scene, masks))
    _dump(partial / 'scene.json', {**scene.frame, 'report': scene.report})
    if scene.points is not None:
      ply.write(partial / 'sparse_points.ply', scene.points)
    if scene.visibility is not None:
      npz_files.write_npz_atomic(
          partial / 'visibility.npz',
          {
              'offsets': np.asarray(scene.visibility.offsets, np.int64),
              'photo_idx': np.asarray(scene.visibility.photo_idx, np.int32),
              'photo_names': np.array(scene.photos.names),
          },
      )
    if out_dir.exists():
      shutil.rmtree(out_dir)
    partial.rename(out_dir)
  except OSError as error:
    raise errors.InputError(
        f'{out_dir}: got {error.strerror or error}, expected a folder that can '
        'be written'
    ) from None
  return out_dir


def _check_target(scene, out_dir: pathlib.Path, overwrite: bool) -> None:
  """Refuses to replace anything but, if asked, an earlier scene."""
  if not out_dir.exists():
    return
  if not out_dir.is_dir():
    raise errors.InputError(f'{out_dir}: got a file, expected a folder')
  if not any(out_dir.iterdir()):
    return
  replaceable = overwrite and (out_dir / 'cameras.json').is_file()
  if not replaceable:
    raise errors.InputError(
        f'{out_dir}: got a folder that holds something, expected a new or '
        'empty one'
    )
  target = out_dir.resolve()
  for path in scene.photos.paths:
    if path.resolve().is_relative_to(target):
      raise errors.InputError(
          f'{out_dir}: got the folder of the source photos, expected another'
      )


def _place_photos(photos, partial, copy: bool, show_progress: bool):
  """Copies or links photos and masks; the masks' names in the new scene."""

  def place(source: pathlib.Path, target: pathlib.Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
      shutil.copy2(source, target)
    else:
      os.symlink(source.resolve(), target)

  masks = []
  rows = zip(photos.names, photos.paths, photos.mask_paths, strict=True)
  with _progress(len(photos.names), show_progress) as advance:
    for name, path, mask_path in rows:
      place(path, partial / 'images' / name)
      masks.append(None)
      if mask_path is not None:
        masks[-1] = f'masks/{name}{mask_path.suffix}'
        target = partial / masks[-1]
        if not decode.is_dynamic_mask(mask_path):
          place(mask_path, target)
        else:
          _invert_mask(mask_path, target, path)
      advance()
  return masks


def _invert_mask(source: pathlib.Path, target: pathlib.Path, photo) -> None:
  """Writes a mask of what counts from one of what does not."""
  try:
    with PIL.Image.open(source) as image:
      width, height = image.size
    mask = decode.read_mask(source, (height, width))
  except (OSError, decode.DamagedPhoto) as error:
    raise errors.InputError(
        f'{source}: got {photo_files.reason(error)}, expected the mask of'
        f' {photo.name}'
    ) from None
  target.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(mask.astype(np.uint8) * 255).save(target)


@contextlib.contextmanager
def _progress(total: int, show: bool):
  if not show:
    yield lambda: None
    return
  with rich_progress.Progress(
      rich_progress.TextColumn('writing photos'),
      rich_progress.BarColumn(),
      rich_progress.MofNCompleteColumn(),
  ) as bar:
    task = bar.add_task('photos', total=total)
    yield lambda: bar.advance(task)


def _entries(scene: scene_lib.Scene, masks) -> dict:
  """Content of cameras.json; JSON prints float64 so that it reads back."""
  entries = {}
  for row, name in enumerate(scene.photos.names):
    camera = cameras_lib.take(scene.cameras, row)
    if camera.projection == cameras_lib.ORTHOGRAPHIC:
      raise errors.InputError(
          f'cameras.json: photo {name}: projection: got orthographic, expected '
          'perspective or fisheye'
      )
    lens = camera_models.Lens(
        int(camera.projection), camera.intrinsics, camera.distortion
    )
    model, params = camera_models.to_colmap(lens)
    fx, fy, cx, cy = lens.intrinsics.tolist()
    rotation = camera.cam_to_world[:, :3].T
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = rotation
    extrinsic[:3, 3] = -rotation @ camera.cam_to_world[:, 3]
    entry = {
        'intrinsic': [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]],
        'extrinsic': extrinsic.tolist(),
        'width': int(camera.width),
        'height': int(camera.height),
    }
    if model != 'PINHOLE':
      entry['distortion'] = {'model': model, 'params': params}
    if masks[row] is not None:
      entry['mask'] = masks[row]
    entries[name] = entry
  return entries


def _dump(path: pathlib.Path, content: dict) -> None:
  path.write_text(json.dumps(content, indent=1), encoding='utf-8')


def convert(source, out_dir, **options) -> scene_lib.Scene:
  """Reads a scene of any format and writes it in the InfNeRF format.

  Args:
    source: scene folder.
    out_dir: folder to make.
    **options: of `write_infnerf`.

  Returns:
    The scene that was read.

  Raises:
    InputError: see `readers.load_scene` and `write_infnerf`.
  """
  scene = readers.load_scene(source)
  write_infnerf(scene, out_dir, **options)
  return scene


def prepare_colmap_data(colmap_dir, output_dir, **options) -> scene_lib.Scene:
  """Writes a COLMAP model and its photos in the InfNeRF format.

  Args:
    colmap_dir: folder with `images/` and `sparse/0`, `sparse` or the model.
    output_dir: folder to make.
    **options: of `write_infnerf`.

  Returns:
    The scene that was read.

  Raises:
    InputError: no COLMAP model, see also `convert`.
  """
  colmap_dir = pathlib.Path(colmap_dir)
  if not colmap_dir.is_dir() or not colmap.find_models(colmap_dir):
    raise errors.InputError(
        f'{colmap_dir}: got no COLMAP model, expected cameras, images and '
        'points3D as .bin or .txt in sparse/0, sparse or the folder'
    )
  scene = validate.finish(colmap.read(colmap_dir))
  write_infnerf(scene, output_dir, **options)
  return scene
